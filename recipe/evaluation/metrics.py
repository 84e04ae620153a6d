"""Figures of a judge against the truth, with 95% bootstrap intervals. Pure: sequences in, numbers out.

What `pointwise_figures` returns (all but the counts are None where they can't be told):

    {"n": 150, "malformed": 15, "malformed_rate": 0.1,
     "pearson": {"value": 0.30, "low": 0.14, "high": 0.45, "n": 135},
     "spearman": 0.28, "kendall": 0.23, "qwk": 0.27, "mae": 0.9,
     "accuracy": {"value": 0.39, "low": 0.31, "high": 0.47, "n": 150}}

A prediction of None is a malformed judgement: wrong for accuracy, left out of every other figure. `groups`
are the rows' prompt ids: rows of one prompt are not independent, so whole groups are resampled. Rows of
several random seeds are pooled by concatenating them with the same groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

MIN_PARSED = 20
"""Fewer parsed rows give no correlation (SPEC: benchmarks and their figures; ours)."""


def pointwise_figures(
    truth: Sequence[int],
    predicted: Sequence[int | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Figures of n scores (SPEC: benchmarks): the dict in this module's docstring.

    Correlations, kappa (quadratic weights) and the mean absolute error are over the parsed rows; correlations
    and kappa are None with fewer than MIN_PARSED of them or where a side is constant. Accuracy is exact
    agreement over all rows. Raises ValueError when the three sequences differ in length.
    """
    _check(truth, predicted, groups)
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if p is not None]
    return {
        **_counts(predicted),
        "pearson": _pearson_figure(truth, predicted, groups, seed, resamples),
        **_rank_figures([t for t, _ in pairs], [p for _, p in pairs]),
        "mae": sum(abs(t - p) for t, p in pairs) / len(pairs) if pairs else None,
        "accuracy": _accuracy_figure(truth, predicted, groups, seed, resamples),
    }


def pairwise_figures(
    truth: Sequence[int],
    predicted: Sequence[int | None],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Figures of n preferences (1 or 2): n, malformed, malformed_rate and accuracy over all rows.

    Raises ValueError when the three sequences differ in length.
    """
    _check(truth, predicted, groups)
    return {**_counts(predicted), "accuracy": _accuracy_figure(truth, predicted, groups, seed, resamples)}


def paired_difference(
    truth: Sequence[int],
    first: Sequence[int | None],
    second: Sequence[int | None],
    groups: Sequence[str],
    figure: Literal["accuracy", "pearson"] = "accuracy",
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """How much better the second judge is than the first on the same rows: {"value", "low", "high", "n"}.

    The figure of `second` minus that of `first`, both from the same resample of groups. Accuracy uses all
    rows (malformed is wrong on either side), Pearson the rows that both parsed; None as in
    `pointwise_figures`. Raises ValueError when the sequences differ in length or the figure is unknown.
    """
    import numpy as np

    _check(truth, first, groups)
    _check(truth, second, groups)
    if figure == "accuracy":
        gain = [int(s == t) - int(f == t) for t, f, s in zip(truth, first, second, strict=True)]
        return _figure(_moments([np.ones(len(gain)), gain], groups), _mean, len(gain), seed, resamples)
    if figure != "pearson":
        raise ValueError(f"expected accuracy or pearson, not {figure!r}")
    rows = [
        (t, f, s, group)
        for t, f, s, group in zip(truth, first, second, groups, strict=True)
        if f is not None and s is not None
    ]
    if not _can_correlate([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]):
        return _nothing(len(rows))
    t, f, s = np.array([row[:3] for row in rows], dtype=np.float64).T
    names = [row[3] for row in rows]
    moments = np.hstack([_correlation_moments(t, f, names), _correlation_moments(t, s, names)])

    def difference(sums: Matrix) -> Matrix:
        return _pearson(sums[:, 6:]) - _pearson(sums[:, :6])

    return _figure(moments, difference, len(rows), seed, resamples)


def histogram(predicted: Sequence[int | None], labels: Sequence[int]) -> dict[str, int]:
    """How often each allowed label was given, and "malformed": {"1": 3, ..., "5": 46, "malformed": 15}.

    A judge that learned which label wins shows it here. Raises ValueError for a label that is not allowed.
    """
    counts = Counter(predicted)
    strange = counts.keys() - {None, *labels}
    if strange:
        raise ValueError(f"labels that are not among {list(labels)}: {sorted(map(str, strange))}")
    return {**{str(label): counts[label] for label in labels}, "malformed": counts[None]}


def _check(truth: Sequence[int], predicted: Sequence[int | None], groups: Sequence[str]) -> None:
    if not len(truth) == len(predicted) == len(groups):
        raise ValueError(f"{len(truth)} truths, {len(predicted)} predictions and {len(groups)} groups differ")


def _counts(predicted: Sequence[int | None]) -> dict[str, Any]:
    malformed = sum(p is None for p in predicted)
    return {
        "n": len(predicted),
        "malformed": malformed,
        "malformed_rate": malformed / len(predicted) if predicted else None,
    }


def _can_correlate(*sides: Sequence[int]) -> bool:
    return len(sides[0]) >= MIN_PARSED and all(len(set(side)) > 1 for side in sides)


def _rank_figures(truth: list[int], predicted: list[int]) -> dict[str, float | None]:
    """Spearman, Kendall (tau-b) and quadratic-weighted kappa of the parsed rows."""
    if not _can_correlate(truth, predicted):
        return {"spearman": None, "kendall": None, "qwk": None}
    from scipy import stats
    from sklearn.metrics import cohen_kappa_score

    # scikit-learn weighs by the labels' positions: a label that nobody gave must still take its place.
    scale = list(range(min(*truth, *predicted), max(*truth, *predicted) + 1))
    return {
        "spearman": float(stats.spearmanr(truth, predicted).statistic),
        "kendall": float(stats.kendalltau(truth, predicted).statistic),
        "qwk": float(cohen_kappa_score(truth, predicted, weights="quadratic", labels=scale)),
    }


def _accuracy_figure(
    truth: Sequence[int], predicted: Sequence[int | None], groups: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
    import numpy as np

    right = [int(t == p) for t, p in zip(truth, predicted, strict=True)]
    return _figure(_moments([np.ones(len(right)), right], groups), _mean, len(right), seed, resamples)


def _pearson_figure(
    truth: Sequence[int], predicted: Sequence[int | None], groups: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
    import numpy as np

    rows = [(t, p, g) for t, p, g in zip(truth, predicted, groups, strict=True) if p is not None]
    if not _can_correlate([t for t, _, _ in rows], [p for _, p, _ in rows]):
        return _nothing(len(rows))
    x, y = np.array([row[:2] for row in rows], dtype=np.float64).T
    moments = _correlation_moments(x, y, [group for _, _, group in rows])
    return _figure(moments, _pearson, len(rows), seed, resamples)


def _nothing(n: int) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "n": n}


def _figure(
    moments: Matrix, statistic: Callable[[Matrix], Matrix], n: int, seed: int, resamples: int
) -> dict[str, Any]:
    """The value and its 95% percentile interval. moments: [groups, k] sums; statistic: [m, k] -> [m].

    A resample draws as many groups as there are, with replacement. It enters as the count of each group, so
    all resamples are one matrix product [resamples, groups] @ [groups, k], equal to weighting the rows.
    Resamples without a value (a side came out constant) are left out. A single group has no interval.
    """
    import numpy as np

    if n == 0:
        return _nothing(0)
    value = float(statistic(moments.sum(axis=0, keepdims=True))[0])
    number = len(moments)
    if number < 2 or resamples < 1:
        return {**_nothing(n), "value": value}
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    step = max(1, 4_000_000 // number)  # 32 MB of counts at a time
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        counts = generator.multinomial(number, np.full(number, 1 / number), size=size)
        drawn[start : start + size] = statistic(counts.astype(np.float64) @ moments)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return {**_nothing(n), "value": value}
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def _moments(columns: Sequence[Any], groups: Sequence[str]) -> Matrix:
    """Sum each column [n] within its group: [groups, columns], groups sorted so that row order is nothing."""
    import numpy as np

    places = {group: place for place, group in enumerate(sorted(set(groups)))}
    sums: Matrix = np.zeros((len(places), len(columns)))
    np.add.at(sums, [places[group] for group in groups], np.column_stack(columns))
    return sums


def _correlation_moments(x: Matrix, y: Matrix, groups: Sequence[str]) -> Matrix:
    """[groups, 6]: sums of 1, x, y, x², y², xy; whole numbers are exact, so a constant side is seen."""
    import numpy as np

    return _moments([np.ones_like(x), x, y, x * x, y * y, x * y], groups)


def _mean(sums: Matrix) -> Matrix:
    mean: Matrix = sums[:, 1] / sums[:, 0]
    return mean


def _pearson(sums: Matrix) -> Matrix:
    """Pearson's r of each row of sums [m, 6] (see `_correlation_moments`); nan where a side is constant."""
    import numpy as np

    n, x, y, xx, yy, xy = sums.T
    spread = (n * xx - x * x) * (n * yy - y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Matrix = np.where(spread > 0, (n * xy - x * y) / np.sqrt(spread), np.nan)
    return np.clip(r, -1.0, 1.0)
