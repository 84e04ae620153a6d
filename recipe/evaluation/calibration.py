"""How far a judge's own probabilities can be trusted, and which labels it gives. Pure: sequences in, numbers out.

What `calibration_figures` returns (None where no row has probabilities):

    {"n": 135, "ece": 0.21, "brier": 0.71,
     "bins": [{"low": 0.0, "high": 0.1, "n": 0, "confidence": None, "accuracy": None}, ...,
              {"low": 0.9, "high": 1.0, "n": 40, "confidence": 0.95, "accuracy": 0.55}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

BINS = 10


def calibration_figures(
    distributions: Sequence[Mapping[int, float]], truth: Sequence[int], bins: int = BINS
) -> dict[str, Any]:
    """The reliability of label distributions.

    Args:
        distributions: Label -> probability, summing to 1. Rows with {} are left out.
        truth: The rows' true labels.
        bins: Equal parts of [0, 1]. A confidence on an edge falls into the upper one, 1 into the last.

    Returns:
        The dict in this module's docstring. confidence: the probability of the most probable label, the lowest of
        equals. ece: the mean gap between a bin's confidence and accuracy, over the rows. brier: the mean squared
        distance from the truth, 0 (sure and right) to 2 (sure and wrong).

    Raises:
        ValueError: Lengths that differ, or a confidence outside [0, 1].
    """
    import numpy as np

    rows = [(p, t) for p, t in zip(distributions, truth, strict=True) if p]
    best = [max(sorted(p), key=lambda label, p=p: p[label]) for p, _ in rows]  # type: ignore[misc]
    confidence = np.array([p[label] for (p, _), label in zip(rows, best, strict=True)])
    right = np.array([label == t for (_, t), label in zip(rows, best, strict=True)], dtype=float)
    # Sums of floating-point shares may pass 1 by a rounding error.
    if len(rows) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-9):
        raise ValueError(f"confidences from {confidence.min()} to {confidence.max()}; expected 0 to 1")
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    table: list[dict[str, Any]] = []
    for k in range(bins):
        inside = place == k
        means = [float(side[inside].mean()) if inside.any() else None for side in (confidence, right)]
        row = {"low": k / bins, "high": (k + 1) / bins, "n": int(inside.sum())}
        table.append({**row, "confidence": means[0], "accuracy": means[1]})
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in table if row["n"]]
    brier = [sum((p.get(k, 0.0) - (k == t)) ** 2 for k in {*p, t}) for p, t in rows]
    n = len(rows)
    return {"n": n, "ece": sum(gaps) / n if n else None, "brier": sum(brier) / n if n else None, "bins": table}


def histogram(values: Sequence[int | None], allowed: Sequence[int]) -> dict[str, int]:
    """How often each allowed value occurs, and None: {"1": 3, ..., "5": 46, "malformed": 15}.

    Raises ValueError for a value that is not allowed.
    """
    counts = Counter(values)
    strange = counts.keys() - {None, *allowed}
    if strange:
        raise ValueError(f"values that are not among {list(allowed)}: {sorted(map(str, strange))}")
    return {**{str(value): counts[value] for value in allowed}, "malformed": counts[None]}


def error_histogram(truth: Sequence[int], predicted: Sequence[int | None], largest: int = 4) -> dict[str, int]:
    """How often truth minus label was -largest .. largest, and "malformed" (the paper's Figure 5).

    Right of 0 the judge was too strict, left of it too lenient. Raises ValueError for a larger error.
    """
    errors = [None if p is None else t - p for t, p in zip(truth, predicted, strict=True)]
    return histogram(errors, range(-largest, largest + 1))
