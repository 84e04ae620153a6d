"""Which column of a file means what. Knows names, not values.

Case doesn't matter, and spaces and hyphens count as underscores. `--map OURS=THEIRS` names a column that isn't
recognised.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from recipe.data.files import RawRow
from recipe.data.records import Task
from recipe.data.values import level_of, missing
from recipe.errors import SreError

# Our name -> the names in files, in lower case, the surest first. The first is the published collections' own.
ALIASES: dict[str, tuple[str, ...]] = {
    name: tuple(aliases.split())
    for name, aliases in {
        "instruction": "orig_instruction instruction question prompt query user_input user_prompt input problem",
        "response": "orig_response response model_response model_output model_answer completion generation"
        " generated_text generated_answer prediction actual_output output answer",
        "response_a": "orig_response_a response_a answer_a output_a completion_a response_1 response1 answer_1 output_1"
        " output1 conversation_a",
        "response_b": "orig_response_b response_b answer_b output_b completion_b response_2 response2 answer_2 output_2"
        " output2 conversation_b",
        "chosen": "chosen chosen_response",
        "rejected": "rejected rejected_response",
        "messages": "messages conversation conversations conversation_prefix dialogue dialog",
        "system": "system_prompt system",
        "context": "contexts retrieved_contexts retrieval_context context",
        "criteria": "orig_criteria criteria scoring_criteria evaluation_criteria rubric score_rubric",
        "reference": "orig_reference_answer reference_answer reference ground_truth ground_truths expected_output"
        " gold_answer correct_answer",
        "score": "orig_score score human_score rating human_rating overall_score grade label",
        "preference": "orig_preference preference winner preferred better label",
        "rationale": "orig_feedback feedback rationale explanation critique",
        "id": "id pair_id row_id",
        "prompt_id": "prompt_id question_id",
        "aspect": "aspect subset capability category dataset",
        "origin": "source",
    }.items()
}
LEVELS = tuple(f"score{score}" for score in range(11))
"""Our names of the columns that describe a score."""
NAMES = (*ALIASES, *LEVELS)
RESPONSES: dict[Task, tuple[str, ...]] = {"pointwise": ("response",), "pairwise": ("response_a", "response_b")}
LABEL: dict[Task, str] = {"pointwise": "score", "pairwise": "preference"}

Names = Mapping[str, str]
"""Our name -> the row's column."""


def column_map(columns: Names) -> Names:
    """What `--map` was given. Raises SreError for a name that we don't have."""
    for ours, theirs in columns.items():
        if ours not in NAMES:
            hint = f"; did you mean {theirs}={ours}?" if theirs in NAMES else ""
            raise SreError(f"no column {ours!r} to map onto; expected OURS=THEIRS, OURS of {', '.join(NAMES)}{hint}")
    return columns


def recognise(raw: RawRow, mapped: Names) -> dict[str, str]:
    """The row's columns by our names: the mapped ones, then all that are recognised and not empty.

    Raises SreError where the row lacks a mapped column.
    """
    by_key = _by_key(tuple(raw.row))
    own = {}
    for name, column in mapped.items():
        if column not in raw.row and _key(column) not in by_key:
            raise raw.error("the row lacks this column, which was mapped", column)
        own[name] = column if column in raw.row else by_key[_key(column)]
    filled = tuple(name for name, value in raw.row.items() if not missing(value))
    return {name: column for name, column in _recognised(filled).items() if column not in own.values()} | own


@lru_cache(maxsize=1024)
def _recognised(columns: tuple[str, ...]) -> dict[str, str]:
    by_key = _by_key(columns)
    found = {name: by_key[hit] for name, aliases in ALIASES.items() if (hit := _first(aliases, by_key))}
    # The two responses of a pair have names of one kind: "answer_a" goes with "answer_b".
    for one, other in zip(ALIASES["response_a"], ALIASES["response_b"], strict=True):
        if one in by_key and other in by_key:
            found |= {"response_a": by_key[one], "response_b": by_key[other]}
            break
    if "instruction" in by_key and "input" in by_key:  # Alpaca: the input belongs to the instruction
        found["input"] = by_key["input"]
    return found | {f"score{level_of(key)}": column for key, column in by_key.items() if level_of(key) is not None}


@lru_cache(maxsize=1024)
def _by_key(columns: tuple[str, ...]) -> dict[str, str]:
    return {_key(column): column for column in reversed(columns)}


def _key(column: str) -> str:
    return re.sub(r"[\s.-]+", "_", column.strip().lower())


def _first(aliases: tuple[str, ...], keys: Names) -> str | None:
    return next((alias for alias in aliases if alias in keys), None)


def column_of(name: str, row: Mapping[str, Any], names: Names) -> str:
    """The column that an error about `name` cites: the row's own, else the likeliest one."""
    if name in names:
        return names[name]
    keys, aliases = _by_key(tuple(row)), ALIASES.get(name, (name,))
    empty = _first(aliases, keys)
    return keys[empty] if empty else aliases[0] if any(key.startswith("orig_") for key in keys) else name


ADD = "Add for example: "


def advice(row: Mapping[str, Any], names: Names, lacking: tuple[str, ...], *, rubric: bool) -> str:
    """The columns of a row in which some were not recognised, and options of `sre judge` that name them."""
    free = [column for column in row if column not in names.values()]
    guesses = dict(zip(lacking, [*free, *["COLUMN"] * len(lacking)], strict=False))
    options = [f"--map {name}={shlex.quote(str(column))}" for name, column in guesses.items()]
    options += ["--rubric helpfulness"] if rubric else []
    shown = ", ".join(map(str, list(row)[:30]))
    return f"columns found: {shown or 'none'}. {ADD}{' '.join(options)}"
