"""One row's columns -> Example. Knows no files.

`from_columns` reads any columns by our names of them (columns.py), `from_own` rows of `Example.to_json()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from recipe.data.benchmark_formats import GENERAL, Layout
from recipe.data.columns import LABEL, LEVELS, RESPONSES, advice, column_of, recognise
from recipe.data.files import RawRow
from recipe.data.records import TASKS, Example, Message, Rubric, Task
from recipe.data.rubric_text import split_rubric
from recipe.data.values import (
    TIE,
    conversation_id,
    missing,
    no_label,
    parsed,
    short,
    short_hash,
    to_conversation,
    to_preference,
    to_rubric,
    to_score,
    to_text,
    turns_in,
)
from recipe.errors import SreError

Conversation = tuple[Message, ...]
Rubrics = Mapping[Task, Rubric]


class _Row:
    """A row by our names; its errors name its own columns."""

    def __init__(self, raw: RawRow, names: dict[str, str]) -> None:
        self.raw, self.names = raw, names

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Any:
        return self.raw.row[self.names[name]] if name in self.names else None

    def error(self, message: str, name: str) -> SreError:
        return self.raw.error(message, column_of(name, self.raw.row, self.names))

    def within(self, name: str, error: SreError) -> SreError:
        return self.error(str(error).removeprefix(f"field {error.field!r}: "), name)

    def text(self, name: str) -> str:
        """A text that may be missing; a number counts as its text."""
        return _as_text(self[name], column_of(name, self.raw.row, self.names))

    def name(self, name: str) -> str:
        """An id or the like: a text or a number, "" for anything else."""
        value = self[name]
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return "" if isinstance(value, bool) or not isinstance(value, str | Real) else self.text(name).strip()

    def turns(self, name: str) -> Conversation:
        """The turns that a column holds, () where it holds none."""
        try:
            found = turns_in(self[name])
            return to_conversation(found) if found else ()
        except SreError as error:
            raise self.within(name, error) from None


def from_columns(
    raw: RawRow,
    names: dict[str, str],
    mapped: Mapping[str, str],
    layout: Layout | None,
    part: str,
    task: Task | None,
    rubrics: Rubrics,
) -> Example:
    """The example that a row of any recognised columns holds.

    Args:
        raw: the row.
        names: filled with our name -> the row's column.
        mapped: those that the user named.
        layout: the published layout of the row, if it has one.
        part: which of the rows of its layout this is, "" where it is the only one.
        task: the only one that is wanted.
        rubrics: task -> the rubric of rows that bring none.

    Raises:
        SreError: a column is missing or holds something else than expected.
    """
    names |= recognise(raw, mapped)
    names |= {name: column for name, column in (layout.names if layout else {}).items() if column in raw.row}
    row = _Row(raw, names)
    kind = _task(row, task)
    sides = _sides(row, kind)
    before, responses = _responses(row, sides)
    conversation = _conversation(row, before, whole=sides == ("messages",))
    label: int | None = None
    note = ""
    if sides == ("chosen", "rejected"):
        # By content: a judge that prefers a position gains nothing, and the order is the same on every machine.
        prompt = raw.row[names["instruction"]] if "instruction" in names else None
        second = short_hash([prompt, row["chosen"], row["rejected"]])[-1] in "13579bdf"
        responses, label = (responses[::-1], 2) if second else (responses, 1)
    rubric = _rubric(row, kind, layout, rubrics)
    if label is None:
        label, note = _label(row[LABEL[kind]], kind, rubric)
    name = row.name("id") or f"{raw.stem}-{raw.line}"
    if layout and layout.id_columns and all(not missing(raw.row.get(column)) for column in layout.id_columns):
        name = layout.id_separator.join(str(raw.row[column]) for column in layout.id_columns)
    return Example(
        id=f"{name.removesuffix(f':{part}')}:{part}" if part else name,
        prompt_id=row.name("prompt_id") or conversation_id(conversation),
        origin=row.name("origin") if layout is None and row.name("origin") else f"{Path(raw.file).name}:{raw.line}",
        aspect=row.name("aspect"),
        task=kind,
        conversation=conversation,
        responses=responses,
        rubric=rubric,
        label=label,
        label_note=note,
        rationale=row.text("rationale"),
        reference=_reference(row),
    )


def _task(row: _Row, task: Task | None) -> Task:
    """By the columns of responses; where a row has both kinds (a CSV file of both tasks), by what is filled in."""
    pair = ("response_a" in row and "response_b" in row) or ("chosen" in row and "rejected" in row)
    alone = "response" in row or ("messages" in row and not pair)
    found: list[Task] = [kind for kind, there in zip(TASKS, (alone, pair), strict=True) if there]
    if len(found) == 2:
        labelled = [kind for kind in TASKS if not no_label(row[LABEL[kind]])]
        filled = [kind for kind in TASKS if any(row[name] not in (None, "") for name in RESPONSES[kind])]
        found = labelled if len(labelled) == 1 else filled
    if task and found and task not in found:
        raise row.error(f"expected a {task} row, not a {found[0]} one", RESPONSES[task][0])
    if len(found) == 2 and not task:
        raise row.error("can't tell pointwise from pairwise: one response and a pair are there", "response")
    if not found:
        lacking = tuple(name for name in ("instruction", "response") if name not in row and "messages" not in row)
        raise row.error(f"no response here; {_advice(row, lacking or ('response',))}", "response")
    return task or found[0]


def _advice(row: _Row, lacking: tuple[str, ...]) -> str:
    return advice(row.raw.row, row.names, lacking, rubric="criteria" not in row)


def _sides(row: _Row, kind: Task) -> tuple[str, ...]:
    """The columns that hold the responses."""
    names: tuple[str, ...] = RESPONSES[kind]
    if kind == "pairwise":
        return names if all(name in row for name in names) else ("chosen", "rejected")
    return names if names[0] in row else ("messages",)


def _responses(row: _Row, sides: tuple[str, ...]) -> tuple[Conversation, tuple[str, ...]]:
    """The responses' texts, and the turns before the first where it comes as a whole conversation."""
    before: Conversation = ()
    texts = []
    for name in sides:
        turns = row.turns(name)
        if not turns:
            texts.append(row.text(name))
            continue
        if turns[-1].role != "assistant":
            message = f"expected the assistant's turn at the end, not the {turns[-1].role}'s; it is what is judged"
            raise row.error(message, name)
        before = before or turns[:-1]
        texts.append(turns[-1].content)
    return before, tuple(texts)


def _conversation(row: _Row, before: Conversation, *, whole: bool) -> Conversation:
    """What was said before the responses; `whole`: they were cut off a whole conversation."""
    turns = before if whole else row.turns("instruction")
    if not turns and row["instruction"] not in (None, ""):
        texts = [row.text("instruction"), row.text("input"), _context(row)]
        turns = (Message("user", "\n\n".join(text for text in texts if text)),)
    turns = turns or row.turns("messages") or before
    if not turns:
        raise row.error(
            f"no instruction, and no turns before the response; {_advice(row, ('instruction',))}", "instruction"
        )
    system = row.text("system")
    return (Message("system", system), *turns) if system and turns[0].role != "system" else turns


def _context(row: _Row) -> str:
    """The retrieved texts that the response was to go by."""
    texts = _texts(row, "context")
    return "Context:\n" + "\n\n".join(texts) if texts else ""


def _reference(row: _Row) -> str:
    return "\n".join(_texts(row, "reference"))


def _texts(row: _Row, name: str) -> list[str]:
    """A column of one text or a list of them."""
    value, field = row[name], column_of(name, row.raw.row, row.names)
    if isinstance(value, str) and value.lstrip().startswith("[") and field.endswith("s"):  # a list in a CSV file
        read = parsed(value)
        value = read if isinstance(read, list) else value
    found = value if isinstance(value, list) else [None if no_label(value) else value]
    return [text for item in found if (text := _as_text(item, field)).strip()]


def _as_text(value: object, field: str) -> str:
    if missing(value):
        return ""
    return str(value) if isinstance(value, Real) and not isinstance(value, bool) else to_text(value, field)


def _rubric(row: _Row, kind: Task, layout: Layout | None, rubrics: Rubrics) -> Rubric:
    value = row["criteria"]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parsed(value) or value
    if no_label(value):
        # Two responses can be compared without criteria; a score means nothing without them.
        general = kind == "pairwise" or (layout and layout.name.startswith("alpaca"))
        found = rubrics.get(kind) or (GENERAL[kind] if general and not _published(row) else None)
        if found is None:
            message = f"no criteria to judge by (--map criteria=COLUMN names a column of them); {_advice(row, ())}"
            raise row.error(message, "criteria")
        return found
    levels = _levels(row)
    try:
        if isinstance(value, str) and not levels and not _published(row):
            value = split_rubric(to_text(value, "rubric"))
        return to_rubric({"criteria": value, "descriptions": levels} if isinstance(value, str) else value)
    except SreError as error:
        raise row.within("criteria", error) from None


def _published(row: _Row) -> bool:
    """Whether it has the published collections' columns, which are read as they stand."""
    return any(str(column).startswith("orig_") for column in row.raw.row)


def _levels(row: _Row) -> dict[int, str]:
    """The described scores: a scale without gaps, or none."""
    texts = {score: row.text(name) for score, name in enumerate(LEVELS)}
    found = {score: text for score, text in texts.items() if text.strip() and not no_label(text)}
    for score in range(min(found, default=0), max(found, default=0)):
        if score not in found:
            column = re.sub(r"\d+", str(score), row.names[f"score{max(found)}"], count=1)
            raise row.raw.error("expected a description of each score of the scale, or of none", column)
    return found


def _label(value: object, kind: Task, rubric: Rubric) -> tuple[int | None, str]:
    """The label, and a note where there is a value that is none."""
    try:
        found = to_score(value, rubric.scores, "") if kind == "pointwise" else to_preference(value, "")
    except SreError as error:
        return None, str(error).removeprefix("field '': ")
    return (None, "tie") if kind == "pairwise" and found == TIE else (found, "")


def from_own(raw: RawRow, task: Task | None, rubrics: Rubrics) -> Example:
    """A row of `Example.to_json()`; id, prompt_id and origin may be left out."""
    row = _Row(raw, {name: name for name, value in raw.row.items() if not missing(value)})
    kind: Task = raw.row.get("task")
    allowed = (task,) if task else TASKS
    if kind not in allowed:
        raise raw.error(f"expected {' or '.join(allowed)}, not {short(kind)}", "task")
    # In a CSV file, lists and mappings are their JSON text.
    responses, turns, rubric = (
        parsed(value) if isinstance(value, str) else value
        for value in map(raw.row.get, ("responses", "conversation", "rubric"))
    )
    if not isinstance(responses, list) or len(responses) != len(RESPONSES[kind]):
        raise raw.error(
            f"expected a list of {len(RESPONSES[kind])} for a {kind} row, not {short(responses)}", "responses"
        )
    conversation = to_conversation(turns)
    rubric = to_rubric(rubric or rubrics.get(kind))
    label, note = _label(raw.row.get("label"), kind, rubric)
    return Example(
        id=row.name("id") or f"{raw.stem}-{raw.line}",
        prompt_id=row.name("prompt_id") or conversation_id(conversation),
        origin=row.name("origin") or f"{Path(raw.file).name}:{raw.line}",
        aspect=row.name("aspect"),
        task=kind,
        conversation=conversation,
        responses=tuple(to_text(text, "responses", "a response as a string") for text in responses),
        rubric=rubric,
        label=label,
        label_note=note,
        rationale=row.text("rationale"),
        reference=row.text("reference"),
    )
