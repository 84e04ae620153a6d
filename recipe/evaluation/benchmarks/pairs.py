"""Benchmarks of pairs: Safe-RLHF, Preference Bench, and, each pair judged in both orders, JudgeBench and LLMBar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.data.benchmark_formats import DIMENSIONS
from recipe.data.records import SWAPPED, Example, exchanged, in_both_orders
from recipe.errors import SreError
from recipe.evaluation.benchmarks.base import (
    Benchmark,
    Figures,
    Verdicts,
    as_they_are,
    both_tasks,
    labelled_figures,
    rates_by,
)
from recipe.evaluation.bootstrap import nothing
from recipe.evaluation.metrics import rate_figure, weighted_accuracy

JUDGEBENCH_CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""How a row's source begins -> its category, as published."""
LLMBAR_SUBSETS = (
    "Natural",
    "Adversarial_Neighbor",
    "Adversarial_GPTInst",
    "Adversarial_GPTOut",
    "Adversarial_Manual",
)


def judgebench(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """A pair is right only if both orders name the better response; by category and overall."""
    right = _right_in_order(rows, verdicts)
    both = [float(sum(orders) == 2) for orders in right]
    groups = [row.prompt_id for row in rows]
    parts = rates_by([_category(row.aspect) for row in rows], both, rows, resamples)
    named = {name: parts[name] for name in JUDGEBENCH_CATEGORIES.values() if name in parts}
    averaged = rate_figure([sum(orders) / 2 for orders in right], groups, resamples)
    return {
        "headline": {"both orders right": rate_figure(both, groups, resamples), **named},
        "details": {"n": len(rows), "accuracy, mean of the orders": averaged},
    }


def llmbar(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """Accuracy, mean of both orders, by subset; the mean of the four adversarial ones, and of all five."""
    accuracy = [sum(orders) / 2 for orders in _right_in_order(rows, verdicts)]
    subsets, groups = [row.aspect for row in rows], [row.prompt_id for row in rows]

    def mean_of(names: Sequence[str]) -> dict[str, Any]:
        if not set(names) <= set(subsets):
            return nothing(sum(subset in names for subset in subsets))
        return weighted_accuracy(accuracy, subsets, groups, dict.fromkeys(names, 1.0), resamples=resamples)

    parts = rates_by(subsets, accuracy, rows, resamples)
    given = {name or "all": parts[name] for name in sorted(parts, key=lambda n: (*LLMBAR_SUBSETS, n).index(n))}
    headline = {**given, "Adversarial": mean_of(LLMBAR_SUBSETS[1:]), "average": mean_of(LLMBAR_SUBSETS)}
    return {"headline": headline, "details": {"n": len(rows)}}


def safe_rlhf(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """Accuracy and Pearson of the preference for each dimension."""
    headline: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for name in DIMENSIONS:
        chosen = [row for row in rows if row.aspect == name]
        if chosen:
            found = labelled_figures(chosen, verdicts, resamples)
            headline |= {f"{name}: {key}": value for key, value in found["headline"].items()}
            details[name] = found["details"]
    return {"headline": headline, "details": details}


def check_dimensions(rows: Sequence[Example]) -> None:
    """Raises SreError for a row that is no pair of Safe-RLHF's."""
    for row in rows:
        if row.aspect not in DIMENSIONS:
            expected = "columns prompt, response_0, response_1, better_response_id and safer_response_id"
            raise SreError(f"{row.origin}: expected {expected}")


def _right_in_order(rows: Sequence[Example], verdicts: Verdicts) -> list[tuple[bool, bool]]:
    """Of each pair, whether the better response was named as it stands and exchanged."""
    return [
        (verdicts[row.id].label == row.label, verdicts[row.id + SWAPPED].label == exchanged(row).label) for row in rows
    ]


def _category(source: str) -> str:
    return next((name for start, name in JUDGEBENCH_CATEGORIES.items() if source.startswith(start)), "")


_HUB = "ScalerLab/JudgeBench"
JUDGEBENCH = Benchmark("judgebench", _HUB, ("gpt",), "pairwise", in_both_orders, judgebench)
JUDGEBENCH_CLAUDE = Benchmark("judgebench-claude", _HUB, ("claude",), "pairwise", in_both_orders, judgebench)
LLMBAR = Benchmark("llmbar", "princeton-nlp/LLMBar:LLMBar", LLMBAR_SUBSETS, "pairwise", in_both_orders, llmbar)
SAFE_RLHF = Benchmark(
    "safe-rlhf",
    "PKU-Alignment/PKU-SafeRLHF",
    ("test",),
    "pairwise",
    as_they_are,
    safe_rlhf,
    check=check_dimensions,
)
PREFERENCE_BENCH = Benchmark(
    "preference-bench", "prometheus-eval/Preference-Bench", ("train",), "pairwise", as_they_are, both_tasks
)
