"""Rubrics as users name or write them: a ready one's name, a file, a text, or criteria and descriptions.

One string means the same on the command line, over HTTP and in Python: a word is a ready rubric's name, a path that
ends in .toml or .json is a file, and anything else is a rubric as text (`split_rubric` of data/values.py). A file:

name = "conciseness"
task = "pointwise"                # left out: for both tasks
criteria = "Does the response say what was asked for in as few words as it takes?"

[descriptions]                    # two or more scores, or none
1 = "Mostly padding."
5 = "Every sentence is needed."
"""

import functools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Rubric, Task
from recipe.data.values import level_of, to_rubric, to_text
from recipe.errors import SreError, did_you_mean
from recipe.system import user_text

FOLDER = Path(__file__).resolve().parents[1] / "rubrics"
AnyRubric = Rubric | Mapping[str, Any] | str | Path
_KEYS = ("name", "task", "criteria", "descriptions")
_FILE = re.compile(r".+\.(?:toml|json)", re.IGNORECASE)
_OTHER_FILE = re.compile(r".+\.(?:txt|md|ya?ml|docx?)", re.IGNORECASE)
_NAME = re.compile(r"[\w./-]{3,}|", re.ASCII)


@dataclass(frozen=True)
class NamedRubric:
    """A rubric and what it is called. task: the only one it is worded for, or None for both."""

    name: str
    rubric: Rubric
    task: Task | None = None


@functools.cache
def ready_rubrics() -> dict[str, NamedRubric]:
    """The library, by name: worded by this project, each with descriptions of the scores 1 to 5."""
    return {path.stem: _read_file(path) for path in sorted(FOLDER.glob("*.toml"))}


def named_in(cell: str) -> Rubric | None:
    """The ready rubric whose name stands in a cell of criteria, as `Helpfulness` or `code correctness` do."""
    found = ready_rubrics().get(_as_name(cell))
    return found.rubric if found else None


def near_name(criteria: str) -> str:
    """A hint at the ready rubric whose name criteria nearly are, as `factualty` is; empty where none is."""
    name = _as_name(criteria)
    return "" if name in ready_rubrics() else did_you_mean(name, ready_rubrics())


def _as_name(text: str) -> str:
    """The text as a ready rubric would be called: code-correctness for `Code correctness`."""
    return re.sub(r"[\s_]+", "-", text.strip().lower())


def is_ready(rubric: Rubric) -> bool:
    """Whether a row's rubric is a ready one that the row named."""
    return any(rubric is ready.rubric for ready in ready_rubrics().values())


def load_rubric(rubric: AnyRubric) -> Rubric:
    """The rubric alone that `read_rubric` reads."""
    return read_rubric(rubric).rubric


def read_rubric(rubric: AnyRubric, task: Task | None = None, *, files: bool = True) -> NamedRubric:
    """The rubric that a user names or writes, see above; a Rubric or {criteria, descriptions} is taken as it is.

    `task`: what it must be for, if a ready rubric or a file says. `files`: whether files may be read. Raises SreError
    where there is no such name (it says which is nearest), or the rubric can't be read.
    """
    if isinstance(rubric, str):
        rubric = rubric.strip()
    if isinstance(rubric, Path) or (isinstance(rubric, str) and _FILE.fullmatch(rubric)):
        if not files:
            raise SreError("expected a rubric or a ready one's name; files are not read here", field="rubric")
        named = _read_file(Path(rubric))
    elif isinstance(rubric, str) and _OTHER_FILE.fullmatch(rubric):
        how = "`sre rubrics tone > mine.toml` writes one to edit"
        raise SreError(f"expected a .toml or .json file ({how}), or its text in place of {rubric!r}", field="rubric")
    elif isinstance(rubric, str) and _NAME.fullmatch(rubric):
        named = _read_file(rubric_file(rubric))
    else:
        named = NamedRubric("", to_rubric(rubric))
    if task and named.task not in (None, task):
        raise SreError(f"the rubric {named.name!r} is for {named.task} judgements", field="rubric")
    return named


def by_task(rubric: NamedRubric | None) -> dict[Task, Rubric]:
    """The rubric under each task that it is for."""
    return {task: rubric.rubric for task in TASKS if rubric and rubric.task in (None, task)}


def given_rubrics(text: str | None) -> dict[Task, Rubric]:
    """The rubric that --rubric gives, under each task that it is for. Raises SreError as `read_rubric` does."""
    return by_task(read_rubric(text) if text else None)


def rubric_file(name: str) -> Path:
    """The file of the ready rubric of that name."""
    if name not in (ready := ready_rubrics()):
        hint = did_you_mean(_as_name(name), ready)
        expected = f"expected one of {', '.join(ready)}, a .toml or .json file, or criteria written as a sentence"
        raise SreError(f"no ready rubric {name!r}; {expected}{hint}", field="rubric")
    return FOLDER / f"{name}.toml"


def _read_file(path: Path) -> NamedRubric:
    toml = path.suffix.lower() == ".toml"
    try:
        text = user_text(path)
        content = tomllib.loads(text) if toml else json.loads(text)
    except OSError as error:
        raise SreError(f"can't be read: {error.strerror or error}", file=path) from None
    except (ValueError, RecursionError) as error:  # both parsers' errors are ValueErrors
        kind = "TOML" if toml else "JSON"
        raise SreError(f"expected {kind} with criteria and descriptions; {error}", file=path) from None
    try:
        if not isinstance(content, dict):
            raise SreError("expected an object with criteria and descriptions")
        for key in content:
            if key not in _KEYS and level_of(key) is None:
                raise SreError(f"unknown; expected only {', '.join(_KEYS)}, score1_description, ...", field=key)
        task = content.get("task")
        if task not in (None, *TASKS):
            raise SreError(f"expected {' or '.join(TASKS)}, or nothing for both, not {task!r}", field="task")
        return NamedRubric(to_text(content.get("name", path.stem), "name"), to_rubric(content), task)
    except SreError as error:
        raise SreError(error.message, file=path, field=error.field) from None
