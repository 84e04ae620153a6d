"""What follows from the probabilities of the labels, and which rows show their reference."""

from __future__ import annotations

import math

import pytest

from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.data.selection import _with_references


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
    assert (found.expected_score, found.confidence) == (None, None)


def test_confidence_runs_from_even_to_sure() -> None:
    even, sure = judgement(dict.fromkeys(range(1, 6), -9.0)), judgement({1: 0.0, 2: -math.inf})
    assert even.confidence == pytest.approx(0)
    assert sure.confidence == 1
    half = judgement({1: math.log(0.5), 2: math.log(0.5), 3: -math.inf, 4: -math.inf})
    assert half.confidence == pytest.approx(0.5)
    assert judgement({3: -1.0}).confidence == 1


def test_a_share_of_the_references_is_kept_whatever_the_order() -> None:
    def row(number: int, reference: str) -> Example:
        rubric = Rubric("Is it there?")
        return Example(f"r{number}", "pointwise", (Message("user", "?"),), ("!",), rubric, 3, reference=reference)

    rows = [row(number, "the answer" if number % 2 else "") for number in range(400)]
    kept = _with_references(rows, 0.25, seed=1)
    shown = {example.id for example in kept if example.reference}
    assert 30 <= len(shown) <= 70  # of 200
    assert shown <= {example.id for example in rows if example.reference}
    assert {example.id for example in _with_references(rows[::-1], 0.25, seed=1) if example.reference} == shown
    assert {example.id for example in _with_references(rows, 0.25, seed=2) if example.reference} != shown
    assert _with_references(rows, 1.0, seed=1) == rows
    assert not any(example.reference for example in _with_references(rows, 0.0, seed=1))


def test_judgements_of_earlier_versions_are_read() -> None:
    found = judgement({1: -0.5, 2: -1.5})
    assert Judgement.from_json({**found.to_json(), "logprob": -1.5, "token_ids": [5, 6]}) == found
