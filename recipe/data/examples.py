"""Rows of the published collections, files and hub data sets -> Example. Knows no prompt, model or stage.

A row as the Feedback-Collection has it (the Preference-Collection: `orig_response_A`, `orig_response_B` and
`orig_preference` "A"/"B" in place of `orig_response` and `orig_score`):

    {"orig_instruction": "Name two fruits.", "orig_response": "Apple and brick.", "orig_reference_answer": "",
     "orig_criteria": "Are both items fruits?", "orig_score1_description": "Neither is.", ...,
     "orig_score5_description": "Both are.", "orig_score": "3", "orig_feedback": "A brick is no fruit."}

Beside them a row may have `id`, `prompt_id`, `source`, and `messages` or `conversation` (a list of {role,
content}) in place of `orig_instruction`. Rows written by `Example.to_json()` are read too. The reader is
strict: what it can't read is an SreError that names file, line, field and what was expected, or is set aside
on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.data import benchmark_formats as layouts
from recipe.data import records
from recipe.data.columns import COLUMNS, DESCRIPTIONS, LABEL, RESPONSES, column_map, renamed
from recipe.data.files import RawRow, open_rows
from recipe.data.records import TASKS, Example, Message, Rubric, Task
from recipe.errors import SreError
from recipe.storage import atomic

ROLES = ("system", "user", "assistant")
_log = logging.getLogger("recipe.data.examples")


@dataclass(frozen=True)
class BadRow:
    """A row that can't be read, and why. `id` is its own where it has a good one, else <file>-<line>."""

    id: str
    raw: RawRow
    error: SreError


def read_examples(
    source: str | Path,
    *,
    task: Task | None = None,
    split: str = "train",
    need_label: bool = True,
    need_rationale: bool = False,
    limit: int | None = None,
    skip_bad_rows: Path | None = None,
) -> list[Example]:
    """Read labelled (or, with `need_label=False`, unlabelled) rows in the order of the source.

    source: a .jsonl, .csv or .parquet file; a folder (its files named after `split`); a hub name such as
    "prometheus-eval/Feedback-Collection"; or "seed-data", the project's own. task: None tells it row by row
    from the columns. limit: only the first n rows, bad ones included. skip_bad_rows: a file to write bad rows
    to, as JSON lines {"file", "line", "field", "error", "row"} (in place of what it held; empty where all
    rows are good); they are counted in a warning of the logger "recipe.data.examples", and the good ones returned.

    A pairwise rationale is rewritten to the prompt's names of the responses (see naming.py). With `need_rationale`,
    rows whose rationale prefers the other response than the label are left out and counted in a warning.

    Raises SreError: nothing at `source`, no rows, a bad row (without `skip_bad_rows`), or only bad rows.
    `line` is the line of a JSONL file and the row (the header not counted) of a CSV or Parquet file, from 1.
    """
    examples, bad = list[Example](), list[dict[str, Any]]()
    rewritten = contradicting = 0
    options: dict[str, Any] = {"need_label": need_label, "need_rationale": need_rationale, "limit": limit}
    for row in read_rows(source, task=task, split=split, **options):
        if isinstance(row, Example):
            named = records.in_prompt_names(row)
            rewritten += named is not row
            if need_rationale and records.contradicts_itself(named):
                contradicting += 1
            else:
                examples.append(named)
        elif skip_bad_rows is None:
            raise row.error
        else:
            place = {"file": row.raw.file, "line": row.raw.line, "field": row.error.field}
            bad.append({**place, "error": str(row.error), "row": row.raw.row})
    if skip_bad_rows is not None:
        _set_aside(skip_bad_rows, bad, str(source))
    if rewritten and need_rationale:
        _log.warning("%s: %d rationales now say Response 1 and Response 2, as the prompt does", source, rewritten)
    if contradicting:
        _log.warning("%s: set aside %d rows whose rationale prefers the other response", source, contradicting)
    if not examples:
        cause = f"all {len(bad)} rows are bad, see {skip_bad_rows}" if bad else "no rows; expected one or more"
        raise SreError(cause, file=source)
    return examples


def read_rows(
    source: str | Path,
    *,
    task: Task | None = None,
    split: str = "train",
    need_label: bool = True,
    need_rationale: bool = False,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    rubrics: Mapping[Task, Rubric] | None = None,
) -> Iterator[Example | BadRow]:
    """Stream the rows in the order of the source, bad ones among them; ids differ. See `read_examples`.

    source: also "-", JSON lines on standard input. columns: our column (or its short name, see columns.NAMES) -> the
    source's, for files in other columns; every row must have them. rubrics: for rows that bring no criteria, by task.
    Raises SreError when nothing can be read at `source` (with the first row), and for an unknown name in `columns`.
    """
    if limit is not None and limit < 1:
        raise SreError(f"limit must be at least 1, not {limit}")
    mapped, seen = column_map(columns or {}), dict[str, str]()
    raws = itertools.islice(open_rows(source, task, split, COLUMNS | layouts.COLUMNS | set(mapped.values())), limit)
    for raw in raws if mapped else layouts.unfolded(raws, rubrics or {}):
        place = f"line {raw.line}" if str(source) == raw.file else f"{raw.file}, line {raw.line}"
        try:
            ours = replace(raw, row=renamed(raw, mapped))
            row: Example | BadRow = _example(ours, task, rubrics or {}, need_label, need_rationale)
            if row.id in seen:
                raise raw.error(f"{_short(row.id)} is already the id of {seen[row.id]}; ids must differ", "id")
        except SreError as error:
            row = BadRow(_free_id(raw, seen), raw, error)
        seen[row.id] = place
        yield row


def _free_id(raw: RawRow, taken: Mapping[str, str]) -> str:
    found = ""
    if not raw.problem and isinstance(raw.row, dict):
        with contextlib.suppress(SreError):
            found = _name(raw.row, "id")
    while not found or found in taken:
        found = f"{found}'" if found.startswith(f"{raw.stem}-{raw.line}") else f"{raw.stem}-{raw.line}"
    return found


def to_conversation(value: object) -> tuple[Message, ...]:
    """A conversation from a string (one user turn) or a list of Message or {role, content}.

    Raises SreError (field "conversation") for anything else, and for an empty one.
    """
    if isinstance(value, str):
        value = [Message("user", value)]
    if not isinstance(value, Sequence) or not value:
        raise SreError(f"expected a list of {{role, content}}, not {_short(value)}", field="conversation")
    return tuple(_message(turn) for turn in value)


def _message(turn: object) -> Message:
    if isinstance(turn, Mapping):
        turn = Message(turn.get("role"), turn.get("content"))  # type: ignore[arg-type]  # checked below
    if not isinstance(turn, Message) or turn.role not in ROLES:
        expected = f"{{role, content}} with a role of {', '.join(ROLES)}"
        raise SreError(f"expected {expected}, not {_short(turn)}", field="conversation")
    _clean(turn.content, "conversation", "a turn's content as a string")
    return turn


def to_rubric(value: object) -> Rubric:
    """A rubric from a Rubric, a string (criteria without descriptions) or {"criteria", "descriptions"?}.

    Scores are single digits (a label's probability is read at one token); two or more are described, or none.
    Raises SreError (field "rubric") otherwise.
    """
    if isinstance(value, str):
        value = Rubric(value)
    elif isinstance(value, Mapping):
        found = value.get("descriptions") or {}
        # Parquet fills the scores that other rows have with nulls.
        given = {k: v for k, v in found.items() if v is not None} if isinstance(found, Mapping) else {"": ""}
        if not all(re.fullmatch(r"[0-9]", str(score)) for score in given):
            raise SreError(f"expected descriptions by score, 0 to 9, not {_short(found)}", field="rubric")
        descriptions = {int(score): text for score, text in given.items()}
        value = Rubric(value.get("criteria"), descriptions)  # type: ignore[arg-type]  # checked below
    if not isinstance(value, Rubric):
        raise SreError(f"expected a text or {{criteria, descriptions}}, not {_short(value)}", field="rubric")
    if not _clean(value.criteria, "rubric", "criteria as a string").strip():
        raise SreError("expected criteria that say what to judge, not an empty text", field="rubric")
    for score, text in value.descriptions.items():
        if not _clean(text, "rubric", f"a description of score {score} as a string").strip():
            raise SreError(f"expected a description of score {score}, not an empty text", field="rubric")
    if len(value.descriptions) == 1:
        raise SreError("expected descriptions of at least two scores, or of none", field="rubric")
    return value


def to_text(value: object, field: str) -> str:
    """The value, if it is a string that can be written as UTF-8 and has no NUL. Raises SreError otherwise."""
    return _clean(value, field, "a string")


def conversation_id(conversation: Sequence[Message]) -> str:
    """The prompt_id of a row that brings none: 12 hex digits (blake2b) of the roles and contents."""
    text = json.dumps([[turn.role, turn.content] for turn in conversation])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _example(
    raw: RawRow, task: Task | None, rubrics: Mapping[Task, Rubric], need_label: bool, need_rationale: bool
) -> Example:
    row = raw.row
    if raw.problem:
        raise raw.error(raw.problem)
    if not isinstance(row, dict):
        raise raw.error(f"expected a JSON object, not {_short(row)}")
    own = isinstance(row.get("responses"), list)
    try:
        example = _from_own(raw, task, rubrics) if own else _from_collection(raw, task, rubrics)
    except SreError as error:
        raise _placed(error, raw) from None
    if need_label and example.label is None:
        field = "label" if own else LABEL[example.task]
        raise raw.error(f"the label is missing; expected {_expected_label(example)}", field)
    if need_rationale and not example.rationale.strip():
        raise raw.error("expected a rationale, not an empty text", "rationale" if own else "orig_feedback")
    return example


def _placed(error: SreError, raw: RawRow, field: str | None = None) -> SreError:
    """The same error with its row's place, and under the name that the row gives the field."""
    if error.file is not None:
        return error
    return raw.error(str(error).removeprefix(f"field {error.field!r}: "), field or error.field)


def _from_collection(raw: RawRow, task: Task | None, rubrics: Mapping[Task, Rubric]) -> Example:
    row = raw.row
    kind = _tell_task(raw, task)
    conversation = _conversation(raw)
    rubric = None if _text(row, "orig_criteria", optional=True).strip() else rubrics.get(kind)
    rubric = rubric or _collection_rubric(raw)
    return Example(
        **_identity(raw, conversation, "source"),
        task=kind,
        conversation=conversation,
        responses=tuple(_text(row, name) for name in RESPONSES[kind]),
        rubric=rubric,
        label=_label(raw, kind, rubric.scores),
        rationale=_text(row, "orig_feedback", optional=True),
        reference=_text(row, "orig_reference_answer", optional=True),
    )


def _collection_rubric(raw: RawRow) -> Rubric:
    criteria = _text(raw.row, "orig_criteria")
    if not criteria.strip():
        raise raw.error("expected criteria that say what to judge, not an empty text", "orig_criteria")
    texts = {score: _text(raw.row, name, optional=True) for score, name in enumerate(DESCRIPTIONS, 1)}
    empty = [score for score, text in texts.items() if not text.strip()]
    if 0 < len(empty) < len(texts):
        raise raw.error("expected descriptions of all five scores, or of none", DESCRIPTIONS[empty[0] - 1])
    return Rubric(criteria, {} if empty else texts)


def _identity(raw: RawRow, conversation: Sequence[Message], origin: str) -> dict[str, str]:
    return {
        "id": _name(raw.row, "id") or f"{raw.stem}-{raw.line}",
        "prompt_id": _name(raw.row, "prompt_id") or conversation_id(conversation),
        "origin": _text(raw.row, origin, optional=True) or f"{Path(raw.file).name}:{raw.line}",
        "aspect": _name(raw.row, "aspect"),
    }


def _conversation(raw: RawRow) -> tuple[Message, ...]:
    if raw.row.get("orig_instruction"):
        return to_conversation(_text(raw.row, "orig_instruction"))
    field = next((name for name in ("messages", "conversation") if raw.row.get(name)), None)
    if field is None:
        message = "expected an instruction here, or a list of {role, content} in `messages`"
        raise raw.error(message, "orig_instruction")
    try:
        return to_conversation(_turns(raw.row[field]))
    except SreError as error:
        raise _placed(error, raw, field) from None


def _tell_task(raw: RawRow, task: Task | None) -> Task:
    """By the response columns; where a row has both (a CSV file of both kinds), by what is filled in."""
    row = raw.row
    found = [kind for kind in TASKS if all(row.get(name) is not None for name in RESPONSES[kind])]
    if len(found) == 2:
        labelled = [kind for kind in TASKS if row.get(LABEL[kind]) not in (None, "")]
        filled = [kind for kind in TASKS if any(row[name] for name in RESPONSES[kind])]
        found = labelled if len(labelled) == 1 else filled
    if task and task not in found and found:
        raise raw.error(f"expected a {task} row, not a {found[0]} one", RESPONSES[task][0])
    if task:
        return task
    if len(found) != 1:
        cause = "can't tell pointwise from pairwise" if found else "no response"
        message = f"{cause}; expected orig_response, or orig_response_A and orig_response_B"
        raise raw.error(message, "orig_response")
    return found[0]


def _label(raw: RawRow, kind: Task, scores: Sequence[int]) -> int | None:
    field = LABEL[kind]
    value = raw.row.get(field)
    if value is None or value == "":
        return None
    if kind == "pairwise":
        if value not in ("A", "B"):
            raise raw.error(f"expected 'A' or 'B', not {_short(value)}", field)
        return 1 if value == "A" else 2
    if isinstance(value, bool | float) or str(value) not in map(str, scores):
        raise raw.error(f"expected a whole score from {scores[0]} to {scores[-1]}, not {_short(value)}", field)
    return int(value)


def _from_own(raw: RawRow, task: Task | None, rubrics: Mapping[Task, Rubric]) -> Example:
    """A row of `Example.to_json()`; id, prompt_id and origin may be left out."""
    row = raw.row
    kind: Task = row.get("task")
    allowed = (task,) if task else TASKS
    if kind not in allowed:
        raise raw.error(f"expected {' or '.join(allowed)}, not {_short(kind)}", "task")
    responses, label = row["responses"], row.get("label")
    if len(responses) != len(RESPONSES[kind]):
        message = f"expected {len(RESPONSES[kind])} for a {kind} row, not {len(responses)}"
        raise raw.error(message, "responses")
    conversation = to_conversation(_turns(row.get("conversation")))
    example = Example(
        **_identity(raw, conversation, "origin"),
        task=kind,
        conversation=conversation,
        responses=tuple(_clean(text, "responses", "a response as a string") for text in responses),
        rubric=to_rubric(row.get("rubric") or rubrics.get(kind)),
        label=label,
        rationale=_text(row, "rationale", optional=True),
        reference=_text(row, "reference", optional=True),
    )
    if label is not None and (type(label) is not int or label not in example.labels):
        raise raw.error(f"expected {_expected_label(example)}, not {_short(label)}", "label")
    return example


def _expected_label(example: Example) -> str:
    return f"one of {', '.join(map(str, example.labels))}" + (" (A, B)" if example.task == "pairwise" else "")


def _turns(value: object) -> object:
    """CSV cells and some data sets hold the turns as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        turns = None
    if not isinstance(turns, list):
        raise SreError(f"expected a list of {{role, content}}, not {_short(value)}", field="conversation")
    return turns


def _text(row: Mapping[str, Any], field: str, *, optional: bool = False) -> str:
    if row.get(field) is not None:
        return _clean(row[field], field, "a string")
    if optional:
        return ""
    raise SreError("the field is missing; expected a string", field=field)


def _name(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    return str(value) if type(value) is int else _text(row, field, optional=True)


def _clean(value: object, field: str, expected: str) -> str:
    if not isinstance(value, str):
        raise SreError(f"expected {expected}, not {type(value).__name__} {_short(value)}", field=field)
    if "\0" in value:
        raise SreError("expected text without NUL characters", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = ascii(value[error.start])
        message = f"expected valid Unicode; character {error.start + 1} is {found} (invalid UTF-8, or half a pair)"
        raise SreError(message, field=field) from None
    return value


def _short(value: object) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _set_aside(path: Path, bad: Sequence[Mapping[str, Any]], source: str) -> None:
    # ASCII: a bad row may hold lone surrogates, which no encoding writes.
    with atomic(path) as file:
        file.writelines(json.dumps(entry, default=str) + "\n" for entry in bad)
    if bad:
        _log.warning("%s: skipped %d bad rows, written to %s", source, len(bad), path)
