"""The statistics from contingency tables are those of scipy and scikit-learn, for any table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from recipe.evaluation.bootstrap import bootstrap, kappa, kendall, mean, spearman, table_moments

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=50)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_rank_statistics_of_a_table_are_those_of_the_libraries(pairs: list[tuple[int, int]]) -> None:
    truth, label = ([pair[side] for pair in pairs] for side in (0, 1))
    table = table_moments(truth, label, 5, ["p"] * len(pairs))
    found = [float(statistic(table)[0]) for statistic in (spearman, kendall, kappa)]
    if len(set(truth)) == 1 or len(set(label)) == 1:
        assert np.isnan(found).all()
        return
    assert found[0] == pytest.approx(stats.spearmanr(truth, label).statistic, abs=1e-9)
    assert found[1] == pytest.approx(stats.kendalltau(truth, label).statistic, abs=1e-9)
    expected = cohen_kappa_score(truth, label, weights="quadratic", labels=range(5))
    assert found[2] == pytest.approx(expected, abs=1e-9)


def test_a_weighted_table_is_the_table_of_repeated_rows() -> None:
    truth, label = [0, 1, 2, 4, 3], [1, 1, 2, 3, 0]
    counts = np.array([[3.0, 1.0, 0.0, 2.0, 1.0]])
    weighted = counts @ table_moments(truth, label, 5, list("abcde"))
    repeated = [k for k, count in enumerate(counts[0]) for _ in range(int(count))]
    plain = table_moments([truth[k] for k in repeated], [label[k] for k in repeated], 5, ["p"] * len(repeated))
    for statistic in (spearman, kendall, kappa):
        assert statistic(weighted)[0] == pytest.approx(statistic(plain)[0])


def test_a_statistic_without_a_value_gives_no_figure() -> None:
    found = bootstrap(np.array([[0.0, 0.0], [0.0, 0.0]]), lambda sums: sums[:, 0] * np.nan, 5, 0, 100)
    assert found == {"value": None, "low": None, "high": None, "n": 5}
    assert bootstrap(np.zeros((0, 2)), mean, 0, 0, 100)["value"] is None
