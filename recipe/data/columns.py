"""The columns of the published collections, and a file's own columns mapped onto them. Knows names, not values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from recipe.data.files import RawRow
from recipe.data.records import Task
from recipe.errors import SreError

DESCRIPTIONS = tuple(f"orig_score{score}_description" for score in range(1, 6))
RESPONSES: dict[Task, tuple[str, ...]] = {
    "pointwise": ("orig_response",),
    "pairwise": ("orig_response_A", "orig_response_B"),
}
LABEL: dict[Task, str] = {"pointwise": "orig_score", "pairwise": "orig_preference"}
COLUMNS = {
    *("id", "prompt_id", "source", "aspect", "messages", "conversation", "orig_instruction", "orig_reference_answer"),
    *("orig_criteria", *DESCRIPTIONS, "orig_feedback"),
    *itertools.chain(*RESPONSES.values(), LABEL.values()),
    *("task", "responses", "rubric", "label", "rationale", "reference", "origin"),  # of Example.to_json()
}
# Short names, for whoever maps a file's own columns onto ours.
NAMES = {
    "instruction": "orig_instruction",
    "response": "orig_response",
    "response_a": "orig_response_A",
    "response_b": "orig_response_B",
    "criteria": "orig_criteria",
    "reference": "orig_reference_answer",
    "score": "orig_score",
    "preference": "orig_preference",
    **{f"score{score}": name for score, name in enumerate(DESCRIPTIONS, 1)},
}


def column_map(columns: Mapping[str, str]) -> dict[str, str]:
    """Our column -> the file's, the short names resolved. Raises SreError for a name that is none of ours."""
    unknown = next((name for name in columns if name not in NAMES and name not in COLUMNS), None)
    if unknown is not None:
        expected = f"{', '.join(NAMES)}, or a column as the collections name it"
        raise SreError(f"no column {unknown!r} to map onto; expected {expected}")
    return {NAMES.get(name, name): column for name, column in columns.items()}


def renamed(raw: RawRow, columns: Mapping[str, str]) -> Any:
    """The row with its columns under our names too. Raises SreError when it lacks one of them."""
    if raw.problem or not isinstance(raw.row, dict):
        return raw.row
    missing = next((column for column in columns.values() if column not in raw.row), None)
    if missing is not None:
        raise raw.error("the row lacks this column, which was mapped", missing)
    return {**raw.row, **{name: raw.row[column] for name, column in columns.items()}}
