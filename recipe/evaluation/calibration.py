"""How far a judge's own probabilities can be trusted, and how far its scores are off. Pure: sequences in, numbers out.

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
    """
    placed: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    brier = []
    for shares, true in zip(distributions, truth, strict=True):
        if shares:
            best = max(sorted(shares), key=shares.__getitem__)
            placed[min(int(shares[best] * bins), bins - 1)].append((shares[best], best == true))
            brier.append(sum((shares.get(label, 0.0) - (label == true)) ** 2 for label in {*shares, true}))
    table: list[dict[str, Any]] = []
    for k, rows in enumerate(placed):
        confidence, accuracy = (sum(side) / len(rows) for side in zip(*rows, strict=True)) if rows else (None, None)
        row = {"low": k / bins, "high": (k + 1) / bins, "n": len(rows)}
        table.append({**row, "confidence": confidence, "accuracy": accuracy})
    n = len(brier)
    gaps = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in table if row["n"])
    return {"n": n, "ece": gaps / n if n else None, "brier": sum(brier) / n if n else None, "bins": table}


def error_histogram(truth: Sequence[int], predicted: Sequence[float | None], largest: int = 4) -> dict[str, int]:
    """How often truth minus label was -largest .. largest, and "malformed" (the paper's Figure 5).

    Right of 0 the judge was too strict, left of it too lenient.
    """
    errors = Counter(None if p is None else t - p for t, p in zip(truth, predicted, strict=True))
    return {**{str(k): errors[k] for k in range(-largest, largest + 1)}, "malformed": errors[None]}
