"""Values with 95% intervals from resampling whole groups of rows. Pure: arrays in, numbers out.

A statistic is computed from sums over rows, `moments` [groups, k]; a resample is a count for each group, so all
of them are one matrix product. `tables` holds the statistics that need more than means: rank correlations and
kappa, from the contingency table of truth and label, which is a matrix of sums too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Statistic = Callable[[Matrix], Matrix]


def nothing(n: int) -> dict[str, Any]:
    """A figure that can't be told, over n rows."""
    return {"value": None, "low": None, "high": None, "n": n}


def bootstrap(moments: Matrix, statistic: Statistic, n: int, seed: int, resamples: int) -> dict[str, Any]:
    """The value and its 95% percentile interval: {"value", "low", "high", "n"}.

    moments: [groups, k] sums; statistic: [m, k] -> [m]. A resample draws as many groups as there are, with
    replacement, and enters as the count of each group: [resamples, groups] @ [groups, k], equal to weighting
    the rows. Resamples without a value (nan: a side came out constant) are left out. A single group has no
    interval.
    """
    import numpy as np

    if n == 0:
        return nothing(0)
    value = float(statistic(moments.sum(axis=0, keepdims=True))[0])
    if np.isnan(value):
        return nothing(n)
    number = len(moments)
    if number < 2 or resamples < 1:
        return {**nothing(n), "value": value}
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    step = max(1, 4_000_000 // number)  # 32 MB of counts at a time
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        counts = generator.multinomial(number, np.full(number, 1 / number), size=size)
        drawn[start : start + size] = statistic(counts.astype(np.float64) @ moments)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return {**nothing(n), "value": value}
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def group_sums(columns: Sequence[Any], groups: Sequence[str]) -> Matrix:
    """Sum each column [n] within its group: [groups, columns], groups sorted so that row order is nothing."""
    import numpy as np

    places = {group: place for place, group in enumerate(sorted(set(groups)))}
    sums: Matrix = np.zeros((len(places), len(columns)))
    np.add.at(sums, [places[group] for group in groups], np.column_stack(columns))
    return sums


def correlation_moments(x: Matrix, y: Matrix, groups: Sequence[str], strata: Sequence[str] | None = None) -> Matrix:
    """[groups, 6 * strata]: the sums of 1, x, y, x², y² and xy in each stratum; all rows are one stratum by default."""
    import numpy as np

    columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
    if strata is None:
        return group_sums(columns, groups)
    counts = Counter(strata)
    # A row that is alone in its stratum says nothing about a correlation within it.
    kept = [name for name in sorted(counts) if counts[name] > 1]
    member = [np.array([stratum == name for stratum in strata], dtype=np.float64) for name in kept]
    return group_sums([inside * column for inside in member for column in columns], groups)


def mean(sums: Matrix) -> Matrix:
    """The mean of each row of sums [m, 2]: of the count and of the values."""
    found: Matrix = sums[:, 1] / sums[:, 0]
    return found


def pearson(sums: Matrix) -> Matrix:
    """Pearson's r of each row of sums [m, 6 * strata] (see `correlation_moments`); nan where a side is constant.

    Each stratum's own means are subtracted first, so with several strata this is the correlation within them.
    """
    import numpy as np

    n, x, y, xx, yy, xy = sums.reshape(len(sums), -1, 6).transpose(2, 0, 1)
    n = np.maximum(n, 1)  # an empty stratum adds nothing
    over_x, over_y, both = ((side.sum(axis=1)) for side in (xx - x * x / n, yy - y * y / n, xy - x * y / n))
    # What rounding leaves of a constant side is not a spread.
    varied = (over_x > 1e-9 * xx.sum(axis=1)) & (over_y > 1e-9 * yy.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Matrix = np.where(varied, both / np.sqrt(over_x * over_y), np.nan)
    return np.clip(r, -1.0, 1.0)


def table_moments(truth: Sequence[int], predicted: Sequence[int], size: int, groups: Sequence[str]) -> Matrix:
    """[groups, size²]: how often each cell (truth, label) of the table occurs; scores from 0 to size - 1."""
    import numpy as np

    cells = np.eye(size * size)[np.asarray(truth) * size + np.asarray(predicted)]
    return group_sums(list(cells.T), groups)


def spearman(tables: Matrix) -> Matrix:
    """Spearman's rho of each table [m, size²]: Pearson's r of the mid-ranks, which the margins give."""
    import numpy as np

    counts = _square(tables)
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    x, y = (np.cumsum(side, axis=1) - (side - 1) / 2 for side in (rows, columns))
    sums = np.stack(
        [
            counts.sum(axis=(1, 2)),
            (rows * x).sum(axis=1),
            (columns * y).sum(axis=1),
            (rows * x * x).sum(axis=1),
            (columns * y * y).sum(axis=1),
            np.einsum("mij,mi,mj->m", counts, x, y),
        ],
        axis=1,
    )
    return pearson(sums)


def kendall(tables: Matrix) -> Matrix:
    """Kendall's tau-b of each table [m, size²]; nan where a side is constant."""
    import numpy as np

    counts = _square(tables)
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    size = counts.shape[1]
    above = np.triu(np.ones((size, size)), 1)  # [i, k]: 1 where k > i
    greater = np.einsum("ik,mkl,jl->mij", above, counts, above)  # of higher truth and higher label than the cell
    crossed = np.einsum("ik,mkl,lj->mij", above, counts, above)  # of higher truth and lower label
    difference = (counts * (greater - crossed)).sum(axis=(1, 2))
    n = counts.sum(axis=(1, 2))
    untied = [(n * n - (side * side).sum(axis=1)) / 2 for side in (rows, columns)]
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: Matrix = np.where(_spread(rows) & _spread(columns), difference / np.sqrt(untied[0] * untied[1]), np.nan)
    return tau


def kappa(tables: Matrix) -> Matrix:
    """Quadratic-weighted kappa of each table [m, size²]; nan where either side is constant."""
    import numpy as np

    counts = _square(tables)
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    places = np.arange(counts.shape[1])
    weights = (places[:, None] - places[None, :]) ** 2
    expected = np.einsum("mi,mj,ij->m", rows, columns, weights) / np.maximum(counts.sum(axis=(1, 2)), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = 1 - (counts * weights).sum(axis=(1, 2)) / expected
    return np.where(_spread(rows) & _spread(columns), found, np.nan)


def _square(tables: Matrix) -> Matrix:
    size = round(tables.shape[1] ** 0.5)
    return tables.reshape(len(tables), size, size)


def _spread(margin: Matrix) -> Any:
    """[m]: whether more than one score occurs."""
    return (margin > 0).sum(axis=1) > 1
