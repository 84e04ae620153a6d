"""A file of rows -> a file of judgements, resumable. Knows nothing of figures of agreement (evaluation/).

A line of the output, in the order in which judgements finish:

    {"id": "rows-7", "task": "pointwise", "label": 3, "expected_score": 2.8, "rationale": "A brick is no
    fruit.",
     "finish": "stop", "label_probabilities": {"1": 0.02, ..., "5": 0.1}, "truth": 3, "input": "8f0c1e..."}

`truth` is there where the source has a label, `error` where the engine failed, `text` where it is malformed.
`input` is a hash of what was judged, so that a resume sees when a row with the same id has changed. Beside
the output, `<out>.meta.json` says with which model, prompts and settings it was made: a resume with others is
refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.judge.judge import MAX_TOKENS, Judge, expected_score, label_probabilities
from recipe.progress import bar
from recipe.rows import Example, Judgement, Task
from recipe.run import append_jsonl, canonical, explain, hash_object, read_json, write_json
from recipe.sources import read_examples

STDOUT = "-"
BLOCK = 16
"""Rows written and synced at once: what a kill can lose."""

Progress = Callable[[int, int], None]


@dataclass
class Summary:
    """What became of the rows. `rows` = those in the output now, `resumed` of them from an earlier run.

    malformed: rows without a label that were judged. errors: rows that the engine could not judge. labels:
    how often each label was given, over all rows. seconds: wall time of this run, rows_per_second over what
    it judged.
    """

    rows: int = 0
    resumed: int = 0
    malformed: int = 0
    errors: int = 0
    seconds: float = 0.0
    labels: dict[int, int] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        kept = f" ({self.resumed} kept from before)" if self.resumed else ""
        labels = ", ".join(f"{label}: {count}" for label, count in self.labels.items())
        return (
            f"{self.rows} rows{kept}, {self.malformed} malformed, {self.errors} not judged, "
            f"{self.rows_per_second:.1f} rows/s; labels {labels or 'none'}"
        )


def judge_file(
    judge: Judge,
    source: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    task: Task | None = None,
    split: str = "train",
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
    constrain: bool = True,
    label_only: bool = False,
    skip_bad_rows: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Judge every row of `source` (see `sources.read_examples`; labels may be missing) once, into `out`.

    out: a JSON-lines file, or "-" for standard output. resume: keep the rows that `out` has and judge the
    others. overwrite: begin it anew. progress: called with (rows done, rows in all) after each row. Rows are
    appended in blocks of BLOCK that are synced to disk; an interrupt loses none that was finished.

    Raises SreError: `out` exists and neither flag is given; a resume with another model, other prompts,
    settings or rows; bad rows; no space. A row that the engine can't judge is written with its error and
    counted instead.
    """
    if resume and (overwrite or str(out) == STDOUT):
        raise SreError(f"resume can't be combined with {'overwrite' if overwrite else 'standard output'}")
    examples = read_examples(source, task=task, split=split, need_label=False, limit=limit, skip_bad_rows=skip_bad_rows)
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "constrain": constrain,
        "label_only": label_only,
    }
    summary = Summary()
    done: set[str] = set()
    if str(out) != STDOUT:
        header = {"model": judge.fingerprint, "prompts": judge.prompts.digest, "settings": settings}
        done = _prepare(Path(out), header, examples, summary, resume=resume, overwrite=overwrite)
    waiting = {example.id: example for example in examples if example.id not in done}
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    try:
        for judgement in judge.judge(list(waiting.values()), **settings) if waiting else ():
            example = waiting[judgement.example_id]
            rows.append(_row(example, judgement, judge.errors.get(example.id)))
            _count(summary, rows[-1])
            if len(rows) >= BLOCK:
                _write(out, rows)
                rows = []
            if progress:
                progress(summary.rows, len(done) + len(waiting))
    finally:
        _write(out, rows)
    summary.seconds = time.monotonic() - start
    summary.labels = dict(sorted(summary.labels.items()))
    return summary


def _row(example: Example, judgement: Judgement, error: str | None) -> dict[str, Any]:
    row = {
        "id": example.id,
        "task": example.task,
        "label": judgement.label,
        "expected_score": expected_score(judgement),
        "rationale": judgement.rationale,
        "finish": judgement.finish,
        "label_probabilities": {str(k): p for k, p in label_probabilities(judgement).items()},
        "input": _input_hash(example),
    }
    if example.label is not None:
        row["truth"] = example.label
    if error is not None:
        row["error"] = error
    elif judgement.label is None:
        row["text"] = judgement.text
    return row


def _input_hash(example: Example) -> str:
    """Of what the judge sees: a corrected label or rationale changes nothing."""
    seen = ("task", "conversation", "responses", "rubric", "reference")
    row = example.to_json()
    return hash_object({name: row[name] for name in seen})[:16]


def _count(summary: Summary, row: Mapping[str, Any]) -> None:
    summary.rows += 1
    label = row["label"]
    if label is not None:
        summary.labels[label] = summary.labels.get(label, 0) + 1
    elif row["finish"] == "error":
        summary.errors += 1
    else:
        summary.malformed += 1


def _write(out: str | Path, rows: list[dict[str, Any]]) -> None:
    if str(out) == STDOUT:
        sys.stdout.writelines(canonical(row) + "\n" for row in rows)
        sys.stdout.flush()
    elif rows:
        append_jsonl(Path(out), rows)


def _prepare(
    out: Path,
    header: Mapping[str, Any],
    examples: Iterable[Example],
    summary: Summary,
    *,
    resume: bool,
    overwrite: bool,
) -> set[str]:
    """Make `out` and its sidecar ready to be appended to; count and return the ids of rows it keeps."""
    sidecar = out.with_name(f"{out.name}.meta.json")
    if out.exists() and resume:
        _refuse_other_settings(sidecar, header)
        return _kept(out, {example.id: _input_hash(example) for example in examples}, summary)
    if out.exists() and not overwrite:
        raise SreError("the output exists; use --resume to go on with it, or --overwrite", file=out)
    try:
        # First the old rows go: killed in between, they must not stand beside the new settings.
        out.unlink(missing_ok=True)
        write_json(sidecar, header)
        out.touch()
    except OSError as error:
        raise explain(error, out) from None
    return set()


def _refuse_other_settings(sidecar: Path, header: Mapping[str, Any]) -> None:
    if not sidecar.exists():
        raise SreError("can't resume: the file that tells how the output was made is missing", file=sidecar)
    before = read_json(sidecar)
    old, new = ({**made, **made.get("settings", {})} for made in (before, dict(header)))
    differing = [key for key in new if key != "settings" and old.get(key) != new[key]]
    if differing:
        changes = ", ".join(f"{key} ({_brief(old.get(key))}, now {_brief(new[key])})" for key in differing)
        raise SreError(f"can't resume: made with other {changes}; use --overwrite, or another output", file=sidecar)


def _brief(value: object) -> str:
    return str(value)[:12]


def _kept(out: Path, inputs: Mapping[str, str], summary: Summary) -> set[str]:
    """Cut off a half-written last line, check the rows against the source's, count them."""
    whole = out.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    rows: list[dict[str, Any]] = []
    for line, data in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            row = json.loads(data)
            key, digest = row["id"], row["input"]
        except (ValueError, KeyError, TypeError):
            message = "expected a row of an earlier run; use --overwrite, or another output"
            raise SreError(message, file=out, line=line) from None
        if inputs.get(key, digest) != digest:
            message = f"the source's row {key!r} has changed since it was judged; use --overwrite"
            raise SreError(message, file=out, line=line)
        rows.append(row)
    twice = [key for key, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise SreError(f"the row {twice[0]!r} is there twice; use --overwrite, or another output", file=out)
    with out.open("r+b") as file:
        file.truncate(len(whole))
    for row in rows:
        _count(summary, row)
    summary.resumed = summary.rows
    return {row["id"] for row in rows}


def judge_with_bar(source: str, out: str, model: Path, *, threads: int | None = None, **options: Any) -> Summary:
    """`judge_file` with the judge in a GGUF file and a progress bar: what `sre judge` does."""
    with Judge.from_gguf(model, threads=threads) as judge, bar(f"judging with {judge.name}", 0, "rows") as advance:
        return judge_file(judge, source, out, progress=lambda done, total: advance(1, total=total), **options)
