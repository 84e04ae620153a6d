"""Figures against scipy and scikit-learn on the full sample, and what the bootstrap must and must not do."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recipe.evaluation.metrics import (
    MIN_PARSED,
    paired_difference,
    pairwise_figures,
    pointwise_figures,
    rate_figure,
    weighted_accuracy,
)

Rows = tuple[list[int], list[int | None], list[str]]


def noisy(n: int, *, prompts: int = 60, malformed: float = 0.1, noise: float = 1.0, seed: int = 0) -> Rows:
    """n scores, predictions near them, and the prompts they belong to."""
    draw = random.Random(seed)
    truth = [draw.randint(1, 5) for _ in range(n)]
    predicted = [None if draw.random() < malformed else min(5, max(1, round(draw.gauss(t, noise)))) for t in truth]
    return truth, predicted, [f"p{draw.randrange(prompts)}" for _ in range(n)]


def parsed(rows: Rows) -> tuple[list[int], list[int]]:
    pairs = [(t, p) for t, p in zip(rows[0], rows[1], strict=True) if p is not None]
    return [t for t, _ in pairs], [p for _, p in pairs]


scores = st.lists(
    st.tuples(st.integers(1, 5), st.one_of(st.none(), st.integers(1, 5)), st.sampled_from("abcdefgh")),
    max_size=60,
)


@pytest.mark.parametrize("seed", range(3))
def test_full_sample_values_are_those_of_scipy(seed: int) -> None:
    rows = noisy(300, seed=seed)
    truth, predicted = parsed(rows)
    found = pointwise_figures(*rows, resamples=10)
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(truth, predicted).statistic)
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(truth, predicted).statistic)
    assert found["kendall"]["value"] == pytest.approx(stats.kendalltau(truth, predicted).statistic)
    assert found["pearson"]["n"] == len(truth)


def test_malformed_is_wrong_for_accuracy_and_left_out_elsewhere() -> None:
    truth = [1, 2, 3, 4, 5] * 8
    predicted: list[int | None] = [*truth[:30], *[None] * 10]
    found = pointwise_figures(truth, predicted, [str(i) for i in range(40)])
    assert (found["n"], found["malformed"], found["malformed_rate"]) == (40, 10, 0.25)
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.75, 40)
    assert (found["pearson"]["value"], found["pearson"]["n"]) == (pytest.approx(1.0), 30)


def test_pairwise_figures_are_accuracy_and_counts_alone() -> None:
    found = pairwise_figures([1, 2, 1, 2], [1, 2, 2, None], ["a", "b", "c", "d"])
    assert {k: v for k, v in found.items() if k != "accuracy"} == {
        "n": 4,
        "malformed": 1,
        "malformed_rate": 0.25,
    }
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.5, 4)
    assert 0 <= found["accuracy"]["low"] <= 0.5 <= found["accuracy"]["high"] <= 1


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        ([1, 2, 3] * 6, [1, 2, 3] * 6),
        ([3] * 40, [1, 2] * 20),
        ([1, 2] * 20, [4] * 40),
        ([1, 2] * 20, [None] * 40),
        ([1, 2] * 20, [*([1, 2] * 9), *[None] * 22]),
        ([], []),
    ],
    ids=["too few", "truth constant", "prediction constant", "none parsed", "too few parsed", "no rows"],
)
def test_correlations_are_null_where_they_can_not_be_told(truth: list[int], predicted: list[int | None]) -> None:
    found = pointwise_figures(truth, predicted, [str(i) for i in range(len(truth))])
    assert found["pearson"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": sum(p is not None for p in predicted),
    }
    assert found["spearman"] == found["kendall"] == found["pearson"]


def test_no_rows_give_no_figure_at_all() -> None:
    found = pointwise_figures([], [], [])
    assert (found["n"], found["malformed_rate"]) == (0, None)
    assert found["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    assert pairwise_figures([], [], [])["accuracy"]["value"] is None


def test_the_twentieth_parsed_row_makes_a_correlation() -> None:
    truth = [1, 2] * (MIN_PARSED // 2)
    groups = [str(i) for i in range(MIN_PARSED)]
    assert pointwise_figures(truth, truth, groups)["pearson"]["value"] == pytest.approx(1.0)
    assert pointwise_figures(truth[1:], truth[1:], groups[1:])["pearson"]["value"] is None


def test_intervals_are_those_of_resampling_whole_prompts_one_by_one() -> None:
    rows = noisy(200, prompts=25, seed=4)
    found = pointwise_figures(*rows, resamples=4000)
    draw = random.Random(1)
    members = {g: [i for i, name in enumerate(rows[2]) if name == g] for g in set(rows[2])}
    accuracies, correlations = [], []
    for _ in range(1500):
        picked = [i for g in draw.choices(sorted(members), k=len(members)) for i in members[g]]
        accuracies.append(np.mean([rows[0][i] == rows[1][i] for i in picked]))
        pairs = [(rows[0][i], rows[1][i]) for i in picked if rows[1][i] is not None]
        correlations.append(np.corrcoef(np.array(pairs, dtype=float).T)[0, 1])
    for name, drawn in (("accuracy", accuracies), ("pearson", correlations)):
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found[name]["low"] == pytest.approx(low, abs=0.015)
        assert found[name]["high"] == pytest.approx(high, abs=0.015)


def test_rank_intervals_are_those_of_resampling_whole_prompts_one_by_one() -> None:
    rows = noisy(120, prompts=20, malformed=0, seed=4)
    found = pointwise_figures(*rows, resamples=4000)
    draw = random.Random(1)
    members = {g: [i for i, name in enumerate(rows[2]) if name == g] for g in set(rows[2])}
    measures = {
        "spearman": lambda t, p: stats.spearmanr(t, p).statistic,
    }
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(600):
        picked = [i for g in draw.choices(sorted(members), k=len(members)) for i in members[g]]
        for name, measure in measures.items():
            drawn[name].append(measure([rows[0][i] for i in picked], [rows[1][i] for i in picked]))
    for name, values in drawn.items():
        low, high = np.percentile(values, [2.5, 97.5])
        assert found[name]["low"] == pytest.approx(low, abs=0.04)
        assert found[name]["high"] == pytest.approx(high, abs=0.04)


def test_rows_of_one_prompt_widen_the_interval() -> None:
    right = [1] * 50 + [0] * 50
    truth, predicted = [1] * 100, [1 if r else 2 for r in right]
    alone = pairwise_figures(truth, predicted, [str(i) for i in range(100)])["accuracy"]
    together = pairwise_figures(truth, predicted, [str(i // 10) for i in range(100)])["accuracy"]
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


def test_one_prompt_has_a_value_and_no_interval() -> None:
    found = pairwise_figures([1, 2, 1], [1, 2, 2], ["p"] * 3)["accuracy"]
    assert found == {"value": pytest.approx(2 / 3), "low": None, "high": None, "n": 3}


def test_pooling_seeds_under_the_same_prompts_keeps_the_interval_honest() -> None:
    """Copies of the same rows bring no information: the interval must not shrink."""
    truth, predicted, groups = noisy(150, prompts=150, seed=2)
    once = pointwise_figures(truth, predicted, groups)
    thrice = pointwise_figures(truth * 3, predicted * 3, groups * 3)
    for name in ("pearson", "accuracy"):
        assert thrice[name]["n"] == 3 * once[name]["n"]
        for side in ("value", "low", "high"):
            assert thrice[name][side] == pytest.approx(once[name][side])


def test_a_resample_without_spread_is_left_out() -> None:
    truth = [1] * 30 + [5]
    groups = ["most"] * 30 + ["one"]
    found = pointwise_figures(truth, truth, groups, resamples=50)["pearson"]
    assert found == {
        "value": pytest.approx(1.0),
        "low": pytest.approx(1.0),
        "high": pytest.approx(1.0),
        "n": 31,
    }


@settings(max_examples=60, deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_same_seed_and_any_row_order_give_the_same_figures(
    rows: list[tuple[int, int | None, str]], order: random.Random
) -> None:
    shuffled = order.sample(rows, len(rows))
    one, again, other = (
        pointwise_figures([r[0] for r in v], [r[1] for r in v], [r[2] for r in v], resamples=40)
        for v in (rows, rows, shuffled)
    )
    assert one == again
    assert one["accuracy"] == other["accuracy"]
    assert one["pearson"] == other["pearson"]


@settings(max_examples=60, deadline=None)
@given(scores)
def test_figures_stay_in_their_ranges(rows: list[tuple[int, int | None, str]]) -> None:
    found = pointwise_figures([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], resamples=30)
    for name, least in (("accuracy", 0), ("pearson", -1)):
        for side in ("value", "low", "high"):
            assert found[name][side] is None or least <= found[name][side] <= 1
        if found[name]["low"] is not None:
            assert found[name]["low"] <= found[name]["high"]
    assert found["malformed"] + found["pearson"]["n"] == found["n"] == found["accuracy"]["n"]


def test_a_judge_does_not_differ_from_itself() -> None:
    truth, predicted, groups = noisy(100)
    found = paired_difference(truth, predicted, predicted, groups, resamples=50)
    assert (found["value"], found["low"], found["high"]) == (0, 0, 0)


def test_the_difference_is_second_minus_first_on_the_rows_each_figure_uses() -> None:
    truth, first, groups = noisy(200, noise=2.0, seed=1)
    second = noisy(200, noise=0.4, seed=1)[1]
    both = [i for i in range(200) if first[i] is not None and second[i] is not None]
    a, b = (stats.pearsonr([truth[i] for i in both], [side[i] for i in both]).statistic for side in (first, second))
    found = paired_difference(truth, first, second, groups)
    assert (found["value"], found["n"]) == (pytest.approx(b - a), len(both))
    assert found["low"] > 0


def test_expected_scores_can_be_compared_with_labels() -> None:
    truth, labels, groups = noisy(200, noise=1.5, seed=2)
    finer = [None if label is None else label + 0.4 * (t - label) for t, label in zip(truth, labels, strict=True)]
    both = pointwise_figures(truth, labels, groups, expected=finer)
    assert both["pearson_expected"]["value"] > both["pearson"]["value"]
    assert both["pearson_expected"]["n"] == both["pearson"]["n"]
    found = paired_difference(truth, labels, finer, groups)
    assert found["value"] == pytest.approx(both["pearson_expected"]["value"] - both["pearson"]["value"])


def test_an_expected_score_of_a_malformed_row_or_a_missing_one_is_left_out() -> None:
    truth = [1, 2, 3, 4] * 10
    labels: list[int | None] = [None, None, *truth[2:]]
    expected: list[float | None] = [float(t) for t in truth]
    expected[5] = None
    found = pointwise_figures(truth, labels, [str(k) for k in range(40)], expected=expected)
    assert found["pearson_expected"]["n"] == 37
    assert "pearson_expected" not in pointwise_figures(truth, labels, ["p"] * 40)


def test_pairing_narrows_the_interval_of_two_alike_judges() -> None:
    truth, first, groups = noisy(300, prompts=300, malformed=0)
    second = [*first[:290], *truth[290:]]
    paired = paired_difference(truth, first, second, groups)
    alone = pointwise_figures(truth, first, groups)["pearson"]
    assert paired["high"] - paired["low"] < (alone["high"] - alone["low"]) / 2


def test_a_difference_of_correlations_is_null_where_either_is() -> None:
    truth, first, groups = noisy(60, malformed=0)
    found = paired_difference(truth, first, [3] * 60, groups)
    assert found == {"value": None, "low": None, "high": None, "n": 60}
    assert paired_difference([], [], [], [])["value"] is None


def test_a_weighted_accuracy_is_the_weighted_mean_of_the_subsets_accuracies() -> None:
    outcomes = [1, 1, 0, 0, 0.5, 1, 1]
    strata = ["math", "math", "math", "math", "code", "code", "other"]
    found = weighted_accuracy(outcomes, strata, [str(k) for k in range(7)], {"math": 3, "code": 1})
    assert found["value"] == pytest.approx((3 * 0.5 + 1 * 0.75) / 4)
    assert found["n"] == 6
    alone = weighted_accuracy(outcomes, strata, [str(k) for k in range(7)], {"math": 3, "code": 1, "missing": 9})
    assert alone["value"] == found["value"]
    assert weighted_accuracy(outcomes, strata, ["p"] * 7, {"missing": 1})["value"] is None


def test_a_weighted_accuracy_of_equal_shares_is_the_plain_one() -> None:
    outcomes, groups = [1, 0, 1, 1] * 20, [str(k % 37) for k in range(80)]
    strata = ["a", "a", "b", "b"] * 20
    weighted = weighted_accuracy(outcomes, strata, groups, {"a": 40, "b": 40})
    plain = rate_figure(outcomes, groups)
    assert weighted["value"] == pytest.approx(plain["value"])
    assert weighted["low"] == pytest.approx(plain["low"], abs=0.03)
    assert weighted["high"] == pytest.approx(plain["high"], abs=0.03)


def test_sequences_of_different_lengths_are_refused() -> None:
    for call in (pointwise_figures, pairwise_figures):
        with pytest.raises(ValueError, match=r"argument|differ"):
            call([1, 2], [1], ["a", "b"])
    with pytest.raises(ValueError, match=r"argument|differ"):
        paired_difference([1], [1], [1, 2], ["a"])


def test_two_thousand_resamples_of_four_hundred_rows_take_under_two_seconds() -> None:
    rows = noisy(400, prompts=400)
    pointwise_figures(*rows, resamples=2)  # imports scipy and scikit-learn
    start = time.process_time()
    pointwise_figures(*rows)
    assert time.process_time() - start < 2
