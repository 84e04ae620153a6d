"""Self-consistency, on samples whose outcome is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.data.records import Judgement
from recipe.evaluation.evaluate import _label_draws, self_consistency


def sample(example: str, number: int, label: int | None, **changes: Any) -> Judgement:
    fields: dict[str, Any] = {
        "id": f"{example}:sft:{number}",
        "example_id": example,
        "task": "pointwise",
        "text": "",
        "rationale": f"because {number}" if label else "",
        "label": label,
        "origin": "sft",
    }
    return Judgement(**fields | changes)


def pool(example: str, *labels: int | None) -> list[Judgement]:
    return [sample(example, number, label) for number, label in enumerate(labels)]


def test_the_majority_is_the_label_and_its_rationale_goes_with_it() -> None:
    (found,) = self_consistency(pool("a", 3, 4, 4, None, 2))
    assert (found.label, found.rationale, found.example_id) == (4, "because 1", "a")
    assert found.origin == "sft-consistency-5"


def test_the_distribution_is_the_mean_of_the_samples() -> None:
    shares = [{1: 0.2, 2: 0.8}, {1: 0.6, 2: 0.4}]
    samples = [
        sample("a", k, 2, label_logprobs={label: math.log(p) for label, p in share.items()})
        for k, share in enumerate(shares)
    ]
    (found,) = self_consistency(samples)
    assert found.label_probabilities == {1: pytest.approx(0.4), 2: pytest.approx(0.6)}
    assert found.expected_score == pytest.approx(1.6)


def test_all_malformed_stays_malformed_and_examples_keep_their_order() -> None:
    found = self_consistency([*pool("b", None, None), *pool("a", 2, 2)])
    assert [(one.example_id, one.label) for one in found] == [("b", None), ("a", 2)]


@given(st.lists(st.sampled_from([None, 1, 2, 3]), min_size=1, max_size=9))
def test_no_other_label_has_more_votes_than_the_winner(labels: list[int | None]) -> None:
    (found,) = self_consistency(pool("a", *labels))
    given = [label for label in labels if label is not None]
    assert found.label is None if not given else given.count(found.label) == max(map(given.count, given))


def test_labels_are_drawn_as_often_as_they_are_probable() -> None:
    shares = {1: math.log(0.1), 4: math.log(0.9)}
    alone = sample("a", 0, 4, label_logprobs=shares)
    draws = _label_draws(alone, 1000, seed=0)
    assert [draw.sample for draw in draws] == list(range(1000))
    assert sum(draw.label == 4 for draw in draws) == pytest.approx(900, abs=40)
    assert draws == _label_draws(alone, 1000, seed=0) != _label_draws(alone, 1000, seed=1)
    (majority,) = self_consistency(draws[:5])
    assert majority.label == 4
