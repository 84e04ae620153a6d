"""Figures of a judge against the truth, with 95% bootstrap intervals. Pure: sequences in, numbers out.

What `pointwise_figures` returns (a figure that is undefined has None for its value):

    {"n": 150, "malformed": 15, "malformed_rate": 0.1,
     "pearson": {"value": 0.30, "low": 0.14, "high": 0.45, "n": 135},
     "spearman": {...}, "kendall": {...}, "qwk": {...}, "mae": 0.9,
     "accuracy": {"value": 0.39, "low": 0.31, "high": 0.47, "n": 150}}

A prediction of None is a malformed judgement: wrong for accuracy, left out of every other figure. `groups` are the
prompt ids of the rows: rows of one prompt are not independent, so whole groups are resampled. Rows of several random
seeds are pooled by concatenating them with the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipe.evaluation.bootstrap import bootstrap, correlation_moments, group_sums, kappa, mean, nothing, pearson

if TYPE_CHECKING:
    from recipe.evaluation.bootstrap import Matrix

FIGURES = ("accuracy", "pearson", "spearman", "qwk", "mae")
"""What two judges can be compared by."""
MIN_PARSED = 20
"""Fewer parsed rows give no correlation."""


def pointwise_figures(
    truth: Sequence[int],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    resamples: int = 2000,
    expected: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Figures of scores: the dict in this module's docstring.

    Correlations, kappa (quadratic weights) and the mean absolute error are over the parsed rows. Correlations and kappa
    are undefined with fewer than MIN_PARSED of them or where a side is constant. Accuracy is exact agreement over all
    rows. Kendall's tau-b has no interval. With `expected`, the rows' expected scores, there is "pearson_expected" too,
    over the rows that are parsed and have one. Raises ValueError for lengths that differ.
    """
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if p is not None]
    found = {
        **pairwise_figures(truth, predicted, groups, resamples),
        **{name: correlation(truth, predicted, groups, resamples, name) for name in ("pearson", "spearman", "qwk")},
        "kendall": _kendall(pairs),
        "mae": sum(abs(t - p) for t, p in pairs) / len(pairs) if pairs else None,
    }
    if expected is not None:
        finer = [None if p is None else e for p, e in zip(predicted, expected, strict=True)]
        found["pearson_expected"] = correlation(truth, finer, groups, resamples)
    return found


def pairwise_figures(
    truth: Sequence[int], predicted: Sequence[float | None], groups: Sequence[str], resamples: int = 2000
) -> dict[str, Any]:
    """Figures of preferences (1 or 2): n, malformed, malformed_rate and accuracy over all rows."""
    malformed = sum(label is None for label in predicted)
    return {
        "n": len(predicted),
        "malformed": malformed,
        "malformed_rate": malformed / len(predicted) if predicted else None,
        "accuracy": rate_figure([credit(t, p) for t, p in zip(truth, predicted, strict=True)], groups, resamples),
    }


def credit(truth: int, label: float | None) -> float:
    """1 for the true label, 1/2 for a tie between two responses (1.5), 0 for another label and for a malformed one."""
    return 0.0 if label is None else max(0.0, 1.0 - abs(truth - label))


def rate_figure(outcomes: Sequence[float], groups: Sequence[str], resamples: int = 2000) -> dict[str, Any]:
    """The mean of n outcomes (right 1, wrong 0, a tie 1/2) with its interval: {"value", "low", "high", "n"}."""
    import numpy as np

    if len(outcomes) != len(groups):
        raise ValueError(f"{len(outcomes)} outcomes and {len(groups)} groups differ")
    if not outcomes:
        return nothing(0)
    return bootstrap(group_sums([np.ones(len(outcomes)), outcomes], groups), mean, len(outcomes), resamples)


def correlation(
    truth: Sequence[float],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    resamples: int = 2000,
    figure: str = "pearson",
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A correlation over the rows that have a prediction, a label or an expected score.

    Args:
        truth: The true scores.
        predicted: What was said of each row.
        groups: The rows' prompt ids.
        resamples: Of the bootstrap.
        figure: "pearson", "spearman" (over the rows' ranks among all of them) or "qwk".
        strata: Each row's criterion. The correlation is then within them: each stratum's mean is subtracted from truth
            and prediction, anew in each resample.
    """
    kept, sides, names, inside = _complete(groups, strata, truth, predicted)
    if not _can_correlate(*sides):
        return nothing(kept)
    x, y = _scaled(sides, figure)
    moments = correlation_moments(x, y, names, inside)
    return bootstrap(moments, kappa if figure == "qwk" else pearson, kept, resamples)


def paired_difference(
    truth: Sequence[int],
    first: Sequence[float | None],
    second: Sequence[float | None],
    groups: Sequence[str],
    figure: str = "accuracy",
    resamples: int = 2000,
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The figure of the second judge minus that of the first on the same rows: {"value", "low", "high", "n"}.

    Both come from the same resample of groups. Accuracy uses all rows (malformed is wrong on either side), the others
    the rows that both parsed. For a correlation a side may be expected scores; strata: see `correlation`. "mae" is an
    error: below zero the second judge is better. Raises ValueError for lengths that differ.
    """
    import numpy as np

    if figure == "accuracy":
        gains = [credit(t, s) - credit(t, f) for t, f, s in zip(truth, first, second, strict=True)]
        return rate_figure(gains, groups, resamples)
    kept, sides, names, inside = _complete(groups, strata, truth, first, second)
    if figure == "mae":
        return rate_figure([abs(s - t) - abs(f - t) for t, f, s in zip(*sides, strict=True)], names, resamples)
    if not _can_correlate(*sides):
        return nothing(kept)
    t, f, s = _scaled(sides, figure)
    moments = np.hstack([correlation_moments(t, side, names, inside) for side in (f, s)])
    half, statistic = moments.shape[1] // 2, kappa if figure == "qwk" else pearson
    return bootstrap(moments, lambda sums: statistic(sums[:, half:]) - statistic(sums[:, :half]), kept, resamples)


def weighted_accuracy(
    outcomes: Sequence[float],
    strata: Sequence[str],
    groups: Sequence[str],
    weights: Mapping[str, float],
    resamples: int = 2000,
) -> dict[str, Any]:
    """The mean of the strata's mean outcomes, weighted: {"value", "low", "high", "n"} (RewardBench's categories).

    Args:
        outcomes: Right 1, wrong 0, a tie 1/2.
        strata: Each one's subset; those that `weights` lacks are not counted.
        groups: Each one's prompt id.
        weights: Subset -> weight. One without a row is left out of the mean, in a resample too.
        resamples: Of the bootstrap.
    """
    import numpy as np

    kept = [k for k, name in enumerate(strata) if name in weights]
    if not kept:
        return nothing(0)
    present = sorted({strata[k] for k in kept})
    member = np.array([[float(strata[k] == name) for name in present] for k in kept])
    value = np.array([outcomes[k] for k in kept], dtype=np.float64)
    weight = np.array([weights[name] for name in present], dtype=np.float64)
    columns = [*member.T, *(member * value[:, None]).T]

    def statistic(sums: Matrix) -> Matrix:
        counts, right = sums[:, : len(present)], sums[:, len(present) :]
        share = np.where(counts > 0, weight, 0.0)
        means = np.divide(right, counts, out=np.zeros_like(right), where=counts > 0)
        found: Matrix = (share * means).sum(axis=1) / share.sum(axis=1)
        return found

    return bootstrap(group_sums(columns, [groups[k] for k in kept]), statistic, len(kept), resamples)


def _complete(groups: Sequence[str], strata: Sequence[str] | None, *sides: Sequence[float | None]) -> tuple[Any, ...]:
    """How many rows have a value on every side, and of these the sides, groups and strata."""
    rows = [k for k, row in enumerate(zip(*sides, strict=True)) if None not in row]
    kept = [[side[k] for k in rows] for side in sides]
    return len(rows), kept, [groups[k] for k in rows], strata and [strata[k] for k in rows]


def _scaled(sides: Sequence[Any], figure: str) -> list[Any]:
    """The sides as arrays, or their ranks."""
    import numpy as np

    if figure == "spearman":
        from scipy.stats import rankdata

        return [rankdata(side) for side in sides]
    return [np.array(side, dtype=np.float64) for side in sides]


def _can_correlate(*sides: Sequence[float]) -> bool:
    return len(sides[0]) >= MIN_PARSED and all(len(set(side)) > 1 for side in sides)


def _kendall(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    if not pairs or not _can_correlate(*zip(*pairs, strict=True)):
        return nothing(len(pairs))
    from scipy.stats import kendalltau

    return {**nothing(len(pairs)), "value": float(kendalltau(*zip(*pairs, strict=True)).statistic)}
