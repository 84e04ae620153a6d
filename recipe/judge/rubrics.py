"""Rubrics as users name or write them: a ready one's name, a file, a text, or criteria and descriptions.

One string means the same on the command line, over HTTP and in Python: a word is a ready rubric's name, a path that
ends in .toml or .json is a file, and anything else is a rubric as text (data/rubric_text.py). A file:

name = "conciseness"
task = "pointwise"                # left out: for both tasks
criteria = "Does the response say what was asked for in as few words as it takes?"

[descriptions]                    # two or more scores, or none
1 = "Mostly padding."
5 = "Every sentence is needed."
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Rubric, Task
from recipe.data.values import to_rubric, to_text
from recipe.errors import SreError

FOLDER = Path(__file__).resolve().parents[1] / "rubrics"
AnyRubric = Rubric | Mapping[str, Any] | str | Path
_KEYS = ("name", "task", "criteria", "descriptions")
_NAME = re.compile(r"[\w./-]{3,}|", re.ASCII)
_LEVEL = re.compile(r"score_?(\d{1,2})_description")


@dataclass(frozen=True)
class NamedRubric:
    """A rubric and what it is called. task: the only one it is worded for, or None for both."""

    name: str
    rubric: Rubric
    task: Task | None = None


def ready_rubrics() -> dict[str, NamedRubric]:
    """The library, by name: worded by this project, each with descriptions of the scores 1 to 5."""
    return {path.stem: _checked(_content(path), path) for path in sorted(FOLDER.glob("*.toml"))}


def load_rubric(rubric: AnyRubric) -> Rubric:
    """Like `read_rubric`, without name and task."""
    return read_rubric(rubric).rubric


def read_rubric(rubric: AnyRubric, task: Task | None = None, *, files: bool = True) -> NamedRubric:
    """The rubric that a user names or writes.

    Args:
        rubric: a ready rubric's name (see `sre rubrics`), a .toml or .json file, a rubric as text, a Rubric, or
            {criteria, descriptions}.
        task: what it must be for, if a ready rubric or a file says.
        files: whether files may be read.

    Raises:
        SreError: for a name that is none (it says which is nearest), and for a rubric that can't be read.
    """
    named = _read(rubric.strip() if isinstance(rubric, str) else rubric, files)
    if task and named.task not in (None, task):
        raise SreError(f"the rubric {named.name!r} is for {named.task} judgements", field="rubric")
    return named


def _read(rubric: AnyRubric, files: bool) -> NamedRubric:
    if not isinstance(rubric, str | Path) or not (_is_file(rubric) or _NAME.fullmatch(str(rubric))):
        return NamedRubric("", to_rubric(rubric))
    if _is_file(rubric) and not files:
        raise SreError("expected a rubric or a ready one's name; files are not read here", field="rubric")
    path = rubric_file(rubric)
    return _checked(_content(path), path)


def _is_file(rubric: str | Path) -> bool:
    return isinstance(rubric, Path) or ("\n" not in rubric and rubric.lower().endswith((".toml", ".json")))


def by_task(rubric: NamedRubric | None) -> dict[Task, Rubric]:
    """The rubric under each task that it is for."""
    return {task: rubric.rubric for task in TASKS if rubric and rubric.task in (None, task)}


def rubric_file(name_or_path: str | Path) -> Path:
    """The file of the ready rubric of that name; a path that ends in .toml or .json is returned as it is."""
    path = Path(name_or_path)
    if path.suffix.lower() in (".toml", ".json"):
        return path
    name = str(name_or_path)
    ready = {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}
    if name not in ready:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), ready, 1, 0.7)
        hint = f"did you mean {near[0]!r}? Expected" if near else "expected"
        others = "a .toml or .json file, or criteria written as a sentence"
        raise SreError(f"no ready rubric {name!r}; {hint} one of {', '.join(ready)}, {others}", field="rubric")
    return ready[name]


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise SreError(f"can't be read: {error.strerror or error}", file=path) from None
    except (ValueError, RecursionError) as error:  # both parsers' errors, and invalid UTF-8, are ValueErrors
        raise SreError(
            f"expected {path.suffix[1:].upper()} with criteria and descriptions; {error}", file=path
        ) from None
    if not isinstance(found, dict):
        raise SreError("expected an object with criteria and descriptions", file=path)
    return found


def _checked(content: dict[str, Any], path: Path) -> NamedRubric:
    unknown = next((key for key in content if key not in _KEYS and not _LEVEL.fullmatch(key)), None)
    if unknown is not None:
        expected = f"{', '.join(_KEYS)} (or score1_description and so on)"
        raise SreError(f"unknown; expected only {expected}", file=path, field=unknown)
    task = content.get("task")
    if task not in (None, *TASKS):
        raise SreError(f"expected {' or '.join(TASKS)}, or nothing for both, not {task!r}", file=path, field="task")
    if not isinstance(content.get("descriptions", {}), dict):
        raise SreError("expected a description for each score", file=path, field="descriptions")
    try:
        name = to_text(content.get("name", path.stem), "name")
        return NamedRubric(name, to_rubric(content), task)
    except SreError as error:
        raise SreError(str(error).removeprefix(f"field {error.field!r}: "), file=path, field=error.field) from None
