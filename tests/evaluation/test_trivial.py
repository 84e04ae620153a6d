"""The rules that need no model: what they say of rows whose shortcut is known."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from recipe.data.records import Example, Message, Rubric
from recipe.evaluation.trivial import CRITERION, FIRST, FITTED, LONGER, MAJORITY, SECOND, TIE, trivial_baselines


def scored(number: int, score: int, length: int, criteria: str = "Good?", reference: str = "") -> Example:
    turns = (Message("user", f"Ask {number}"),)
    row: dict[str, Any] = {"label": score, "prompt_id": f"p{number}", "reference": reference}
    return Example(f"row-{number}", "pointwise", turns, ("x" * length,), Rubric(criteria), **row)


def pair(number: int, better: int, lengths: tuple[int, int], criteria: str = "Better?") -> Example:
    turns = (Message("user", f"Ask {number}"),)
    responses = tuple("x" * length for length in lengths)
    return Example(f"pair-{number}", "pairwise", turns, responses, Rubric(criteria), better, prompt_id=f"p{number}")


def test_the_longer_response_is_picked_and_equal_lengths_are_a_tie() -> None:
    found = trivial_baselines([pair(0, 1, (9, 3)), pair(1, 1, (2, 5)), pair(2, 2, (4, 4))])
    assert [verdict.label for verdict in found[LONGER]] == [1, 2, TIE]
    assert {verdict.label for verdict in found[FIRST]} == {1}
    assert {verdict.label for verdict in found[SECOND]} == {2}


def test_a_longer_response_has_a_higher_score_but_no_label() -> None:
    found = trivial_baselines([scored(0, 1, 5), scored(1, 1, 50), scored(2, 5, 500)])[LONGER]
    assert [verdict.label for verdict in found] == [None, None, None]
    assert sorted(found, key=lambda verdict: verdict.expected_score or 0) == found


def test_the_majority_is_that_of_the_training_rows_of_the_same_task() -> None:
    rows = [scored(0, 4, 5), scored(1, 4, 5)]
    assert trivial_baselines(rows)[MAJORITY][0].label == 4
    train = [scored(k, 2, 5) for k in range(30)] + [pair(k, 1, (1, 2)) for k in range(30)]
    assert trivial_baselines(rows, train)[MAJORITY][0].label == 2
    assert trivial_baselines([pair(0, 2, (1, 2))], train)[MAJORITY][0].label == 1


def test_a_criterions_mean_is_taken_over_the_training_rows_and_an_unknown_one_gets_that_of_all() -> None:
    train = [scored(k, 1 + k % 2, 5, "dull") for k in range(20)] + [scored(k, 5, 5, "bright") for k in range(20)]
    rows = [scored(0, 1, 5, "bright"), scored(1, 1, 5, "dull"), scored(2, 1, 5, "new")]
    found = trivial_baselines(rows, train)[CRITERION]
    assert [verdict.expected_score for verdict in found] == [pytest.approx(5), pytest.approx(1.5), pytest.approx(3.25)]
    assert [verdict.label for verdict in found] == [5, 2, 3]


def test_the_fitted_rule_learns_from_length_criterion_and_reference() -> None:
    draw = random.Random(0)

    def row(number: int) -> Example:
        known, reference, length = draw.random() < 0.5, draw.random() < 0.5, draw.choice((10, 1000))
        score = 1 + 2 * known + reference + (length == 1000)
        return scored(number, score, length, "bright" if known else "dull", "An answer." if reference else "")

    train, rows = [row(k) for k in range(300)], [row(k) for k in range(300, 400)]
    found = trivial_baselines(rows, train)[FITTED]
    assert np.corrcoef([v.expected_score or 0 for v in found], [r.label or 0 for r in rows])[0, 1] > 0.98
    assert trivial_baselines(rows, train)[FITTED] == found


def test_a_criterion_that_carries_nothing_gains_nothing_by_its_own_rows() -> None:
    """Each training row has a criterion of its own: a mean that held the row's own label would be the label."""
    draw = random.Random(0)
    train = [scored(k, draw.randint(1, 5), 10 + 100 * (k % 2), f"criterion {k}") for k in range(200)]
    found = trivial_baselines([scored(900, 3, 10, "new"), scored(901, 3, 110, "new")], train)[FITTED]
    assert all(2 < (verdict.expected_score or 0) < 4 for verdict in found)


def test_pairs_in_training_teach_which_length_wins() -> None:
    draw = random.Random(0)
    train = [pair(k, better, (3, 9) if better == 1 else (9, 3)) for k in range(60) for better in [draw.choice((1, 2))]]
    found = trivial_baselines([pair(900, 1, (2, 8)), pair(901, 1, (8, 2))], train)[FITTED]
    assert [verdict.label for verdict in found] == [1, 2]


def test_few_training_rows_of_the_task_fit_no_rule() -> None:
    found = trivial_baselines([pair(0, 2, (1, 2))], [pair(k, 1 + k % 2, (1, 2)) for k in range(19)])
    assert set(found) == {LONGER, MAJORITY, FIRST, SECOND}
    assert trivial_baselines([]) == {}
