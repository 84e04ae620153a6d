"""Benchmarks of pairs: Safe-RLHF and, each pair judged in both orders, JudgeBench and LLMBar."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

from recipe.data.benchmark_formats import DIMENSIONS
from recipe.data.records import SWAPPED, exchanged, in_both_orders
from recipe.evaluation.benchmarks.base import Benchmark, Figures, Judged, figures_by
from recipe.evaluation.metrics import nothing, weighted_accuracy

JUDGEBENCH_CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""How a row's source begins -> its category, as published."""
_ADVERSARIAL = ("Adversarial_Neighbor", "Adversarial_GPTInst", "Adversarial_GPTOut", "Adversarial_Manual")
LLMBAR_SUBSETS = ("Natural", *_ADVERSARIAL)


def judgebench(judged: Judged) -> Figures:
    """A pair is right only if both orders name the better response; by category and overall."""
    right = _right_orders(judged)
    both = [float(orders == 2) for orders in right]
    known = JUDGEBENCH_CATEGORIES.items()
    found = [next((name for start, name in known if row.aspect.startswith(start)), "") for row in judged.rows]
    parts = judged.rates_by(found, both)
    named = {name: parts[name] for name in JUDGEBENCH_CATEGORIES.values() if name in parts}
    averaged = judged.rate([orders / 2 for orders in right])
    return {
        "headline": {"both orders right": judged.rate(both), **named},
        "details": {"n": len(judged.rows), "accuracy, mean of the orders": averaged},
    }


def llmbar(judged: Judged) -> Figures:
    """Accuracy, mean of both orders, by subset; the mean of the four adversarial ones, and of all five."""
    accuracy = [orders / 2 for orders in _right_orders(judged)]
    subsets = [row.aspect for row in judged.rows]

    def mean_of(names: Sequence[str]) -> Figures:
        if not set(names) <= set(subsets):
            return nothing(sum(subset in names for subset in subsets))
        return weighted_accuracy(accuracy, subsets, judged.prompts, dict.fromkeys(names, 1.0), judged.resamples)

    parts = judged.rates_by(subsets, accuracy)
    given = {name or "all": parts[name] for name in sorted(parts, key=lambda n: (*LLMBAR_SUBSETS, n).index(n))}
    headline = {**given, "Adversarial": mean_of(_ADVERSARIAL), "average": mean_of(LLMBAR_SUBSETS)}
    return {"headline": headline, "details": {"n": len(judged.rows)}}


def _right_orders(judged: Judged) -> list[int]:
    """Of each pair, in how many of its two orders the better response was named."""
    return [
        (judged.verdicts[row.id].label == row.label) + (judged.verdicts[row.id + SWAPPED].label == exchanged(row).label)
        for row in judged.rows
    ]


_HUB = "ScalerLab/JudgeBench"
JUDGEBENCH = Benchmark("judgebench", _HUB, ("gpt",), "pairwise", judgebench, in_both_orders)
JUDGEBENCH_CLAUDE = replace(JUDGEBENCH, name="judgebench-claude", splits=("claude",))
LLMBAR = Benchmark("llmbar", "princeton-nlp/LLMBar:LLMBar", LLMBAR_SUBSETS, "pairwise", llmbar, in_both_orders)
_BY_ASPECT = partial(figures_by, attrgetter("aspect"))
SAFE_RLHF = Benchmark("safe-rlhf", "PKU-Alignment/PKU-SafeRLHF", ("test",), "pairwise", _BY_ASPECT, aspects=DIMENSIONS)
