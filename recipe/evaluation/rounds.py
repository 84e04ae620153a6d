"""Whether a round made the judge better, by held-out rows. Pure: rows and judgements in, numbers out.

The figure of a judge is Pearson's r of its expected scores (pointwise rows), its accuracy (pairwise rows), or the mean
of the two where there are rows of both. Labels that had to be forced count as they are: that is how a judge is used.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from recipe.data.records import Example, Judgement
from recipe.evaluation.evaluate import as_written
from recipe.evaluation.metrics import Matrix, bootstrap, mean, moments, nothing, pearson

Keep = Literal["better", "significant", "all"]


def compare_on_dev(
    examples: Sequence[Example], before: Sequence[Judgement], after: Sequence[Judgement], resamples: int
) -> dict[str, Any]:
    """Two judges on the same labelled rows, by their judgements in the rows' order.

    Returns {"rows": n, "malformed": {"before": n, "after": n}, "figures": {"before": .41, "after": .47},
    "gain": {"value": .06, "low": -.02, "high": .14, "n": n}}.
    """
    sides = {"before": before, "after": after}
    malformed = {name: sum(j.label is None for j in as_written(side)) for name, side in sides.items()}
    rows = [(e, _said(one), _said(two)) for e, one, two in zip(examples, before, after, strict=True)]
    rows = [row for row in rows if row[0].label is not None]
    # A score that an engine could not give is left out on both sides.
    rows = [row for row in rows if row[0].task == "pairwise" or None not in row[1:]]
    counts = {"rows": len(examples), "malformed": malformed}
    if not rows:
        return {**counts, "figures": {"before": 0.0, "after": 0.0}, "gain": nothing(0)}
    truth = np.array([example.label for example, *_ in rows], dtype=np.float64)
    scores = np.array([example.task == "pointwise" for example, *_ in rows], dtype=np.float64)
    columns = []
    for side in (1, 2):
        said = np.array([row[side] or 0 for row in rows], dtype=np.float64)
        columns += [scores * column for column in moments(truth, said)]
        columns += [1 - scores, (1 - scores) * (said == truth)]

    def figure(sums: Matrix) -> Matrix:
        parts = []
        if scores.any():
            parts.append(np.nan_to_num(pearson(sums[:, :6])))  # constant scores say nothing: 0
        if not scores.all():
            parts.append(mean(sums[:, 6:]))
        found: Matrix = np.mean(parts, axis=0)
        return found

    totals = np.sum(columns, axis=1)[None]
    figures = {"before": float(figure(totals[:, :8])[0]), "after": float(figure(totals[:, 8:])[0])}
    groups = [example.prompt_id for example, *_ in rows]
    gain = bootstrap(columns, groups, lambda sums: figure(sums[:, 8:]) - figure(sums[:, :8]), resamples)
    return {**counts, "figures": figures, "gain": gain}


def is_kept(gain: dict[str, Any], rule: Keep) -> bool:
    """Whether a gain is proof enough for a round. One that can't be computed proves nothing."""
    proof = gain["low"] if rule == "significant" else gain["value"]
    return rule == "all" or (proof is not None and proof > 0)


def _said(judgement: Judgement) -> float | None:
    finer = judgement.expected_score if judgement.task == "pointwise" else None
    return judgement.label if finer is None else finer
