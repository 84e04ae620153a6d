"""What follows from the probabilities of the labels."""

from __future__ import annotations

import math

import pytest

from recipe.data.records import Judgement


def judgement(logprobs: dict[int, float]) -> Judgement:
    return Judgement("i", "e", "pointwise", "t", "r", 3, label_logprobs=logprobs)


def test_expected_score_is_the_mean_over_normalised_label_probabilities() -> None:
    found = judgement({5: math.log(0.2), 1: math.log(0.1), 2: math.log(0.1)})
    assert found.label_probabilities == pytest.approx({1: 0.25, 2: 0.25, 5: 0.5})
    assert list(found.label_probabilities) == [1, 2, 5]
    assert found.expected_score == pytest.approx(3.25)


def test_very_small_probabilities_do_not_underflow() -> None:
    assert judgement({1: -2000.0, 2: -2000.0}).expected_score == pytest.approx(1.5)
    assert judgement({1: -math.inf, 2: -3.0}).expected_score == pytest.approx(2.0)


@pytest.mark.parametrize("logprobs", [{}, {1: -math.inf, 2: -math.inf}])
def test_without_recorded_probabilities_nothing_is_made_up(logprobs: dict[int, float]) -> None:
    found = judgement(logprobs)
    assert found.label_probabilities == {}
    assert (found.expected_score, found.entropy, found.confidence) == (None, None, None)


def test_entropy_is_in_nats_and_confidence_runs_from_even_to_sure() -> None:
    even, sure = judgement(dict.fromkeys(range(1, 6), -9.0)), judgement({1: 0.0, 2: -math.inf})
    assert even.entropy == pytest.approx(math.log(5))
    assert even.confidence == pytest.approx(0)
    assert (sure.entropy, sure.confidence) == (0, 1)
    half = judgement({1: math.log(0.5), 2: math.log(0.5), 3: -math.inf, 4: -math.inf})
    assert half.entropy == pytest.approx(math.log(2))
    assert half.confidence == pytest.approx(0.5)
    assert judgement({3: -1.0}).confidence == 1
