"""A row -> the Example that it holds. Knows no files.

Rows of `Example.to_json()` have a task and a list of responses. All others are read by the names of their columns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, cycle
from pathlib import Path

from recipe.data import values
from recipe.data.benchmark_formats import GENERAL, Layout
from recipe.data.columns import FIRST, LEVELS, RESPONSES, Row
from recipe.data.records import TASKS, Example, Message, Rubric, Task
from recipe.data.rubrics import named_in
from recipe.errors import SreError

Conversation = tuple[Message, ...]
Rubrics = Mapping[Task, Rubric]


def from_columns(
    row: Row, layout: Layout | None, part: str, task: Task | None, rubrics: Rubrics, scale: Sequence[int] = ()
) -> Example:
    """The example of a row whose columns were recognised. Raises SreError for a column that is missing or odd.

    part: which of the rows of its layout this is, "" where it is the only one. rubrics: of rows that bring none. scale:
    the scores of a rubric that describes none, where they are not 1 to 5.
    """
    kind = _task(row, task)
    columns = RESPONSES[kind]
    if not all(name in row for name in columns):
        columns = ("messages",) if kind == "pointwise" else ("chosen", "rejected")
    row = _with_turns(row, columns)
    before, responses = _responses(row, columns)
    conversation = _conversation(row, before, whole=columns == ("messages",))
    rubric = _rubric(row, kind, layout, rubrics)
    if columns == ("chosen", "rejected"):
        # The content decides the order, so that a judge gains nothing by preferring a position.
        first = values.short_hash([row["instruction"], row["chosen"], row["rejected"]])[-1] in "02468ace"
        responses = responses if first else responses[::-1]
        value: object = 1 if first else 2
    else:
        value = row[row.label(kind)]
        if row.label(kind) in FIRST and not values.no_label(value):
            value = _better(row, row.label(kind))
        elif kind == "pairwise":
            value = row.winning_model() or value
    name = row.name("id")
    if layout and layout.id_columns and all(not values.missing(row.cells.get(column)) for column in layout.id_columns):
        name = layout.id_separator.join(str(row.cells[column]) for column in layout.id_columns)
    if part:
        name = f"{(name or row.place).removesuffix(f':{part}')}:{part}"
    return _example(row, name, kind, conversation, responses, rubric, value, scale)


def from_own(row: Row, task: Task | None, rubrics: Rubrics) -> Example:
    """A row of `Example.to_json()`; id, prompt_id and origin may be left out. Raises SreError for odd values."""
    row = replace(row, names={name: name for name, value in row.cells.items() if not values.missing(value)})
    kind: Task = row["task"]
    allowed = (task,) if task else TASKS
    if kind not in allowed:
        raise row.error(f"expected {' or '.join(allowed)}, not {values.short(kind)}", "task")
    # In a CSV file, lists and mappings are JSON texts.
    responses, turns, rubric = (
        values.parsed(value) if isinstance(value, str) else value
        for value in map(row.__getitem__, ("responses", "conversation", "rubric"))
    )
    count = len(RESPONSES[kind])
    if not isinstance(responses, list) or len(responses) != count:
        raise row.error(f"expected a list of {count} for a {kind} row, not {values.short(responses)}", "responses")
    rubric = values.to_rubric(rubric or rubrics.get(kind))
    texts = tuple(values.to_text(text, "responses", "a response as a string") for text in responses)
    return _example(row, row.name("id"), kind, values.to_conversation(turns), texts, rubric, row["label"])


def _example(
    row: Row,
    name: str,
    task: Task,
    conversation: Conversation,
    responses: tuple[str, ...],
    rubric: Rubric,
    label: object,
    scale: Sequence[int] = (),
) -> Example:
    """The example, with what both kinds of rows have in equal columns. An odd label, or an error in its place, becomes
    its note."""
    scores = scale if scale and not rubric.descriptions else rubric.scores
    read, note = None, ""
    try:
        if isinstance(label, SreError):
            raise label
        read = values.to_score(label, scores, "") if task == "pointwise" else values.to_preference(label, "")
    except SreError as error:
        note = error.message
    if task == "pairwise" and read == values.TIE:
        read, note = None, "tie"
    return Example(
        id=name or row.place,
        prompt_id=row.name("prompt_id") or values.conversation_id(conversation),
        origin=row.name("origin") or f"{Path(row.file).name}:{row.line}",
        aspect=row.name("aspect"),
        task=task,
        conversation=conversation,
        responses=responses,
        rubric=rubric,
        label=read,
        label_note=note,
        rationale=row.text("rationale"),
        reference="\n".join(row.texts("reference")),
    )


def _task(row: Row, wanted: Task | None) -> Task:
    """The task that the columns of responses tell. A table of both tasks has both; then it is what is filled in."""
    pair = ("response_a" in row and "response_b" in row) or ("chosen" in row and "rejected" in row)
    alone = "response" in row or ("messages" in row and not pair)
    found: list[Task] = [kind for kind, there in zip(TASKS, (alone, pair), strict=True) if there]
    if len(found) == 2:
        labelled = [kind for kind in TASKS if not values.no_label(row[row.label(kind)])]
        filled = [kind for kind in TASKS if any(row[name] not in (None, "") for name in RESPONSES[kind])]
        found = labelled if len(labelled) == 1 else filled
    if wanted and found and wanted not in found:
        raise row.error_about(RESPONSES[wanted][0], f"expected a {wanted} row, not a {found[0]} one")
    if len(found) == 2 and not wanted:
        raise row.error_about("response", "can't tell pointwise from pairwise: one response and a pair are there")
    if not found:
        lacking = [name for name in ("instruction", "response") if name not in row and "messages" not in row]
        raise row.error_without("response", "no response here", *(lacking or ["response"]))
    return wanted or found[0]


def _better(row: Row, name: str) -> object:
    """The label that a column of 0 and 1 gives, `tie`, or an error that says why it gives none."""
    value = row[name]
    label = FIRST[name].get(values.counted(value))
    if label is None:
        off = "" if values.as_number(value) is None else f"{values.OFF_SCALE}: "
        tie = ", or 2 for a tie" if 2 in FIRST[name] else ""
        return SreError(f"{off}expected 0 or 1{tie}, not {values.short(value)}")
    others = {kind: values.counted(row[kind]) for kind in ("second_is_better", "tie") if kind in row}
    if name != "first_is_better" or not others:
        return label
    flags = [label == 1, *(flag == 1 for flag in others.values())]
    if sum(flags) > 1 or (not any(flags) and len(others) > 1):
        return SreError(f"{sum(flags)} of {', '.join(map(row.column, (name, *others)))} are 1, expected one")
    if others.get("tie") == 1 or (label == 2 and others.get("second_is_better") == 0):
        return "tie"
    return label


def _with_turns(row: Row, columns: Sequence[str]) -> Row:
    """The row, whose prompt and responses may be lists with a text for each turn, as Chatbot Arena has them."""
    prompts, answers = values.texts_in(row["instruction"]), {name: values.texts_in(row[name]) for name in columns}
    if not prompts or not all(answers.values()):
        return row
    if odd := next((name for name, texts in answers.items() if len(texts) != len(prompts)), None):
        message = f"expected {len(prompts)} texts, one for each turn of {row.column('instruction')!r}"
        raise row.error_about(odd, f"{message}, not {len(answers[odd])}")
    cells = dict(row.cells)
    for name, texts in answers.items():
        spoken = chain.from_iterable(zip(prompts, texts, strict=True))
        roles = cycle(("user", "assistant"))
        cells[row.names[name]] = [{"role": role, "content": text} for role, text in zip(roles, spoken, strict=False)]
    return replace(row, cells=cells, names={name: own for name, own in row.names.items() if name != "instruction"})


def _responses(row: Row, columns: tuple[str, ...]) -> tuple[Conversation, tuple[str, ...]]:
    """(the turns before the responses, if they come as whole conversations, the texts of the responses)"""
    before: Conversation | None = None
    texts = []
    for name in columns:
        turns = row.turns(name)
        if not turns:
            texts.append(row.text(name))
            continue
        if turns[-1].role != "assistant":
            message = f"expected the assistant's turn at the end, not the {turns[-1].role}'s; it is what is judged"
            raise row.error_about(name, message)
        if before not in (None, turns[:-1]):
            message = f"its turns before the last differ from those of {row.column(columns[0])!r}"
            raise row.error_about(name, f"{message}; a judge compares two answers to the same turns")
        before = turns[:-1]
        texts.append(turns[-1].content)
    return before or (), tuple(texts)


def _conversation(row: Row, before: Conversation, *, whole: bool) -> Conversation:
    """What was said before the responses. `whole`: `before` was cut off the column `messages`."""
    turns = before if whole else row.turns("instruction")
    if not turns and row["instruction"] not in (None, ""):
        contexts = row.texts("context")
        retrieved = "Context:\n" + "\n\n".join(contexts) if contexts else ""
        texts = [row.text("instruction"), row.text("input"), retrieved]
        turns = (Message("user", "\n\n".join(text for text in texts if text)),)
    turns = turns or row.turns("messages")
    if turns and before and not whole and before[0].role == "assistant":  # the responses go on from the prompt
        turns = (*turns, *before)
    turns = turns or before or row.turns("context")
    if not turns:
        raise row.error_without("instruction", "no instruction, and no turns before the response", "instruction")
    system = row.text("system")
    return (Message("system", system), *turns) if system and turns[0].role != "system" else turns


def _rubric(row: Row, kind: Task, layout: Layout | None, rubrics: Rubrics) -> Rubric:
    value = row["criteria"]
    if values.no_label(value):
        # Two responses can be compared without criteria; a score means nothing without them.
        general = (kind == "pairwise" and not row.published) or (layout and layout.name == "alpaca_eval")
        found = rubrics.get(kind) or (GENERAL[kind] if general else None)
        if found is None:
            raise row.error_without("criteria", "no criteria to judge by (--map criteria=COLUMN names a column)")
        return found
    texts = {score: row.text(name) for score, name in enumerate(LEVELS)}
    levels = {score: text for score, text in texts.items() if text.strip() and not values.no_label(text)}
    for score in range(min(levels, default=0), max(levels, default=0)):
        if score not in levels:
            column = re.sub(r"\d+", str(score), row.names[f"score{max(levels)}"], count=1)
            raise row.error("expected a description of each score of the scale, or of none", column)
    if isinstance(value, str) and not levels and not row.published and (ready := named_in(value)):
        return ready
    with row.reading("criteria"):
        alone = isinstance(value, str) and (levels or row.published) and not value.lstrip().startswith("{")
        return values.to_rubric({"criteria": value, "descriptions": levels} if alone else value)
