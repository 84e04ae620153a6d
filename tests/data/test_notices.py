"""What is told before a file is judged: what a reader of the file would do differently than was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.data.benchmark_formats import GENERAL
from recipe.data.examples import read_rows
from recipe.data.notices import notices
from recipe.data.rubrics import by_task, read_rubric

SCORED = {"question": "q", "answer": "a", "criteria": "Is it short?"}
CHOSEN = {"prompt": "q", "chosen": "x", "rejected": "y"}


def told(folder: Path, *rows: dict[str, Any], rubric: str = "") -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rubrics = by_task(read_rubric(rubric)) if rubric else {}
    return "\n".join(notices(list(read_rows(path, rubrics=rubrics)), rubrics))


@pytest.mark.parametrize(
    ("criteria", "name"),
    [("factualty", "factuality"), ("Code corectness", "code-correctness"), ("Helpfullness", "helpfulness")],
)
def test_criteria_that_are_nearly_a_ready_name_are_told_once(tmp_path: Path, criteria: str, name: str) -> None:
    found = told(tmp_path, *[{**SCORED, "criteria": criteria}] * 3)
    assert found.count(repr(criteria)) == found.count(repr(name)) == 1


@pytest.mark.parametrize("criteria", ["factuality", "Is it helpful?", "wit"])
def test_other_criteria_need_no_hint(tmp_path: Path, criteria: str) -> None:
    assert "did you mean" not in told(tmp_path, {**SCORED, "criteria": criteria})


def test_the_rubric_of_pairs_without_criteria_is_told(tmp_path: Path) -> None:
    text = GENERAL["pairwise"].criteria
    assert told(tmp_path, CHOSEN, CHOSEN).count(text) == 1
    assert text not in told(tmp_path, CHOSEN, rubric="Which is shorter?")
    assert text not in told(tmp_path, {**CHOSEN, "criteria": "Which is shorter?"})


def test_a_rubric_that_rows_do_not_take_is_told(tmp_path: Path) -> None:
    assert "'rubric'" in told(
        tmp_path, {"question": "q", "answer": "a", "rubric": "Is it short?"}, rubric="helpfulness"
    )
    assert "--rubric" not in told(tmp_path, SCORED)
    assert "--rubric" not in told(tmp_path, {**SCORED, "criteria": None}, rubric="helpfulness")


def test_filled_columns_that_no_row_is_read_from_are_named(tmp_path: Path) -> None:
    rows = {**SCORED, "Bewertung": 3, "score": None, "empty": ""}, {**SCORED, "score": 2, "correct": True}
    assert told(tmp_path, *rows).endswith("not used: Bewertung, correct")
    many = told(tmp_path, {**SCORED, **{f"c{k}": 1 for k in range(12)}})
    assert "c7" in many
    assert "c8" not in many
    assert many.endswith("and 4 more")
    assert "not used" not in told(tmp_path, SCORED)


def test_two_columns_that_may_be_the_response_are_told_with_the_one_taken(tmp_path: Path) -> None:
    rows = [{**SCORED, "completion": "b"}, {**SCORED, "completion": "c"}]
    found = told(tmp_path, *rows).splitlines()[-1]
    assert "completion is taken" in found
    assert "--map response=answer" in found
    assert "--map" not in told(tmp_path, SCORED)
    assert "--map" not in "".join(notices(list(read_rows(tmp_path / "rows.jsonl", columns={"response": "answer"})), {}))


def test_the_order_of_chosen_and_rejected_is_told(tmp_path: Path) -> None:
    assert "order" in told(tmp_path, CHOSEN)
    assert "order" not in told(tmp_path, {"prompt": "q", "answer_a": "x", "answer_b": "y"})


def test_columns_that_only_later_rows_fill_are_told(tmp_path: Path) -> None:
    assert "grade as score" in told(tmp_path, {**SCORED, "grade": None}, {**SCORED, "grade": 3})


def test_pairs_of_one_response_are_told(tmp_path: Path) -> None:
    pair = {"prompt": "q", "answer_a": "x", "answer_b": "y"}
    assert "1 of the first 2 rows" in told(tmp_path, pair, {**pair, "answer_b": "x"})
    assert "the same text" not in told(tmp_path, pair)


def test_the_label_of_the_other_task_is_not_read(tmp_path: Path) -> None:
    assert told(tmp_path, {**SCORED, "human_score": 3, "label": "x"}).endswith("human_score as score; not used: label")
