"""Values with 95% intervals from resampling whole groups of rows. Pure: arrays in, numbers out.

A statistic is computed from sums over rows, `moments` [groups, k]; a resample is a count for each group, so all of them
are one matrix product.
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


MANY_STRATA = 200


def nothing(n: int) -> dict[str, Any]:
    """An undefined figure over n rows."""
    return {"value": None, "low": None, "high": None, "n": n}


def bootstrap(moments: Matrix, statistic: Statistic, n: int, resamples: int) -> dict[str, Any]:
    """The value and its 95% percentile interval: {"value", "low", "high", "n"}.

    A resample draws as many groups as there are, with replacement. One without a value (nan: a side came out constant)
    is left out. A single group has no interval.

    Args:
        moments: [groups, k] sums.
        statistic: [m, k] sums -> [m] values.
        n: The rows behind the sums.
        resamples: How many are drawn, always the same ones.
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
    generator = np.random.default_rng(0)
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
    """[groups, 6 * strata]: the sums of 1, x, y, x², y² and xy in each stratum; all rows are one stratum by default.

    Of more than MANY_STRATA the means are subtracted here, once for all resamples, and they become one: the sums of
    thousands would fill the memory.
    """
    import numpy as np

    counts = Counter(strata or ())
    # A row that is alone in its stratum says nothing about a correlation within it.
    kept = [name for name in sorted(counts) if counts[name] > 1]
    if strata is not None and len(kept) > MANY_STRATA:
        places = np.unique(np.array(strata), return_inverse=True)[1]
        x, y = (side - (np.bincount(places, side) / np.bincount(places))[places] for side in (x, y))
        strata = None
    columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
    if strata is None:
        return group_sums(columns, groups)
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

    over_x, over_y, both, _ = _spreads(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Matrix = np.where((over_x > 0) & (over_y > 0), both / np.sqrt(over_x * over_y), np.nan)
    return np.clip(r, -1.0, 1.0)


def kappa(sums: Matrix) -> Matrix:
    """Quadratic-weighted kappa of each row of sums [m, 6]; nan where a side is constant.

    With quadratic weights it is 1 less the mean squared difference over the one that independent sides would have.
    """
    import numpy as np

    over_x, over_y, both, gap = _spreads(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = np.where((over_x > 0) & (over_y > 0), 2 * both / (over_x + over_y + gap), np.nan)
    return found


def _spreads(sums: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Sums of squares around the means, of products, and n times the squared gap between the means; by stratum, added.

    What rounding leaves of a constant side is 0.
    """
    import numpy as np

    n, x, y, xx, yy, xy = sums.reshape(len(sums), -1, 6).transpose(2, 0, 1)
    n = np.maximum(n, 1)  # an empty stratum adds nothing
    over_x, over_y = ((squares - side * side / n).sum(axis=1) for side, squares in ((x, xx), (y, yy)))
    over_x, over_y = (
        np.where(over > 1e-9 * squares.sum(axis=1), over, 0.0) for over, squares in ((over_x, xx), (over_y, yy))
    )
    return over_x, over_y, (xy - x * y / n).sum(axis=1), ((x - y) ** 2 / n).sum(axis=1)
