"""Which rows a run takes of its data: drawn evenly, never the first of a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from recipe.config import DataConfig
from recipe.data.selection import select_rows


@pytest.fixture
def sorted_rows(tmp_path: Path) -> Path:
    """200 rows in the worst order: by label, then by rubric, then by prompt."""
    rows = [
        {
            "orig_instruction": f"Question {prompt}?",
            "orig_response": f"Answer {label} {rubric} {prompt}",
            "orig_criteria": f"Rubric {rubric}",
            "orig_score": str(label),
            "orig_feedback": "Because.",
        }
        for label in range(1, 6)
        for rubric in range(4)
        for prompt in range(10)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_limited_training_rows_are_even_over_labels_rubrics_and_prompts(sorted_rows: Path) -> None:
    data = DataConfig(pointwise=str(sorted_rows), train_pointwise=40, dev_split="", test_split="")
    rows = select_rows(data, "pointwise", "train")
    assert len(rows) == 40
    assert set(Counter(row.label for row in rows).values()) == {8}
    assert set(Counter((row.label, row.rubric.criteria) for row in rows).values()) == {2}
    assert len({row.prompt_id for row in rows}) >= 8


def test_the_seed_draws_the_rows(sorted_rows: Path) -> None:
    data = DataConfig(pointwise=str(sorted_rows), train_pointwise=40, dev_split="", test_split="")
    one, again, other = (select_rows(data, "pointwise", "train", seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert {row.id for row in one} != {row.id for row in other}
