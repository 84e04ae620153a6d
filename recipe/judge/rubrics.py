"""Rubric files (TOML, JSON) and the library of ready ones in recipe/rubrics/. Knows no rows and no model.

name = "conciseness"
task = "pointwise"                # left out: for both tasks
criteria = "Does the response say what was asked for in as few words as it takes?"

[descriptions]                    # scores 0 to 9, two or more of them, or none
1 = "Mostly padding."
5 = "Every sentence is needed."
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.data.examples import to_rubric, to_text
from recipe.data.records import TASKS, Rubric, Task
from recipe.errors import SreError

FOLDER = Path(__file__).resolve().parents[1] / "rubrics"
_KEYS = ("name", "task", "criteria", "descriptions")


@dataclass(frozen=True)
class NamedRubric:
    """A rubric as a file holds it. task: the only one it is worded for, or None for both."""

    name: str
    rubric: Rubric
    task: Task | None = None


def ready_rubrics() -> dict[str, NamedRubric]:
    """The library, by name: worded by this project, each with descriptions of the scores 1 to 5."""
    return {path.stem: read_rubric(path) for path in sorted(FOLDER.glob("*.toml"))}


def load_rubric(name_or_path: str | Path) -> Rubric:
    """The rubric of that name in the library (see `sre rubrics`), or in that .toml or .json file.

    Raises SreError: it lists the library's names when it is neither, and names the field when a file is not as
    expected.
    """
    return read_rubric(name_or_path).rubric


def read_rubric(name_or_path: str | Path) -> NamedRubric:
    """Like `load_rubric`, with the rubric's name and task."""
    path = rubric_file(name_or_path)
    return _checked(_content(path), path)


def rubric_file(name_or_path: str | Path) -> Path:
    """The file of the ready rubric of that name; a path that ends in .toml or .json is returned as it is."""
    path = Path(name_or_path)
    if path.suffix.lower() in (".toml", ".json"):
        return path
    ready = {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}
    if str(name_or_path) not in ready:
        expected = f"a .toml or .json file, or one of {', '.join(ready)}"
        raise SreError(f"no ready rubric {str(name_or_path)!r}; expected {expected}")
    return ready[str(name_or_path)]


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
    unknown = next((key for key in content if key not in _KEYS), None)
    if unknown is not None:
        raise SreError(f"unknown; expected only {', '.join(_KEYS)}", file=path, field=unknown)
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
