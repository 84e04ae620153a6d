"""Benchmarks of scores: BiGGen Bench (against people, against GPT-4) and Feedback Bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.data.examples import read_rows
from recipe.data.records import Example
from recipe.data.values import no_label
from recipe.evaluation.benchmarks.base import (
    Benchmark,
    Figures,
    Verdicts,
    as_they_are,
    both_tasks,
    labelled_figures,
)
from recipe.evaluation.metrics import correlation


def biggen(rows: Sequence[Example], verdicts: Verdicts, truths: Mapping[str, float], resamples: int) -> Figures:
    """Pearson with the human scores and with GPT-4's, each over the rows that have one.

    Labels are compared, and expected scores beside them. details: all figures against the human scores.
    """
    by_people = [row for row in rows if row.label is not None]
    people = labelled_figures(by_people, verdicts, resamples) if by_people else {"headline": {}, "details": {}}
    against = {
        "human": {row.id: float(row.label) for row in rows if row.label is not None},
        "GPT-4": {row.id: truths[row.id] for row in rows if row.id in truths},
    }
    headline = {}
    for name, truth in against.items():
        chosen = [row for row in rows if row.id in truth]
        for suffix, figure in (("", "label"), (", expected score", "expected")):
            # An expected score counts only where the judge gave a label too, so that both are over the same rows.
            said = [getattr(verdicts[row.id], figure) if verdicts[row.id].label is not None else None for row in chosen]
            groups = [row.prompt_id for row in chosen]
            value = correlation([truth[row.id] for row in chosen], said, groups, resamples=resamples)
            headline[f"Pearson, {name}{suffix}"] = value
    details = {"n": len(rows), "human": people["details"]}
    return {"headline": headline, "details": details}


def gpt4_scores(source: str, split: str) -> dict[str, float]:
    """GPT-4's score of each row that has one (1 to 5; the mean of several may be a fraction), by the row's id.

    Raises SreError for what is no number from 1 to 5.
    """
    found: dict[str, float] = {}
    for row in read_rows(source, task="pointwise", split=split):
        value: Any = row.raw.row.get("gpt4_score") if row.example else None
        if no_label(value):
            continue
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = float("nan")
        if isinstance(value, bool) or not 1 <= score <= 5:
            raise row.raw.error(f"expected a number from 1 to 5, not {value!r}", "gpt4_score")
        found[row.id] = score
    return found


BIGGEN = Benchmark(
    "biggen",
    "prometheus-eval/BiGGen-Bench-Results",
    ("human_eval",),
    "pointwise",
    as_they_are,
    biggen,
    truth=gpt4_scores,
)
FEEDBACK_BENCH = Benchmark(
    "feedback-bench", "prometheus-eval/Feedback-Bench", ("train",), "pointwise", as_they_are, both_tasks
)
