"""Rows of files, folders and hub data sets -> Example. Knows no prompt, model or stage."""

import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recipe.data import benchmark_formats as layouts
from recipe.data.columns import Names, ReadRow, Row, column_map, recognise
from recipe.data.conversion import Rubrics, from_columns, from_own
from recipe.data.files import Source
from recipe.data.notices import FIRST_ROWS, notices
from recipe.data.records import Example, Task, contradicts_itself, in_prompt_names
from recipe.data.rubrics import is_ready
from recipe.data.values import TIE, no_label, parsed, short, to_preference, to_rubric, to_score, unclear, whole
from recipe.errors import SreError, plural, printable
from recipe.storage import atomic

_log = logging.getLogger("recipe.data.examples")


def read_examples(
    source: str | Path,
    *,
    need_label: bool = True,
    need_rationale: bool = False,
    skip_bad_rows: Path | None = None,
    tell: Callable[[str], None] | None = None,
    **reading: Any,
) -> list[Example]:
    """Read the rows of a source to train or measure with, in its order.

    A pairwise rationale is rewritten to the prompt's names of the responses (see naming.py). A warning says how many
    rows were left out or changed.

    need_label: leave out ties and rows without a label, and refuse odd labels. need_rationale: leave out rows without a
    rationale, and those whose rationale prefers the other response. skip_bad_rows: a file for bad rows, as JSON lines;
    without it, the first one is an error. tell: called with a line for each thing to know, also about how the columns
    are read. reading: see `read_rows`. Raises SreError where nothing can be read, and for a bad row.
    """
    examples, bad, places = list[Example](), list[dict[str, Any]](), dict[str, Row]()
    told: Counter[tuple[str, str]] = Counter()
    unexplained_in, unlabelled = None, None
    verdicts, has_truth = set[str](), False
    rows = read_rows(source, strict=True, **reading)
    first = list(itertools.islice(rows, FIRST_ROWS)) if tell else []
    say = tell or partial(_log.warning, "%s")
    for line in notices(first, reading.get("rubrics") or {}):
        say(printable(f"{source}: {line}"))
    for row in itertools.chain(first, rows):
        if row.example is None and row.error is None:
            told["row", "left out as not judged"] += 1
            continue
        try:
            example = _checked(row, need_label, places)
        except SreError as error:
            pair = row.example is not None and row.example.task == "pairwise"
            if skip_bad_rows is None or (pair and unclear(error.message)):  # then other rows may be read wrongly
                raise
            place = {"file": row.raw.file, "line": row.raw.line, "field": error.field}
            bad.append({**place, "error": str(error), "row": row.raw.cells})
            told["bad row", f"skipped, written to {skip_bad_rows}"] += 1
            continue
        if layouts.judged(row.raw.cells):
            if layouts.has_truth(row.raw.cells):
                has_truth = True
            elif example.label is not None:
                verdicts.add(example.id)
        if is_ready(example.rubric) and not tell:
            told["row", "with a ready rubric's name as criteria, which stands for it"] += 1
        if tell and not all(response.strip() for response in example.responses):
            told["row", "with an empty response, taken like the others"] += 1
        named = in_prompt_names(example)
        if need_rationale and named != example:
            told["rationale", "made to say Response 1 and Response 2, as the prompt does"] += 1
        if need_label and example.label is None:
            tie = example.label_note == "tie"
            told["tie" if tie else "row", "left out" if tie else "without a label left out"] += 1
            unlabelled = unlabelled or (None if tie else (row.raw, row.raw.label(example.task)))
        elif need_rationale and not named.rationale.strip():
            told["row", "without a rationale left out"] += 1
            unexplained_in = row.raw.column("rationale")
        elif need_rationale and contradicts_itself(named):
            told["row", "set aside, as the rationale prefers the other response"] += 1
        else:
            examples.append(named)
    if verdicts and has_truth:
        told["judged row", "left out without a label of its own, as others had one"] = len(verdicts)
        examples = [example for example in examples if example.id not in verdicts]
    elif verdicts:
        told["judged row", "taken with the judge's label, as no row had one of its own"] = len(verdicts)
    if skip_bad_rows is not None:
        with atomic(skip_bad_rows) as file:  # in ASCII: a bad row may hold lone surrogates, which no encoding writes
            file.writelines(json.dumps(entry, default=str) + "\n" for entry in bad)
    for (what, how), count in told.items():
        say(printable(f"{source}: {plural(count, what)} {how}"))
    if not examples and unexplained_in:
        why = "no row has a rationale, from which SFT learns"
        advice = 'sft.rationales = "bootstrap" lets a model write them, sft.label_only = true does without'
        raise SreError(f"{why}; {advice}", file=source, field=unexplained_in)
    if not examples and unlabelled:
        raw, name = unlabelled
        why = "the label is missing, as in every row"
        raise raw.error_about(name, why) if name in raw else raw.error_without(name, why, name, rubric=False)
    if not examples:
        cause = f"every row is bad, see {skip_bad_rows}" if bad else "no rows; expected one or more"
        raise SreError(cause, file=source)
    return examples


def read_rows(
    source: str | Path,
    *,
    task: Task | None = None,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    rubrics: Rubrics | None = None,
    scale: Sequence[int] = (),
    strict: bool = False,
) -> Iterator[ReadRow]:
    """Stream the rows of a source in its order, bad ones among them.

    An odd label is no error: the example's `label_note` says what it was. A row whose id was there before gets another.

    source, split: see `Source`. task: only rows of it; None tells each row's task from its columns. limit: only the
    first n rows, bad ones included. columns: our name -> the source's column, for columns that aren't recognised.
    rubrics: of rows that bring none. scale: the scores of rubrics that describe none, where they are not 1 to 5.
    strict: read to train or measure with. Ids stay as they are, and rows that `sre judge` wrote bring its labels where
    they had none.
    """
    if limit is not None and limit < 1:
        raise SreError(f"limit must be at least 1, not {limit}")
    mapped, seen = column_map(columns or {}), set[int]()
    for raw in itertools.islice(Source(str(source), task, split).rows(), limit and min(limit, sys.maxsize)):
        for row in _read(raw, mapped, task, rubrics or {}, scale, strict):
            name = row.id
            while not strict and hash(name) in seen:
                name = f"{row.id}-{row.raw.line}" if name == row.id else f"{name}'"
            seen.add(hash(name))  # hashes are small
            yield replace(row, id=name, example=row.example and replace(row.example, id=name))


def _read(
    raw: Row, mapped: Names, task: Task | None, rubrics: Rubrics, scale: Sequence[int], strict: bool
) -> Iterator[ReadRow]:
    """The row, or the rows that it stands for in its layout."""
    if raw.problem or not isinstance(raw.cells, dict):
        error = raw.error(raw.problem or f"expected a JSON object, not {short(raw.cells)}")
        yield ReadRow(raw.place, raw, error=error)
        return
    judged = layouts.judged(raw.cells)
    if judged and strict and no_label(raw.cells["label"]) and whole(raw.cells.get("truth")) is None:
        yield ReadRow(raw.place, raw)
        return
    given = layouts.unjudged(raw.cells) if judged else raw.cells
    layout = None if mapped else layouts.layout_of(given)
    try:
        parts = list(layouts.unfolded(given, layout))
    except SreError as error:
        yield ReadRow(raw.place, raw, error=_placed(error, raw))
        return
    for part, cells in parts:
        row = replace(raw, cells=cells)
        try:
            if "responses" in row.cells and "task" in row.cells:
                example = from_own(row, task, rubrics)
            else:
                named = {ours: theirs for ours, theirs in layout.names.items() if theirs in cells} if layout else mapped
                row = replace(row, names=recognise(cells, named))
                example = from_columns(row, layout, part, task, rubrics, scale)
            if judged:
                example = _with_verdict(example, raw.cells, strict)
        except SreError as error:
            own = cells.get(row.names.get("id", "id"))
            name = own if isinstance(own, str) and own and own.isprintable() else raw.place
            yield ReadRow(name, replace(raw, names=row.names), error=_placed(error, raw))
        else:
            # A judged row is one of those that its layout's row stands for.
            if not (judged and part) or str(raw.cells.get("id")).endswith(f":{part}"):
                yield ReadRow(example.id, replace(raw, names=row.names), example)


def _with_verdict(example: Example, row: Mapping[str, Any], strict: bool) -> Example:
    """The example of a judged row. Its label is the truth that it was judged against; without one, to train with, it is
    the judge's. The judge's rationale stands for a missing one where it argues for the label."""
    rubric = parsed(row["rubric"]) if isinstance(row.get("rubric"), str) else row.get("rubric")
    if isinstance(rubric, Mapping):  # one that was given, and stands in no column of the input
        example = replace(example, rubric=to_rubric(rubric))
    truth, note = whole(row.get("truth")), row.get("truth_note")
    if truth is None:
        note = "" if no_label(note) else example.label_note or str(note)
        example = replace(example, label=None, label_note=note, rationale="")
    elif truth in example.labels:
        example = replace(example, label=truth, label_note="")
    if not strict or example.label_note:
        return example
    given, rationale = row.get("label"), str(row.get("rationale") or "")
    read = to_score(given, example.labels, "label") if example.task == "pointwise" else to_preference(given, "label")
    if example.label is None:
        return replace(example, label=None if example.task == "pairwise" and read == TIE else read, rationale=rationale)
    return replace(example, rationale=example.rationale or (rationale if read == example.label else ""))


def _checked(row: ReadRow, need_label: bool, places: dict[str, Row]) -> Example:
    """The row's example, if it has what a training set needs. Raises SreError otherwise."""
    raw, example = row.raw, row.example
    if example is None:
        raise row.error or raw.error("can't be read")
    before = places.setdefault(example.id, raw)
    if before is not raw:
        place = f"line {before.line}" if before.file == raw.file else f"{before.file}, line {before.line}"
        cure = f"where it is that of the question, add --map prompt_id={raw.column('id')}"
        raise raw.error(f"{short(example.id)} is already the id of {place}; ids must differ; {cure}", "id")
    if need_label and example.label is None and example.label_note not in ("", "tie"):
        raise raw.error_about(raw.label(example.task), example.label_note)
    return example


def _placed(error: SreError, raw: Row) -> SreError:
    return error if error.file is not None else raw.error(error.message, error.field)
