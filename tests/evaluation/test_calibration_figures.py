"""Calibration error and Brier score against hand-computed cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.evaluation.metrics import calibration_figures


def sure(share: float, *, right: bool) -> tuple[dict[int, float], int]:
    """A distribution whose most probable label, 1, has this share, and a truth that makes it right or wrong."""
    return {1: share, 2: 1 - share}, 1 if right else 2


def test_figures_of_label_distributions_by_hand() -> None:
    sure_right, sure_wrong, torn = {1: 1.0, 2: 0.0}, {1: 1.0, 2: 0.0}, {1: 0.4, 2: 0.6}
    found = calibration_figures([sure_right, sure_wrong, torn, {}], [1, 2, 2, 1])
    assert found["n"] == 3
    assert found["brier"] == pytest.approx((0 + 2 + (0.16 + 0.16)) / 3)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 1.0) + abs(1 - 0.6)) / 3)


def test_without_probabilities_nothing_is_told() -> None:
    found = calibration_figures([{}, {}], [1, 2])
    assert (found["n"], found["ece"], found["brier"]) == (0, None, None)


def test_equals_count_for_the_lowest_label_and_a_truth_outside_the_labels_is_wrong() -> None:
    assert calibration_figures([{2: 0.5, 1: 0.5}], [1])["ece"] == 0.5
    assert calibration_figures([{2: 0.9, 1: 0.9}], [1])["ece"] == pytest.approx(0.1)
    found = calibration_figures([{1: 1.0}], [7])
    assert (found["brier"], found["ece"]) == (2, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), max_size=50))
def test_the_error_is_between_0_and_1(rows: list[tuple[float, bool]]) -> None:
    judged = [sure(share, right=right) for share, right in rows]
    found = calibration_figures([p for p, _ in judged], [t for _, t in judged])
    assert found["n"] == len(rows)
    assert found["ece"] is None if not rows else 0 <= found["ece"] <= 1


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="argument"):
        calibration_figures([{}], [])
