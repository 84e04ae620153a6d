"""Benchmarks of scores: BiGGen Bench (against people, against GPT-4) and Feedback Bench."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipe.data.examples import read_rows
from recipe.data.values import no_label
from recipe.evaluation.benchmarks.base import Benchmark, Figures, Judged, labelled_figures
from recipe.evaluation.metrics import correlation


def biggen(judged: Judged) -> Figures:
    """Pearson with the human scores and with GPT-4's, each over the rows that have one.

    Labels are compared, and expected scores beside them. details: all figures against the human scores.
    """
    people = {row.id: float(row.label) for row in judged.rows if row.label is not None}
    headline = {}
    for name, truth in (("human", people), ("GPT-4", judged.truths)):
        rows = [row for row in judged.rows if row.id in truth]
        true, prompts = [truth[row.id] for row in rows], [row.prompt_id for row in rows]
        said = [judged.verdicts[row.id] for row in rows]
        labels = [verdict.label for verdict in said]
        # An expected score counts only where the judge gave a label too, so that both are over the same rows.
        expected = [None if verdict.label is None else verdict.expected for verdict in said]
        headline[f"Pearson, {name}"] = correlation(true, labels, prompts, judged.resamples)
        headline[f"Pearson, {name}, expected score"] = correlation(true, expected, prompts, judged.resamples)
    scored = replace(judged, rows=[row for row in judged.rows if row.id in people])
    details = labelled_figures(scored)["details"] if scored.rows else {}
    return {"headline": headline, "details": {"n": len(judged.rows), "human": details}}


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
    "biggen", "prometheus-eval/BiGGen-Bench-Results", ("human_eval",), "pointwise", biggen, truth=gpt4_scores
)
FEEDBACK_BENCH = Benchmark("feedback-bench", "prometheus-eval/Feedback-Bench", ("train",), "pointwise")
