"""RewardBench: is the chosen response scored higher (pointwise), or picked (pairwise)? Categories as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recipe.data.benchmark_formats import GENERAL
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.evaluation.benchmarks.base import Benchmark, Figures, Verdicts, as_they_are, columns
from recipe.evaluation.bootstrap import nothing
from recipe.evaluation.metrics import pairwise_figures, rate_figure, weighted_accuracy
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
    sides = [(verdicts[f"{row.id}:{row.label}"], verdicts[f"{row.id}:{3 - (row.label or 0)}"]) for row in rows]
    labels = [_outcome(chosen.label, rejected.label) for chosen, rejected in sides]
    # A malformed row stays wrong, whatever the probabilities of the label that it did not write.
    finer = [
        _outcome(*((c.expected, r.expected) if None not in (c.label, r.label) else (None, None))) for c, r in sides
    ]
    subsets, groups = [row.aspect for row in rows], [row.prompt_id for row in rows]
    found = weighted_figures(labels, subsets, groups, resamples)
    expected = weighted_figures(finer, subsets, groups, resamples)
    judged = [verdicts[f"{row.id}:{place}"].label for row in rows for place in (1, 2)]
    details = {
        "n": len(rows),
        "malformed": judged.count(None),
        "ties": sum(outcome == 0.5 for outcome in labels),
        "subsets": _by_subset(labels, rows, resamples),
        "expected_score": expected,
    }
    return {"headline": {**found, "total, expected score": expected["total"]}, "details": details}


def preferred(rows: Sequence[Example], verdicts: Verdicts) -> tuple[list[Example], list[Verdict]]:
    """The pairs, and the response that scored higher; TIE for equal scores, None where one is malformed."""
    found = []
    for row in rows:
        first, second = (verdicts[f"{row.id}:{place}"].label for place in (1, 2))
        label = None if first is None or second is None else TIE + ((second > first) - (second < first)) / 2
        found.append(Verdict(label, label, {}, ""))
    return list(rows), found


def pairwise(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """The chosen response must be picked; malformed counts as wrong."""
    truth, labels, groups = columns(rows, verdicts)
    outcomes = [float(t == label) for t, label in zip(truth, labels, strict=True)]
    details = {
        **pairwise_figures(truth, labels, groups, resamples=resamples),
        "first": labels.count(1) / max(len(labels) - labels.count(None), 1),
        "subsets": _by_subset(outcomes, rows, resamples),
    }
    return {"headline": weighted_figures(outcomes, [row.aspect for row in rows], groups, resamples), "details": details}


def check(rows: Sequence[Example]) -> None:
    """Raises SreError for a row of no published subset."""
    known = {subset for weights in CATEGORIES.values() for subset in weights}
    for row in rows:
        if row.aspect not in known:
            expected = f"one of RewardBench's: {', '.join(sorted(known))}"
            raise SreError(f"{row.origin}: expected a subset, {expected}; not {row.aspect!r}", field="subset")


def _outcome(chosen: float | None, rejected: float | None) -> float:
    if chosen is None or rejected is None:
        return 0.0
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _by_subset(outcomes: Sequence[float], rows: Sequence[Example], resamples: int) -> Figures:
    found = {}
    for subset in sorted({row.aspect for row in rows}):
        kept = [k for k, row in enumerate(rows) if row.aspect == subset]
        groups = [rows[k].prompt_id for k in kept]
        found[subset] = rate_figure([outcomes[k] for k in kept], groups, resamples=resamples)
    return found


_HUB, _SPLITS = "allenai/reward-bench", ("filtered",)
REWARDBENCH = Benchmark(
    "rewardbench",
    "score both responses alone",
    _HUB,
    _SPLITS,
    "pairwise",
    both_alone,
    pointwise,
    check=check,
    audited=preferred,
)
REWARDBENCH_PAIRWISE = Benchmark(
    "rewardbench-pairwise", "pick the better response", _HUB, _SPLITS, "pairwise", as_they_are, pairwise, check=check
)
