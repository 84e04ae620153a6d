"""Values with 95% intervals from resampling whole groups of rows. Pure: numbers in, numbers out.

A statistic is computed from sums over rows. A resample is a count for each group, so all resamples are one matrix
product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Statistic = Callable[[Matrix], Matrix]


def nothing(n: int) -> dict[str, Any]:
    """An undefined figure over n rows."""
    return {"value": None, "low": None, "high": None, "n": n}


def bootstrap(columns: Sequence[Any], groups: Sequence[str], statistic: Statistic, resamples: int) -> dict[str, Any]:
    """The value and its 95% percentile interval: {"value", "low", "high", "n"}.

    A resample draws as many groups as there are, with replacement, always the same ones. One without a value (nan: a
    side came out constant) is left out. A single group has no interval.

    Args:
        columns: k arrays of n values.
        groups: The group of each row.
        statistic: Sums of the columns [m, k] -> values [m].
        resamples: How many are drawn.
    """
    import numpy as np

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
    """The columns that `pearson` and `kappa` take: 1, x, y, x², y² and xy."""
    return [x * 0 + 1, x, y, x * x, y * y, x * y]


def mean(sums: Matrix) -> Matrix:
    """The mean of each row of sums [m, 2]: of the count and of the values."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        found: Matrix = sums[:, 1] / sums[:, 0]
    return found


def pearson(sums: Matrix) -> Matrix:
    """Pearson's r of each row of sums [m, 6] of `moments`; nan where a side is constant."""
    import numpy as np

    over_x, over_y, both, _ = _spreads(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Matrix = np.where((over_x > 0) & (over_y > 0), both / np.sqrt(over_x * over_y), np.nan)
    return np.clip(r, -1.0, 1.0)


def kappa(sums: Matrix) -> Matrix:
    """Quadratic-weighted kappa of each row of sums [m, 6] of `moments`; nan where a side is constant.

    With quadratic weights it is 1 less the mean squared difference over the one that independent sides would have.
    """
    import numpy as np

    over_x, over_y, both, gap = _spreads(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = np.where((over_x > 0) & (over_y > 0), 2 * both / (over_x + over_y + gap), np.nan)
    return found


def _spreads(sums: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Sums of squares around the means, of products, and n times the squared gap between the means.

    What rounding leaves of a constant side is 0.
    """
    import numpy as np

    n, x, y, xx, yy, xy = sums.T
    n = np.maximum(n, 1)
    over_x, over_y = xx - x * x / n, yy - y * y / n
    over_x, over_y = np.where(over_x > 1e-9 * xx, over_x, 0.0), np.where(over_y > 1e-9 * yy, over_y, 0.0)
    return over_x, over_y, xy - x * y / n, (x - y) ** 2 / n
