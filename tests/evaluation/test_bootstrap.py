"""Statistics from sums are those of scipy and scikit-learn, for any rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from recipe.evaluation.bootstrap import bootstrap, correlation_moments, kappa, mean, pearson

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=50)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_statistics_of_sums_are_those_of_the_libraries(pairs: list[tuple[int, int]]) -> None:
    truth, label = np.array(pairs, dtype=float).T
    sums = correlation_moments(truth, label, ["p"] * len(pairs))
    found = [float(statistic(sums)[0]) for statistic in (pearson, kappa)]
    if len(set(truth)) == 1 or len(set(label)) == 1:
        assert np.isnan(found).all()
        return
    assert found[0] == pytest.approx(stats.pearsonr(truth, label).statistic, abs=1e-9)
    expected = cohen_kappa_score(truth.astype(int), label.astype(int), weights="quadratic", labels=range(5))
    assert found[1] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 4), st.sampled_from("abc")), min_size=3, max_size=40))
def test_within_strata_it_is_the_correlation_of_what_is_left_without_their_means(
    rows: list[tuple[int, float, str]],
) -> None:
    x, y = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    strata = [row[2] for row in rows]
    found = float(pearson(correlation_moments(x, y, ["p"] * len(rows), strata))[0]) if len(rows) > 3 else 0.0
    for name in set(strata):
        inside = np.array([stratum == name for stratum in strata])
        x[inside] -= x[inside].mean()
        y[inside] -= y[inside].mean()
    if len(rows) > 3 and x.std() > 1e-3 and y.std() > 1e-3:
        assert found == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_many_strata_take_little_memory_and_give_the_same_value() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 900))
    y += x
    strata, groups = [f"criterion {k % 300}" for k in range(900)], [f"p{k}" for k in range(900)]
    few = correlation_moments(x[:450], y[:450], groups[:450], strata[:150] * 3)
    assert few.shape == (450, 6 * 150)
    many = correlation_moments(x, y, groups, strata)
    assert many.shape == (900, 6)
    for k in range(300):
        x[k::300] -= x[k::300].mean()
        y[k::300] -= y[k::300].mean()
    assert float(pearson(many.sum(axis=0, keepdims=True))[0]) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_a_statistic_without_a_value_gives_no_figure() -> None:
    found = bootstrap(np.array([[0.0, 0.0], [0.0, 0.0]]), lambda sums: sums[:, 0] * np.nan, 5, 100)
    assert found == {"value": None, "low": None, "high": None, "n": 5}
    assert bootstrap(np.zeros((0, 2)), mean, 0, 100)["value"] is None
