"""Figures of a judge against the truth, with 95% bootstrap intervals. Pure: sequences in, numbers out.

What `pointwise_figures` returns (all but the counts are None where they can't be told):

    {"n": 150, "malformed": 15, "malformed_rate": 0.1,
     "pearson": {"value": 0.30, "low": 0.14, "high": 0.45, "n": 135},
     "spearman": {...}, "kendall": {...}, "qwk": {...}, "mae": 0.9,
     "accuracy": {"value": 0.39, "low": 0.31, "high": 0.47, "n": 150}}

A prediction of None is a malformed judgement: wrong for accuracy, left out of every other figure. `groups`
are the rows' prompt ids: rows of one prompt are not independent, so whole groups are resampled. Rows of
several random seeds are pooled by concatenating them with the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from recipe.evaluation.bootstrap import (
    bootstrap,
    correlation_moments,
    group_sums,
    kappa,
    kendall,
    mean,
    nothing,
    pearson,
    spearman,
    table_moments,
)

if TYPE_CHECKING:
    from recipe.evaluation.bootstrap import Matrix, Statistic

Figure = Literal["accuracy", "pearson", "spearman", "kendall", "qwk", "mae"]
FIGURES: tuple[Figure, ...] = ("accuracy", "pearson", "spearman", "kendall", "qwk", "mae")
RANKS = {"spearman": spearman, "kendall": kendall, "qwk": kappa}

MIN_PARSED = 20
"""Fewer parsed rows give no correlation (SPEC: benchmarks and their figures; ours)."""


def pointwise_figures(
    truth: Sequence[int],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
    expected: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Figures of n scores (SPEC: benchmarks): the dict in this module's docstring.

    Correlations, kappa (quadratic weights) and the mean absolute error are over the parsed rows; correlations
    and kappa are None with fewer than MIN_PARSED of them or where a side is constant. Accuracy is exact
    agreement over all rows. With `expected`, the rows' expected scores (None where not recorded), there is
    "pearson_expected" too, over the rows that are parsed and have one. Raises ValueError when the sequences
    differ in length.
    """
    _check(truth, predicted, groups)
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if p is not None]
    found = {
        **_counts(predicted),
        "pearson": pearson_figure(truth, predicted, groups, seed, resamples),
        **_rank_figures(truth, predicted, groups, seed, resamples),
        "mae": sum(abs(t - p) for t, p in pairs) / len(pairs) if pairs else None,
        "accuracy": _accuracy_figure(truth, predicted, groups, seed, resamples),
    }
    if expected is not None:
        finer = [None if p is None else e for p, e in zip(predicted, expected, strict=True)]
        found["pearson_expected"] = pearson_figure(truth, finer, groups, seed, resamples)
    return found


def pairwise_figures(
    truth: Sequence[int],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Figures of n preferences (1 or 2): n, malformed, malformed_rate and accuracy over all rows.

    Raises ValueError when the three sequences differ in length.
    """
    _check(truth, predicted, groups)
    return {**_counts(predicted), "accuracy": _accuracy_figure(truth, predicted, groups, seed, resamples)}


def rate_figure(
    outcomes: Sequence[float], groups: Sequence[str], seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """The mean of n outcomes (right 1, wrong 0, a tie 1/2) with its interval: {"value", "low", "high", "n"}."""
    import numpy as np

    if len(outcomes) != len(groups):
        raise ValueError(f"{len(outcomes)} outcomes and {len(groups)} groups differ")
    if not outcomes:
        return nothing(0)
    return bootstrap(group_sums([np.ones(len(outcomes)), outcomes], groups), mean, len(outcomes), seed, resamples)


def pearson_figure(
    truth: Sequence[float],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Pearson's r over the rows that have a prediction (a label or an expected score), as in `pointwise_figures`.

    With `strata` (each row's criterion) it is the correlation within them: each stratum's mean is subtracted from
    truth and prediction, anew in each resample.
    """
    import numpy as np

    _check(truth, predicted, groups)
    given = {k: value for k, value in enumerate(predicted) if value is not None}
    kept, t, p = list(given), [truth[k] for k in given], list(given.values())
    if not _can_correlate(t, p):
        return nothing(len(kept))
    x, y = np.array([t, p], dtype=np.float64)
    moments = correlation_moments(x, y, [groups[k] for k in kept], strata and [strata[k] for k in kept])
    return bootstrap(moments, pearson, len(kept), seed, resamples)


def paired_difference(
    truth: Sequence[int],
    first: Sequence[float | None],
    second: Sequence[float | None],
    groups: Sequence[str],
    figure: Figure = "accuracy",
    seed: int = 0,
    resamples: int = 2000,
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The figure of the second judge minus that of the first on the same rows: {"value", "low", "high", "n"}.

    Both come from the same resample of groups. Accuracy uses all rows (malformed is wrong on either side), the
    others the rows that both parsed; None as in `pointwise_figures`. For "pearson" a side may be expected
    scores, and `strata` makes it the correlation within them. "mae" is an error: below zero the second judge is better.
    Raises ValueError when the sequences differ in length or the figure is unknown.
    """
    import numpy as np

    _check(truth, first, groups)
    _check(truth, second, groups)
    if figure not in FIGURES:
        raise ValueError(f"expected one of {', '.join(FIGURES)}, not {figure!r}")
    if figure == "accuracy":
        return rate_figure(
            [credit(t, s) - credit(t, f) for t, f, s in zip(truth, first, second, strict=True)], groups, seed, resamples
        )
    rows = [
        (t, f, s, group, None if strata is None else strata[k])
        for k, (t, f, s, group) in enumerate(zip(truth, first, second, groups, strict=True))
        if f is not None and s is not None
    ]
    names = [row[3] for row in rows]
    if figure == "mae":
        return rate_figure([abs(s - t) - abs(f - t) for t, f, s, *_ in rows], names, seed, resamples)
    t, f, s = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    if not _can_correlate(t, f, s):
        return nothing(len(rows))
    one, other, statistic = _both_moments(t, f, s, names, figure, None if strata is None else [row[4] for row in rows])
    width = one.shape[1]
    moments = np.hstack([one, other])
    return bootstrap(
        moments, lambda sums: statistic(sums[:, width:]) - statistic(sums[:, :width]), len(rows), seed, resamples
    )


def position_figures(
    given: Sequence[int | None],
    swapped: Sequence[int | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """How far n pairwise labels (1 or 2) depend on the order: "n", "malformed", "consistent", "first".

    given: labels of the pairs as they stand; swapped: labels of the same pairs with the responses exchanged,
    as the judge said them. consistent: the share of pairs for which both name the same response, a pair with a
    malformed label counting as inconsistent. first: the share of "1" among all parsed labels; .5 is no bias.
    Raises ValueError when the sequences differ in length.
    """
    _check(given, swapped, groups)
    agree = [int(g is not None and s is not None and s == 3 - g) for g, s in zip(given, swapped, strict=True)]
    said = [
        (int(label == 1), group)
        for side in (given, swapped)
        for label, group in zip(side, groups, strict=True)
        if label is not None
    ]
    return {
        "n": len(agree),
        "malformed": sum(g is None or s is None for g, s in zip(given, swapped, strict=True)),
        "consistent": rate_figure(agree, groups, seed, resamples),
        "first": rate_figure([one for one, _ in said], [group for _, group in said], seed, resamples),
    }


def weighted_accuracy(
    outcomes: Sequence[float],
    strata: Sequence[str],
    groups: Sequence[str],
    weights: Mapping[str, float],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """The mean of the strata's mean outcomes, weighted: {"value", "low", "high", "n"} (RewardBench's categories).

    outcomes: n of right 1, wrong 0, a tie 1/2; strata: each one's subset. Subsets of `weights` without a row are
    left out of the mean, in a resample too; rows of other subsets are not counted.
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

    return bootstrap(group_sums(columns, [groups[k] for k in kept]), statistic, len(kept), seed, resamples)


def _check(truth: Sequence[Any], predicted: Sequence[Any], groups: Sequence[str]) -> None:
    if not len(truth) == len(predicted) == len(groups):
        raise ValueError(f"{len(truth)} truths, {len(predicted)} predictions and {len(groups)} groups differ")


def _counts(predicted: Sequence[float | None]) -> dict[str, Any]:
    malformed = sum(p is None for p in predicted)
    return {
        "n": len(predicted),
        "malformed": malformed,
        "malformed_rate": malformed / len(predicted) if predicted else None,
    }


def _can_correlate(*sides: Sequence[float]) -> bool:
    return len(sides[0]) >= MIN_PARSED and all(len(set(side)) > 1 for side in sides)


def _accuracy_figure(
    truth: Sequence[int], predicted: Sequence[float | None], groups: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
    return rate_figure([credit(t, p) for t, p in zip(truth, predicted, strict=True)], groups, seed, resamples)


def credit(truth: int, label: float | None) -> float:
    """1 for the true label, 1/2 for a tie between two responses (1.5), 0 for another label and for a malformed one."""
    return 0.0 if label is None else max(0.0, 1.0 - abs(truth - label))


def _rank_figures(
    truth: Sequence[int], predicted: Sequence[float | None], groups: Sequence[str], seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    """Spearman, Kendall (tau-b) and quadratic-weighted kappa of the parsed rows.

    The values are scipy's and scikit-learn's. Thousands of resamples at a millisecond each are too slow by
    them, so the intervals come from contingency tables (tests hold the two equal).
    """

    rows = [(t, p, g) for t, p, g in zip(truth, predicted, groups, strict=True) if p is not None]
    t, p = [row[0] for row in rows], [int(row[1]) for row in rows]
    if not _can_correlate(t, p):
        return {name: nothing(len(rows)) for name in ("spearman", "kendall", "qwk")}
    from scipy import stats
    from sklearn.metrics import cohen_kappa_score

    low, scale = _scale(t, p)
    values = {
        "spearman": stats.spearmanr(t, p).statistic,
        "kendall": stats.kendalltau(t, p).statistic,
        # scikit-learn weighs by the labels' positions: a label that nobody gave must still take its place.
        "qwk": cohen_kappa_score(t, p, weights="quadratic", labels=scale),
    }
    moments = table_moments([x - low for x in t], [x - low for x in p], len(scale), [row[2] for row in rows])
    return {
        name: {**bootstrap(moments, RANKS[name], len(rows), seed, resamples), "value": float(value)}
        for name, value in values.items()
    }


def _both_moments(
    t: Sequence[Any],
    f: Sequence[Any],
    s: Sequence[Any],
    groups: Sequence[str],
    figure: Figure,
    strata: Sequence[Any] | None,
) -> tuple[Matrix, Matrix, Statistic]:
    """Sums of (truth, first) and of (truth, second), and the statistic that turns either into the figure."""
    import numpy as np

    if figure == "pearson":
        x, y, z = np.array([t, f, s], dtype=np.float64)
        return correlation_moments(x, y, groups, strata), correlation_moments(x, z, groups, strata), pearson
    low, scale = _scale(t, f, s)
    t, f, s = ([value - low for value in side] for side in (t, f, s))
    one, other = (table_moments(t, side, len(scale), groups) for side in (f, s))
    return one, other, RANKS[figure]


def _scale(*sides: Sequence[int]) -> tuple[int, list[int]]:
    """The lowest score given, and all whole scores from it to the highest."""
    low, high = min(map(min, sides)), max(map(max, sides))
    return low, list(range(low, high + 1))
