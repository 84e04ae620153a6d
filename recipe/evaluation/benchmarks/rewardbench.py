"""RewardBench: is the chosen response scored higher (pointwise), or picked (pairwise)? Categories as published."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from recipe.data.benchmark_formats import GENERAL
from recipe.data.records import Example
from recipe.evaluation.benchmarks.base import Benchmark, Figures, Judged
from recipe.evaluation.metrics import credit, nothing, weighted_accuracy
from recipe.evaluation.trivial import TIE, RowVerdict
from recipe.system import read_table

CATEGORIES: dict[str, dict[str, int]] = read_table(__file__)
"""Category -> subset -> weight."""


def weighted_figures(outcomes: Sequence[float], judged: Judged) -> dict[str, Figures]:
    """Accuracy by category and the mean of the four ("total"): {name: {"value", "low", "high", "n"}}.

    outcomes: of each pair, right 1, wrong 0, a tie 1/2. A category's subsets that have no row are left out of its mean;
    without a category there is no total.
    """
    subsets = [row.aspect for row in judged.rows]
    weighted = partial(weighted_accuracy, outcomes, subsets, judged.prompts, resamples=judged.resamples)
    found = {name: weighted(weights) for name, weights in CATEGORIES.items()}
    if any(figure["value"] is None for figure in found.values()):
        return {**found, "total": nothing(sum(figure["n"] for figure in found.values()))}
    # Every category weighs the same in the total, whatever the weights of its subsets add up to.
    shares: dict[str, float] = {}
    for weights in CATEGORIES.values():
        present = {name: weight for name, weight in weights.items() if name in subsets}
        shares |= {name: weight / sum(present.values()) for name, weight in present.items()}
    return {**found, "total": weighted(shares)}


def both_alone(rows: Sequence[Example]) -> list[Example]:
    """Each pair's two responses to be scored by themselves: <id>:1 and <id>:2, under the general 1-5 scale."""
    alone = [replace(row, task="pointwise", rubric=GENERAL["pointwise"], label=None) for row in rows]
    return [
        replace(row, id=f"{row.id}:{place}", responses=(response,))
        for row in alone
        for place, response in enumerate(row.responses, 1)
    ]


def pointwise(judged: Judged) -> Figures:
    """The chosen response must score higher; a tie counts one half, a malformed score of either as wrong."""
    found = _measured(judged, _preferred(judged.rows, judged.verdicts))
    finer = _credits(judged.rows, _preferred(judged.rows, judged.verdicts, "expected_score"))
    found["headline"]["total, expected score"] = weighted_figures(finer, judged)["total"]
    return found


def _preferred(rows: Sequence[Example], verdicts: Mapping[str, RowVerdict], by: str = "label") -> list[RowVerdict]:
    """The response of each pair that scored higher: TIE for equal scores, None where one is malformed."""
    found = []
    for row in rows:
        sides = [verdicts[f"{row.id}:{place}"] for place in (1, 2)]
        first, second = (None if side.label is None else getattr(side, by) for side in sides)
        label = None if first is None or second is None else TIE + ((second > first) - (second < first)) / 2
        found.append(RowVerdict(label, label, {}, ""))
    return found


def pairwise(judged: Judged) -> Figures:
    """The chosen response must be picked; malformed counts as wrong."""
    return _measured(judged, [judged.verdicts[row.id] for row in judged.rows])


def _measured(judged: Judged, said: Sequence[RowVerdict]) -> Figures:
    outcomes = _credits(judged.rows, said)
    malformed = sum(verdict.label is None for verdict in said)
    subsets = judged.rates_by([row.aspect for row in judged.rows], outcomes)
    details = {"n": len(judged.rows), "malformed": malformed, "ties": outcomes.count(0.5), "subsets": subsets}
    return {"headline": weighted_figures(outcomes, judged), "details": details}


def _credits(rows: Sequence[Example], verdicts: Sequence[RowVerdict]) -> list[float]:
    return [credit(row.label or 0, verdict.label) for row, verdict in zip(rows, verdicts, strict=True)]


_SUBSETS = [subset for weights in CATEGORIES.values() for subset in weights]
_HUB = "allenai/reward-bench"
REWARDBENCH = Benchmark("rewardbench", _HUB, ("filtered",), "pairwise", pointwise, both_alone, _SUBSETS, _preferred)
REWARDBENCH_PAIRWISE = replace(REWARDBENCH, name="rewardbench-pairwise", figures=pairwise, prepare=list, audited=None)
