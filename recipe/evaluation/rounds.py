"""Whether a round made the judge better, by held-out rows. Pure: rows and judgements in, numbers out.

The figure of a judge is Pearson's r of its expected scores (pointwise rows), its accuracy (pairwise rows), or the mean
of the two where there are rows of both. Labels that had to be forced count as they are: that is how a judge is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from recipe.data.records import TASKS, Example, Judgement, Task
from recipe.evaluation.bootstrap import bootstrap, group_sums, mean, pearson
from recipe.evaluation.evaluate import as_written

if TYPE_CHECKING:
    from recipe.evaluation.bootstrap import Matrix

Keep = Literal["better", "significant", "all"]


def compare_on_dev(
    examples: Sequence[Example], before: Sequence[Judgement], after: Sequence[Judgement], resamples: int
) -> dict[str, Any]:
    """Two judges on the same labelled rows.

    Args:
        examples: The rows.
        before: The first judge's judgements, in the rows' order.
        after: The second judge's.
        resamples: Of the bootstrap, which draws whole prompts.

    Returns:
        {"rows": n, "malformed": {"before": n, "after": n}, "figures": {"before": .41, "after": .47},
        "gain": {"value": .06, "low": -.02, "high": .14, "n": n}, "tasks": {"pointwise": {"figures", "gain"}, …}}.
    """
    tasks = [task for task in TASKS if any(row.task == task and row.label is not None for row in examples)]
    sums = _sums(examples, before, after)
    malformed = {
        key: sum(judgement.label is None for judgement in as_written(found))
        for key, found in (("before", before), ("after", after))
    }
    return {
        "rows": len(examples),
        "malformed": malformed,
        **_compared(sums, tasks, len(examples), resamples),
        "tasks": {task: _compared(sums, [task], sum(e.task == task for e in examples), resamples) for task in tasks},
    }


def is_kept(gain: dict[str, Any], rule: Keep) -> bool:
    """Whether a gain is proof enough for a round. One that can't be computed proves nothing."""
    proof = gain["low"] if rule == "significant" else gain["value"]
    return rule == "all" or (proof is not None and proof > 0)


# Columns of the sums over rows: first and second judge's Pearson moments, and (pairs, right ones).
_PEARSON = ([0, 1, 2, 3, 4, 5], [0, 1, 6, 3, 7, 8])
_ACCURACY = ([9, 10], [9, 11])


def _sums(examples: Sequence[Example], before: Sequence[Judgement], after: Sequence[Judgement]) -> Matrix:
    """[prompts, 12]: what both judges' figures are computed from, summed over the rows of each prompt."""
    columns, groups = [], []
    for example, *judged in zip(examples, before, after, strict=True):
        if example.label is None:
            continue
        one, two = (j.label if j.expected_score is None else j.expected_score for j in judged)
        truth = example.label
        if example.task == "pairwise":
            columns.append([0.0] * 9 + [1.0, *(float(judgement.label == truth) for judgement in judged)])
        elif one is not None and two is not None:
            moments = [1, truth, one, truth**2, one**2, truth * one, two, two**2, truth * two]
            columns.append([*map(float, moments), 0.0, 0.0, 0.0])
        else:
            continue  # a row that an engine could not judge
        groups.append(example.prompt_id)
    return group_sums(list(zip(*columns, strict=True)), groups)


def _compared(sums: Matrix, tasks: Sequence[Task], rows: int, resamples: int) -> dict[str, Any]:
    def figure(some: Matrix, side: int) -> Matrix:
        import numpy as np

        parts = []
        with np.errstate(invalid="ignore", divide="ignore"):
            if "pointwise" in tasks:
                parts.append(np.nan_to_num(pearson(some[:, _PEARSON[side]])))  # constant scores say nothing: 0
            if "pairwise" in tasks:
                parts.append(mean(some[:, _ACCURACY[side]]))
        found: Matrix = np.mean(parts, axis=0)
        return found

    total = sums.sum(axis=0, keepdims=True)
    gain = bootstrap(sums, lambda some: figure(some, 1) - figure(some, 0), rows, resamples)
    return {"figures": {"before": float(figure(total, 0)[0]), "after": float(figure(total, 1)[0])}, "gain": gain}
