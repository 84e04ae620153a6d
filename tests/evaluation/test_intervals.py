"""Statistics from sums are those of scipy, for any rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recipe.evaluation.metrics import MIN_PARSED, bootstrap, correlation, mean, moments, pearson

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=50)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_statistics_of_sums_are_those_of_the_libraries(pairs: list[tuple[int, int]]) -> None:
    truth, label = np.array(pairs, dtype=float).T
    sums = np.sum(moments(truth, label), axis=1)[None]
    found = float(pearson(sums)[0])
    if len(set(truth)) == 1 or len(set(label)) == 1:
        assert np.isnan(found)
        return
    assert found == pytest.approx(stats.pearsonr(truth, label).statistic, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 4), st.sampled_from("abc")), min_size=MIN_PARSED, max_size=40)
)
def test_within_strata_it_is_the_correlation_of_what_is_left_without_their_means(
    rows: list[tuple[int, float, str]],
) -> None:
    x, y = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    strata, groups = [row[2] for row in rows], [str(k) for k in range(len(rows))]
    found = correlation(x.tolist(), y.tolist(), groups, 10, strata=strata)["value"]
    for name in set(strata):
        inside = np.array([stratum == name for stratum in strata])
        x[inside] -= x[inside].mean()
        y[inside] -= y[inside].mean()
    if x.std() > 1e-3 and y.std() > 1e-3:
        assert found == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_a_side_that_is_constant_within_every_stratum_has_no_correlation_there() -> None:
    strata = ["a", "b", "c"] * 10
    constant = [{"a": 0.1, "b": 0.7, "c": 1 / 3}[name] for name in strata]
    found = correlation([k % 5 for k in range(30)], constant, [str(k) for k in range(30)], strata=strata)
    assert (found["value"], found["n"]) == (None, 30)


def test_a_statistic_without_a_value_gives_no_figure() -> None:
    found = bootstrap([[0.0] * 5], ["a", "b", "a", "b", "a"], lambda sums: sums[:, 0] * np.nan, 100)
    assert found == {"value": None, "low": None, "high": None, "n": 5}
    assert bootstrap([[], []], [], mean, 100)["value"] is None
