"""A row -> the Example that it holds. Knows no files.

Rows of `Example.to_json()` have a task and a list of responses. All others are read by the names of their columns.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from recipe.data.benchmark_formats import GENERAL, Layout
from recipe.data.columns import LABEL, LEVELS, RESPONSES, Names, advice, column_of
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
    """A row whose columns go by our names. Its errors cite the columns of the file."""

    def __init__(self, raw: RawRow, names: Names) -> None:
        self.raw, self.names = raw, names

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Any:
        return self.raw.row[self.names[name]] if name in self.names else None

    def column(self, name: str) -> str:
        return column_of(name, self.raw.row, self.names)

    def error(self, message: str, name: str) -> SreError:
        return self.raw.error(message, self.column(name))

    def advice(self, *lacking: str) -> str:
        return advice(self.raw.row, self.names, lacking, rubric="criteria" not in self)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """An error about a value becomes one about its column."""
        try:
            yield
        except SreError as error:
            raise self.error(error.message, name) from None

    def text(self, name: str) -> str:
        """A text, "" where it is missing. A number counts as its text."""
        return _as_text(self[name], self.column(name))

    def texts(self, name: str) -> list[str]:
        """A column of one text or of a list of texts."""
        value, column = self[name], self.column(name)
        if isinstance(value, str) and value.lstrip().startswith("[") and column.endswith("s"):  # a list in a CSV file
            read = parsed(value)
            value = read if isinstance(read, list) else value
        found = value if isinstance(value, list) else [None if no_label(value) else value]
        return [text for item in found if (text := _as_text(item, column)).strip()]

    def name(self, name: str) -> str:
        """An id or the like, a text or a number; "" for anything else."""
        value = self[name]
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return "" if isinstance(value, bool) or not isinstance(value, str | Real) else self.text(name).strip()

    def turns(self, name: str) -> Conversation:
        """The turns that a column holds; () where it holds none."""
        with self.reading(name):
            found = turns_in(self[name])
            return to_conversation(found) if found else ()

    @property
    def published(self) -> bool:
        """Whether it has the columns of the published collections, whose values are read as they are."""
        return any(str(column).startswith("orig_") for column in self.raw.row)


def _as_text(value: object, column: str) -> str:
    if missing(value):
        return ""
    return str(value) if isinstance(value, Real) and not isinstance(value, bool) else to_text(value, column)


def from_columns(
    raw: RawRow,
    names: Names,
    layout: Layout | None,
    part: str,
    task: Task | None,
    rubrics: Rubrics,
    scale: Sequence[int] = (),
) -> Example:
    """The example of a row whose columns were recognised.

    Args:
        raw: The row.
        names: Our name -> the row's column.
        layout: The row's published layout, if it has one.
        part: Which of the rows of its layout this is, "" where it is the only one.
        task: The only one that is wanted.
        rubrics: Task -> the rubric of rows that bring none.
        scale: The scores of a rubric that describes none, where they are not 1 to 5.

    Raises:
        SreError: A column is missing or holds something else than expected.
    """
    row = _Row(raw, names)
    kind = _task(row, task)
    columns = _response_columns(row, kind)
    before, responses = _responses(row, columns)
    conversation = _conversation(row, before, whole=columns == ("messages",))
    rubric = _rubric(row, kind, layout, rubrics)
    if columns == ("chosen", "rejected"):
        # The content decides the order, so that a judge gains nothing by preferring a position.
        first = short_hash([row["instruction"], row["chosen"], row["rejected"]])[-1] in "02468ace"
        responses = responses if first else responses[::-1]
        value: object = 1 if first else 2
    else:
        value = row[LABEL[kind]]
    label, note = _label(value, kind, scale if scale and not rubric.descriptions else rubric.scores)
    name = row.name("id")
    if layout and layout.id_columns and all(not missing(raw.row.get(column)) for column in layout.id_columns):
        name = layout.id_separator.join(str(raw.row[column]) for column in layout.id_columns)
    if part:
        name = f"{(name or _place(raw)).removesuffix(f':{part}')}:{part}"
    return _example(row, name, kind, conversation, responses, rubric, label, note)


def from_own(raw: RawRow, task: Task | None, rubrics: Rubrics) -> Example:
    """A row of `Example.to_json()`; id, prompt_id and origin may be left out. Raises SreError for odd values."""
    row = _Row(raw, {name: name for name, value in raw.row.items() if not missing(value)})
    kind: Task = raw.row.get("task")
    allowed = (task,) if task else TASKS
    if kind not in allowed:
        raise raw.error(f"expected {' or '.join(allowed)}, not {short(kind)}", "task")
    # In a CSV file, lists and mappings are JSON texts.
    responses, turns, rubric = (
        parsed(value) if isinstance(value, str) else value
        for value in map(raw.row.get, ("responses", "conversation", "rubric"))
    )
    count = len(RESPONSES[kind])
    if not isinstance(responses, list) or len(responses) != count:
        raise raw.error(f"expected a list of {count} for a {kind} row, not {short(responses)}", "responses")
    rubric = to_rubric(rubric or rubrics.get(kind))
    texts = tuple(to_text(text, "responses", "a response as a string") for text in responses)
    label, note = _label(raw.row.get("label"), kind, rubric.scores)
    return _example(row, row.name("id"), kind, to_conversation(turns), texts, rubric, label, note)


def _example(
    row: _Row,
    name: str,
    task: Task,
    conversation: Conversation,
    responses: tuple[str, ...],
    rubric: Rubric,
    label: int | None,
    note: str,
) -> Example:
    """The example, with what both kinds of rows have in equal columns."""
    return Example(
        id=name or _place(row.raw),
        prompt_id=row.name("prompt_id") or conversation_id(conversation),
        origin=row.name("origin") or f"{Path(row.raw.file).name}:{row.raw.line}",
        aspect=row.name("aspect"),
        task=task,
        conversation=conversation,
        responses=responses,
        rubric=rubric,
        label=label,
        label_note=note,
        rationale=row.text("rationale"),
        reference="\n".join(row.texts("reference")),
    )


def _place(raw: RawRow) -> str:
    return f"{raw.stem}-{raw.line}"


def _task(row: _Row, wanted: Task | None) -> Task:
    """The task that the columns of responses tell. A table of both tasks has both; then it is what is filled in."""
    pair = ("response_a" in row and "response_b" in row) or ("chosen" in row and "rejected" in row)
    alone = "response" in row or ("messages" in row and not pair)
    found: list[Task] = [kind for kind, there in zip(TASKS, (alone, pair), strict=True) if there]
    if len(found) == 2:
        labelled = [kind for kind in TASKS if not no_label(row[LABEL[kind]])]
        filled = [kind for kind in TASKS if any(row[name] not in (None, "") for name in RESPONSES[kind])]
        found = labelled if len(labelled) == 1 else filled
    if wanted and found and wanted not in found:
        raise row.error(f"expected a {wanted} row, not a {found[0]} one", RESPONSES[wanted][0])
    if len(found) == 2 and not wanted:
        raise row.error("can't tell pointwise from pairwise: one response and a pair are there", "response")
    if not found:
        lacking = tuple(name for name in ("instruction", "response") if name not in row and "messages" not in row)
        raise row.error(f"no response here; {row.advice(*(lacking or ('response',)))}", "response")
    return wanted or found[0]


def _response_columns(row: _Row, kind: Task) -> tuple[str, ...]:
    names = RESPONSES[kind]
    if all(name in row for name in names):
        return names
    return ("messages",) if kind == "pointwise" else ("chosen", "rejected")


def _responses(row: _Row, columns: tuple[str, ...]) -> tuple[Conversation, tuple[str, ...]]:
    """(the turns before the first response, if it comes as a whole conversation, the texts of the responses)"""
    before: Conversation = ()
    texts = []
    for name in columns:
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
    """What was said before the responses. `whole`: `before` was cut off the column `messages`."""
    turns = before if whole else row.turns("instruction")
    if not turns and row["instruction"] not in (None, ""):
        contexts = row.texts("context")
        retrieved = "Context:\n" + "\n\n".join(contexts) if contexts else ""
        texts = [row.text("instruction"), row.text("input"), retrieved]
        turns = (Message("user", "\n\n".join(text for text in texts if text)),)
    turns = turns or row.turns("messages") or before
    if not turns:
        message = f"no instruction, and no turns before the response; {row.advice('instruction')}"
        raise row.error(message, "instruction")
    system = row.text("system")
    return (Message("system", system), *turns) if system and turns[0].role != "system" else turns


def _rubric(row: _Row, kind: Task, layout: Layout | None, rubrics: Rubrics) -> Rubric:
    value = row["criteria"]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parsed(value) or value
    if no_label(value):
        # Two responses can be compared without criteria; a score means nothing without them.
        general = (kind == "pairwise" and not row.published) or (layout and layout.name == "alpaca_eval")
        found = rubrics.get(kind) or (GENERAL[kind] if general else None)
        if found is None:
            message = f"no criteria to judge by (--map criteria=COLUMN names a column of them); {row.advice()}"
            raise row.error(message, "criteria")
        return found
    levels = _levels(row)
    with row.reading("criteria"):
        if isinstance(value, str) and not levels and not row.published:
            value = split_rubric(to_text(value, "rubric"))
        return to_rubric({"criteria": value, "descriptions": levels} if isinstance(value, str) else value)


def _levels(row: _Row) -> dict[int, str]:
    """The described scores: a scale without gaps, or none."""
    texts = {score: row.text(name) for score, name in enumerate(LEVELS)}
    found = {score: text for score, text in texts.items() if text.strip() and not no_label(text)}
    for score in range(min(found, default=0), max(found, default=0)):
        if score not in found:
            column = re.sub(r"\d+", str(score), row.names[f"score{max(found)}"], count=1)
            raise row.raw.error("expected a description of each score of the scale, or of none", column)
    return found


def _label(value: object, kind: Task, scores: Sequence[int]) -> tuple[int | None, str]:
    """(the label, why there is none although there is a value)"""
    try:
        found = to_score(value, scores, "") if kind == "pointwise" else to_preference(value, "")
    except SreError as error:
        return None, error.message
    return (None, "tie") if kind == "pairwise" and found == TIE else (found, "")
