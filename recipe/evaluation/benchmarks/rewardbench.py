"""RewardBench: is the chosen response scored higher (pointwise), or picked (pairwise)? Categories as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recipe.data.benchmark_formats import GENERAL
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.evaluation.benchmarks.base import Benchmark, Figures, Verdicts, as_they_are, columns, rates_by
from recipe.evaluation.bootstrap import nothing
from recipe.evaluation.metrics import credit, weighted_accuracy
from recipe.evaluation.trivial import TIE, Verdict

CATEGORIES: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""Category -> subset -> weight: the published number of rows, but for math-prm, whose 447 rows weigh as all six code
subsets do together."""


def weighted_figures(
    outcomes: Sequence[float], subsets: Sequence[str], groups: Sequence[str], resamples: int
) -> dict[str, dict[str, float | None]]:
    """Accuracy by category and the mean of the four ("total"): {name: {"value", "low", "high", "n"}}.

    outcomes: of n pairs, right 1, wrong 0, a tie 1/2; subsets: each one's. A category's subsets that have no row are
    left out of its mean; without a category there is no total.
    """
    found = {
        name: weighted_accuracy(outcomes, subsets, groups, weights, resamples=resamples)
        for name, weights in CATEGORIES.items()
    }
    if any(figure["value"] is None for figure in found.values()):
        return {**found, "total": nothing(sum(figure["n"] for figure in found.values()))}
    # Every category weighs the same in the total, whatever the weights of its subsets add up to.
    shares: dict[str, float] = {}
    for weights in CATEGORIES.values():
        present = {name: weight for name, weight in weights.items() if name in subsets}
        shares |= {name: weight / sum(present.values()) for name, weight in present.items()}
    return {**found, "total": weighted_accuracy(outcomes, subsets, groups, shares, resamples=resamples)}


def both_alone(rows: Sequence[Example]) -> list[Example]:
    """Each pair's two responses to be scored by themselves: <id>:1 and <id>:2, under the general 1-5 scale."""
    return [
        replace(
            row,
            id=f"{row.id}:{place}",
            task="pointwise",
            responses=(response,),
            rubric=GENERAL["pointwise"],
            label=None,
        )
        for row in rows
        for place, response in enumerate(row.responses, 1)
    ]


def pointwise(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """The chosen response must score higher; a tie counts one half, a malformed score of either as wrong."""
    subsets, groups = [row.aspect for row in rows], [row.prompt_id for row in rows]
    truth, sides = [row.label or 0 for row in rows], [preferred(rows, verdicts, by) for by in ("label", "expected")]
    labels, finer = ([credit(t, verdict.label) for t, verdict in zip(truth, side, strict=True)] for side in sides)
    found, expected = (weighted_figures(outcomes, subsets, groups, resamples) for outcomes in (labels, finer))
    judged = [verdicts[f"{row.id}:{place}"].label for row in rows for place in (1, 2)]
    details = {
        "n": len(rows),
        "malformed": judged.count(None),
        "ties": labels.count(0.5),
        "subsets": rates_by(subsets, labels, rows, resamples),
        "expected_score": expected,
    }
    return {"headline": {**found, "total, expected score": expected["total"]}, "details": details}


def preferred(rows: Sequence[Example], verdicts: Verdicts, by: str = "label") -> list[Verdict]:
    """The response of each pair that scored higher: TIE for equal scores, None where one is malformed."""
    found = []
    for row in rows:
        sides = [verdicts[f"{row.id}:{place}"] for place in (1, 2)]
        first, second = (None if side.label is None else getattr(side, by) for side in sides)
        label = None if first is None or second is None else TIE + ((second > first) - (second < first)) / 2
        found.append(Verdict(label, label, {}, ""))
    return found


def pairwise(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """The chosen response must be picked; malformed counts as wrong."""
    truth, labels, groups = columns(rows, verdicts)
    outcomes = [float(t == label) for t, label in zip(truth, labels, strict=True)]
    subsets = [row.aspect for row in rows]
    parts = rates_by(subsets, outcomes, rows, resamples)
    details = {"n": len(rows), "malformed": labels.count(None), "subsets": parts}
    return {"headline": weighted_figures(outcomes, subsets, groups, resamples), "details": details}


def check(rows: Sequence[Example]) -> None:
    """Raises SreError for a row of no published subset."""
    known = {subset for weights in CATEGORIES.values() for subset in weights}
    for row in rows:
        if row.aspect not in known:
            expected = f"one of RewardBench's: {', '.join(sorted(known))}"
            raise SreError(f"{row.origin}: expected a subset, {expected}; not {row.aspect!r}", field="subset")


_HUB, _SPLITS = "allenai/reward-bench", ("filtered",)
REWARDBENCH = Benchmark("rewardbench", _HUB, _SPLITS, "pairwise", both_alone, pointwise, check=check, audited=preferred)
REWARDBENCH_PAIRWISE = Benchmark("rewardbench-pairwise", _HUB, _SPLITS, "pairwise", as_they_are, pairwise, check=check)
