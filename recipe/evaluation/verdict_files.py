"""Figures and shortcut audit of verdicts that are in files already: no model is needed to make the tables again.

A judge's name is its file's folder without "evaluation" and "seed-<n>": seed-0/evaluation/j1/judgements.jsonl and
seed-1/evaluation/j1/judgements.jsonl are two random seeds of the judge j1, and are pooled.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.data.examples import read_examples
from recipe.data.records import Judgement, in_both_orders
from recipe.errors import SreError
from recipe.evaluation.audit import audit, figures_by_task
from recipe.evaluation.evaluate import as_written
from recipe.evaluation.trivial import RowVerdict, Said
from recipe.judge.journal import journal_of
from recipe.storage import intact, read_jsonl

VERDICTS = "judgements.jsonl"

Verdicts = dict[str, list[tuple[str, Said]]]  # judge -> (id of the row, verdict) of all its files


def audit_files(
    verdicts: Sequence[Path], rows: Sequence[str], train: Sequence[str] = (), *, resamples: int = 2000, **reading: Any
) -> dict[str, Any]:
    """{"parts": {name of the rows' file: {"models", "baselines", "against_baselines"}}}; see audit.py.

    verdicts: files that `sre judge` or an evaluation wrote, or folders of such files named judgements.jsonl; a
    verdict's id is that of its row, in either order. reading: of `rows` and `train`, see `read_rows`. Raises SreError
    where no verdict is about any of the rows.
    """
    judged = read_verdicts(verdicts)
    learnt = [row for source in train for row in read_examples(source, **reading)]
    seen = {id for found in judged.values() for id, _ in found}
    parts = {}
    for source in rows:
        by_id = {row.id: row for row in in_both_orders(read_examples(source, **reading)) if row.id in seen}
        ours = {}
        for name, found in judged.items():
            kept = [(by_id[id], verdict) for id, verdict in found if id in by_id]
            if kept:
                ours[name] = ([row for row, _ in kept], [verdict for _, verdict in kept])
        if ours:
            models = {name: figures_by_task(*pair, resamples) for name, pair in ours.items()}
            against = audit(list(by_id.values()), ours, learnt, resamples=resamples)
            parts[Path(source).stem] = {"models": models, **against}
    if not parts:
        example = next(iter(seen), "none")
        raise SreError(f"no verdict is about a row of {', '.join(rows)}; the first verdict's id is {example!r}")
    return {"parts": parts}


def read_verdicts(paths: Sequence[Path]) -> Verdicts:
    """The verdicts by judge, as they were written: a label that was forced counts as malformed."""
    found: Verdicts = {}
    for path in paths:
        files = sorted(path.rglob(VERDICTS)) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise SreError(f"expected a file of verdicts, or a folder with {VERDICTS} in it", file=path)
        for file in files:
            inside = file.relative_to(path).parts[:-1] if path.is_dir() else ()
            kept = [part for part in inside if part != "evaluation" and not re.fullmatch(r"seed-\d+", part)]
            alone = path.name if path.is_dir() else file.parent.name if file.name == VERDICTS else file.stem
            found.setdefault("/".join(kept) or alone, []).extend(_read(file))
    return found


def verdicts_of(rows: Sequence[Mapping[str, Any]], *, as_written: bool) -> dict[str, RowVerdict]:
    """Judged rows of `sre judge` by their ids. as_written: a label that was forced counts as malformed."""
    found = {}
    for row in rows:
        shares = {int(label): share for label, share in row["label_probabilities"].items()}
        forced = as_written and (row["finish"] == "forced" or not row["rationale"])
        found[row["id"]] = RowVerdict(None if forced else row["label"], row["expected_score"], shares, row["rationale"])
    return found


def _read(file: Path) -> list[tuple[str, Said]]:
    """The rows of `sre judge`, or an evaluation's judgements, whose rows are named by `example_id`."""
    if not (kept := journal_of(file)).is_file():  # of a CSV or Parquet output
        why = f"expected verdicts as JSON lines, and {kept.name}, which sre judge keeps beside a table, is missing"
        raise SreError(f"{why}; judge the rows again with -o {file.stem}.jsonl", file=file)
    rows = read_jsonl(kept)
    found: list[tuple[str, Said]] = []
    # Where no row has a rationale, none was asked for.
    explained = any(row.get("rationale") for row in rows)
    for line, row in enumerate(rows, 1):
        with intact(kept, line):
            if "example_id" in row:
                (judgement,) = as_written([Judgement.from_json(row)])
                found.append((judgement.example_id, judgement))
            elif "label_probabilities" not in row:
                raise SreError("expected a row that sre judge or sre evaluate wrote", file=kept, line=line)
            else:
                found += verdicts_of([row], as_written=explained).items()
    return found
