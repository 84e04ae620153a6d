"""Reliability bins, calibration error, Brier score and the error histogram, against hand-computed cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.evaluation.calibration import calibration_figures, error_histogram


def sure(share: float, *, right: bool) -> tuple[dict[int, float], int]:
    """A distribution whose most probable label, 1, has this share, and a truth that makes it right or wrong."""
    return {1: share, 2: 1 - share}, 1 if right else 2


def test_rows_fall_into_their_bins_with_mean_confidence_and_accuracy() -> None:
    rows = [sure(0.55, right=False), sure(0.7, right=True), sure(0.75, right=False), sure(1.0, right=True)]
    table = calibration_figures([p for p, _ in rows], [t for _, t in rows], bins=4)["bins"]
    assert [row["n"] for row in table] == [0, 0, 2, 2]
    assert table[2]["confidence"] == pytest.approx(0.625)
    assert table[2]["accuracy"] == pytest.approx(0.5)
    assert table[3]["confidence"] == pytest.approx(0.875)
    assert (table[0]["low"], table[0]["high"], table[3]["high"]) == (0, 0.25, 1)
    assert table[0] == {"low": 0.0, "high": 0.25, "n": 0, "confidence": None, "accuracy": None}


def test_figures_of_label_distributions_by_hand() -> None:
    sure_right, sure_wrong, torn = {1: 1.0, 2: 0.0}, {1: 1.0, 2: 0.0}, {1: 0.4, 2: 0.6}
    found = calibration_figures([sure_right, sure_wrong, torn, {}], [1, 2, 2, 1])
    assert found["n"] == 3
    assert found["brier"] == pytest.approx((0 + 2 + (0.16 + 0.16)) / 3)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 1.0) + abs(1 - 0.6)) / 3)
    assert [row["n"] for row in found["bins"]] == [0, 0, 0, 0, 0, 0, 1, 0, 0, 2]


def test_without_probabilities_nothing_is_told() -> None:
    found = calibration_figures([{}, {}], [1, 2])
    assert (found["n"], found["ece"], found["brier"]) == (0, None, None)
    assert all(row["n"] == 0 for row in found["bins"])


def test_equals_count_for_the_lowest_label_and_a_truth_outside_the_labels_is_wrong() -> None:
    assert calibration_figures([{2: 0.5, 1: 0.5}], [1])["bins"][5]["accuracy"] == 1
    found = calibration_figures([{1: 1.0}], [7])
    assert (found["brier"], found["ece"]) == (2, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), max_size=50), st.integers(1, 20))
def test_every_row_is_in_one_bin_and_the_error_is_between_0_and_1(rows: list[tuple[float, bool]], bins: int) -> None:
    judged = [sure(share, right=right) for share, right in rows]
    found = calibration_figures([p for p, _ in judged], [t for _, t in judged], bins)
    assert sum(row["n"] for row in found["bins"]) == found["n"] == len(rows)
    for row in found["bins"]:
        if row["n"]:
            assert row["low"] - 1e-9 <= row["confidence"] <= row["high"] + 1e-9
    assert found["ece"] is None if not rows else 0 <= found["ece"] <= 1


def test_the_error_histogram_is_truth_minus_label() -> None:
    found = error_histogram([5, 5, 1, 3, 2], [5, 1, 4, None, 1])
    assert list(found) == [*(str(k) for k in range(-4, 5)), "malformed"]
    assert {key: n for key, n in found.items() if n} == {"0": 1, "4": 1, "-3": 1, "1": 1, "malformed": 1}
    with pytest.raises(ValueError, match="argument"):
        error_histogram([1], [])
    with pytest.raises(ValueError, match="argument"):
        calibration_figures([{}], [])
