"""Figures of a judge against the truth, with 95% bootstrap intervals. Pure: sequences in, numbers out.

What `pointwise_figures` returns (a figure that is undefined has None for its value):

    {"n": 150, "malformed": 15, "malformed_rate": 0.1,
     "pearson": {"value": 0.30, "low": 0.14, "high": 0.45, "n": 135}, "spearman": {...}, "kendall": {...},
     "accuracy": {"value": 0.39, "low": 0.31, "high": 0.47, "n": 150}}

A prediction of None is a malformed judgement: wrong for accuracy, left out of every other figure. `groups` are the
prompt ids of the rows: rows of one prompt are not independent, so whole groups are resampled. Rows of several random
seeds are pooled by concatenating them with the same groups. `outcomes` are 1 for right, 0 for wrong, 1/2 for a tie.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Statistic = Callable[[Matrix], Matrix]

MIN_PARSED = 20  # fewer parsed rows give no correlation


def pointwise_figures(
    truth: Sequence[int],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    resamples: int = 2000,
    expected: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Figures of scores: the dict in this module's docstring. Accuracy is exact agreement.

    With the rows' `expected` scores there is "pearson_expected" too, over the rows that are parsed and have one.
    """
    found = pairwise_figures(truth, predicted, groups, resamples)
    for name in ("pearson", "spearman", "kendall"):
        found[name] = correlation(truth, predicted, groups, resamples, name)
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
    """The mean of n outcomes with its interval: {"value", "low", "high", "n"}."""
    return bootstrap([[1.0] * len(outcomes), outcomes], groups, mean, resamples)


def correlation(
    truth: Sequence[float],
    predicted: Sequence[float | None],
    groups: Sequence[str],
    resamples: int = 2000,
    figure: str = "pearson",
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A correlation over the rows with a prediction; undefined for fewer than MIN_PARSED, or where a side is constant.

    figure: "pearson", "spearman" (over the rows' ranks among all of them) or "kendall" (tau-b, without an interval).
    strata: each row's criterion; the correlation is then within them: each stratum's mean is subtracted.
    """
    (x, y), kept = _complete((truth, predicted), groups, strata)
    if not _can_correlate(x, y):
        return nothing(len(kept))
    if figure == "kendall":
        from scipy.stats import kendalltau

        return {**nothing(len(kept)), "value": float(kendalltau(x, y).statistic)}
    if figure == "spearman":
        from scipy.stats import rankdata

        x, y = rankdata(x), rankdata(y)
    return bootstrap(moments(x, y), kept, pearson, resamples)


def paired_difference(
    truth: Sequence[int],
    first: Sequence[float | None],
    second: Sequence[float | None],
    groups: Sequence[str],
    resamples: int = 2000,
    strata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Pearson's r of the second judge minus that of the first, over the rows that both parsed; see `correlation`.

    Both come from the same resample of groups.
    """
    (t, f, s), kept = _complete((truth, first, second), groups, strata)
    if not _can_correlate(t, f, s):
        return nothing(len(kept))
    columns = [*moments(t, f), *moments(t, s)]
    return bootstrap(columns, kept, lambda sums: pearson(sums[:, 6:]) - pearson(sums[:, :6]), resamples)


def weighted_accuracy(
    outcomes: Sequence[float],
    strata: Sequence[str],
    groups: Sequence[str],
    weights: Mapping[str, float],
    resamples: int = 2000,
) -> dict[str, Any]:
    """The mean of the strata's mean outcomes, weighted: {"value", "low", "high", "n"} (RewardBench's categories).

    Strata that `weights` lacks are not counted. One without a row is left out of the mean, in a resample too.
    """
    kept = [k for k, name in enumerate(strata) if name in weights]
    present = sorted({strata[k] for k in kept})
    member = np.array([[strata[k] == name for k in kept] for name in present], dtype=np.float64)
    right = member * np.array([outcomes[k] for k in kept])
    weight = np.array([weights[name] for name in present], dtype=np.float64)

    def statistic(sums: Matrix) -> Matrix:
        counts, right = sums[:, : len(present)], sums[:, len(present) :]
        share = np.where(counts > 0, weight, 0.0)
        found: Matrix = (share * right / np.maximum(counts, 1)).sum(axis=1) / share.sum(axis=1)
        return found

    return bootstrap([*member, *right], [groups[k] for k in kept], statistic, resamples)


def calibration_figures(distributions: Sequence[Mapping[int, float]], truth: Sequence[int]) -> dict[str, Any]:
    """{"n", "ece", "brier"} of label distributions (label -> probability) against the true labels.

    Rows with {} are left out. ece: the mean gap between confidence, the probability of the most probable label (the
    lowest of equals), and accuracy, in ten equal parts of [0, 1]. brier: the mean squared distance from the truth, 0
    (sure and right) to 2 (sure and wrong).
    """
    gaps: dict[int, float] = defaultdict(float)
    brier = []
    for shares, true in zip(distributions, truth, strict=True):
        if shares:
            best = max(sorted(shares), key=shares.__getitem__)
            gaps[min(int(shares[best] * 10), 9)] += shares[best] - (best == true)
            brier.append(sum((shares.get(label, 0.0) - (label == true)) ** 2 for label in {*shares, true}))
    n = len(brier)
    ece = sum(map(abs, gaps.values())) / n if n else None
    return {"n": n, "ece": ece, "brier": sum(brier) / n if n else None}


def _complete(
    sides: Sequence[Sequence[float | None]], groups: Sequence[str], strata: Sequence[str] | None
) -> tuple[list[Any], list[str]]:
    """The sides over the rows that have a value on each, less their strata's means; and these rows' groups."""
    rows = [k for k, row in enumerate(zip(*sides, strict=True)) if None not in row]
    kept = [np.array([side[k] for k in rows], dtype=np.float64) for side in sides]
    if strata is not None and rows:
        places = np.unique([strata[k] for k in rows], return_inverse=True)[1]
        means = [(np.bincount(places, side) / np.bincount(places))[places] for side in kept]
        # Rounded, so that a side that is constant within every stratum is constant.
        kept = [np.round(side - mean, 9) for side, mean in zip(kept, means, strict=True)]
    return kept, [groups[k] for k in rows]


def _can_correlate(*sides: Matrix) -> bool:
    return len(sides[0]) >= MIN_PARSED and all(len(set(side)) > 1 for side in sides)


# --- the bootstrap: statistics of sums over rows; a resample is a count for each group, so all are one product ---


def nothing(n: int) -> dict[str, Any]:
    """An undefined figure over n rows."""
    return {"value": None, "low": None, "high": None, "n": n}


def bootstrap(columns: Sequence[Any], groups: Sequence[str], statistic: Statistic, resamples: int) -> dict[str, Any]:
    """The value of a statistic and its 95% percentile interval: {"value", "low", "high", "n"}.

    `columns` are k arrays of n values; the statistic maps sums of them [m, k] to values [m]. A resample draws as many
    groups as there are, with replacement, always the same ones. One without a value (nan: a side came out constant) is
    left out. A single group has no interval. Raises ValueError where lengths differ.
    """
    if any(len(column) != len(groups) for column in columns):
        raise ValueError(f"{[len(column) for column in columns]} values and {len(groups)} groups differ")
    if not groups:
        return nothing(0)
    places = {group: place for place, group in enumerate(sorted(set(groups)))}
    number = len(places)
    sums = np.zeros((number, len(columns)))
    np.add.at(sums, [places[group] for group in groups], np.column_stack(columns))
    value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    if np.isnan(value):
        return nothing(len(groups))
    found = {**nothing(len(groups)), "value": value}
    generator, drawn = np.random.default_rng(0), np.empty(resamples if number > 1 else 0)
    step = max(1, 4_000_000 // number)  # 32 MB of counts at a time
    for start in range(0, len(drawn), step):
        part = drawn[start : start + step]
        counts = generator.multinomial(number, np.full(number, 1 / number), size=len(part))
        part[:] = statistic(counts.astype(np.float64) @ sums)
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn):
        found["low"], found["high"] = map(float, np.percentile(drawn, [2.5, 97.5]))
    return found


def moments(x: Matrix, y: Matrix) -> list[Matrix]:
    """The columns that `pearson` takes: 1, x, y, x², y² and xy."""
    return [x * 0 + 1, x, y, x * x, y * y, x * y]


def mean(sums: Matrix) -> Matrix:
    """The mean of each row of sums [m, 2]: of the count and of the values."""
    with np.errstate(invalid="ignore"):
        found: Matrix = sums[:, 1] / sums[:, 0]
    return found


def pearson(sums: Matrix) -> Matrix:
    """Pearson's r of each row of sums [m, 6] of `moments`; nan where a side is constant."""
    n, x, y, xx, yy, xy = sums.T
    n = np.maximum(n, 1)
    over_x, over_y = xx - x * x / n, yy - y * y / n
    spread = (over_x > 1e-9 * xx) & (over_y > 1e-9 * yy)  # what rounding leaves of a constant side is none
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Matrix = np.where(spread, (xy - x * y / n) / np.sqrt(over_x * over_y), np.nan)
    return np.clip(r, -1.0, 1.0)
