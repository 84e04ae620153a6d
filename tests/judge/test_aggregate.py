"""Several judgements of one example combined: majorities, ties, both orders. Figures computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from recipe.data.records import Example, Judgement, Message, Rubric, Task, exchanged
from recipe.judge.aggregate import both_orders, consensus


def judged(
    label: int | None, *, sample: int = 0, task: Task = "pointwise", example: str = "e", **p: float
) -> Judgement:
    """`p1=0.8` is the probability of label 1."""
    logprobs = {int(name[1:]): math.log(share) for name, share in p.items()}
    text = "?" if label is None else f"Reason {sample}. [RESULT] {label}"
    rationale = "" if label is None else f"Reason {sample}."
    return Judgement(f"{example}:m:{sample}", example, task, text, rationale, label, label_logprobs=logprobs)


def pair(label: int | None, **p: Any) -> Judgement:
    return judged(label, task="pairwise", **p)


def test_the_majority_label_comes_with_its_votes_mean_and_spread() -> None:
    found = consensus([judged(label, sample=k) for k, label in enumerate((4, 2, 4, None, 5))])
    assert (found.example_id, found.task, found.label) == ("e", "pointwise", 4)
    assert found.votes == {2: 1, 4: 2, 5: 1}
    assert (found.mean, found.malformed, len(found.samples)) == (3.75, 1, 5)
    assert found.spread == pytest.approx(math.sqrt((0.25**2 + 1.75**2 + 0.25**2 + 1.25**2) / 4))


def test_a_tie_goes_to_the_label_with_the_higher_mean_probability() -> None:
    samples = [judged(2, p2=0.6, p5=0.4), judged(5, sample=1, p2=0.1, p5=0.9)]
    assert consensus(samples).label == 5
    assert consensus(samples).label_probabilities == pytest.approx({2: 0.35, 5: 0.65})
    assert consensus(samples).expected_score == pytest.approx(2 * 0.35 + 5 * 0.65)


def test_a_tie_without_probabilities_goes_to_the_lower_label() -> None:
    assert consensus([judged(5), judged(2, sample=1)]).label == 2
    assert consensus([judged(5), judged(2, sample=1)]).confidence is None


def test_more_votes_beat_more_probability() -> None:
    assert consensus([judged(1, p1=0.5, p5=0.5), judged(1, p1=0.5, p5=0.5), judged(5, p1=0.01, p5=0.99)]).label == 1


def test_the_rationale_is_of_the_sample_that_is_surest_of_the_majority_label() -> None:
    samples = [judged(4, p4=0.6, p5=0.4), judged(4, sample=1, p4=0.9, p5=0.1), judged(5, sample=2, p4=0.05, p5=0.95)]
    found = consensus(samples)
    assert found.judgement is samples[1]
    assert found.rationale == "Reason 1."


def test_all_malformed_has_no_label_and_guesses_none() -> None:
    found = consensus([judged(None, p4=0.9, p5=0.1), judged(None, sample=1)])
    assert (found.label, found.mean, found.spread, found.votes, found.malformed) == (None, None, None, {}, 2)
    assert (found.judgement, found.rationale) == (None, "")


def test_a_label_of_0_is_a_label() -> None:
    found = consensus([judged(0, p0=0.9, p1=0.1), judged(0, sample=1, p0=0.8, p1=0.2), judged(1, sample=2)])
    assert (found.label, found.votes, found.mean) == (0, {0: 2, 1: 1}, pytest.approx(1 / 3))
    assert found.judgement is found.samples[0]


@pytest.mark.parametrize("judgements", [[], [judged(1), judged(1, example="other")]])
def test_only_samples_of_one_example_are_combined(judgements: list[Judgement]) -> None:
    with pytest.raises(ValueError, match="one example"):
        consensus(judgements)


# Both orders. The swapped judgement names the responses the other way round: its 1 is the example's 2.


def test_orders_that_agree_are_consistent_and_give_the_label() -> None:
    first, swapped = pair(2, p1=0.2, p2=0.8), pair(1, example="e:swapped", p1=0.6, p2=0.4)
    found = both_orders(first, swapped)
    assert (found.example_id, found.label, found.consistent, found.swapped_label) == ("e", 2, True, 2)
    assert found.preference == pytest.approx(0.7)
    assert found.label_probabilities == pytest.approx({1: 0.3, 2: 0.7})
    assert found.expected_score == pytest.approx(1.7)
    assert found.judgement is first


@pytest.mark.parametrize(("tie", "label"), [("probability", 1), ("first", 2), ("tie", None)])
def test_orders_that_disagree_go_by_the_tie_rule(tie: Any, label: int | None) -> None:
    first, swapped = pair(2, p1=0.4, p2=0.6), pair(2, p1=0.1, p2=0.9)  # the place decides: always the second
    found = both_orders(first, swapped, tie)
    assert (found.label, found.consistent) == (label, False)
    assert found.preference == pytest.approx((0.6 + 0.1) / 2)
    assert found.judgement is (swapped if label == 1 else first)


@pytest.mark.parametrize("probabilities", [{}, {"p1": 0.5, "p2": 0.5}])
def test_even_or_unknown_probabilities_decide_nothing(probabilities: dict[str, float]) -> None:
    found = both_orders(pair(1, **probabilities), pair(1, **probabilities))
    assert (found.label, found.consistent) == (None, False)
    assert found.preference == (0.5 if probabilities else None)


@pytest.mark.parametrize("tie", ["probability", "first", "tie"])
def test_a_malformed_order_gives_no_label_under_any_rule(tie: Any) -> None:
    found = both_orders(pair(1, p1=0.9, p2=0.1), pair(None), tie)
    assert (found.label, found.consistent, found.preference) == (None, None, None)
    assert found.label_probabilities == {}


def test_exchanging_a_pair_exchanges_responses_and_truth() -> None:
    example = Example("e", "pairwise", (Message("user", "q"),), ("a", "b"), Rubric("c"), 1, rationale="A is first.")
    other = exchanged(example)
    assert (other.id, other.responses, other.label, other.rationale) == ("e:swapped", ("b", "a"), 2, "A is first.")
    assert exchanged(other) == example
