"""How far a judge's own probabilities can be trusted. Pure: sequences in, numbers out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

BINS = 10


def calibration_figures(distributions: Sequence[Mapping[int, float]], truth: Sequence[int]) -> dict[str, Any]:
    """{"n", "ece", "brier"} of label distributions (label -> probability) against the true labels.

    Rows with {} are left out. ece: the mean gap between confidence, the probability of the most probable label (the
    lowest of equals), and accuracy, in BINS equal parts of [0, 1]. brier: the mean squared distance from the truth, 0
    (sure and right) to 2 (sure and wrong).
    """
    gaps: dict[int, float] = defaultdict(float)
    brier = []
    for shares, true in zip(distributions, truth, strict=True):
        if shares:
            best = max(sorted(shares), key=shares.__getitem__)
            gaps[min(int(shares[best] * BINS), BINS - 1)] += shares[best] - (best == true)
            brier.append(sum((shares.get(label, 0.0) - (label == true)) ** 2 for label in {*shares, true}))
    n = len(brier)
    ece = sum(map(abs, gaps.values())) / n if n else None
    return {"n": n, "ece": ece, "brier": sum(brier) / n if n else None}
