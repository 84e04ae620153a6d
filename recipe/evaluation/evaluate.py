"""Judge labelled rows and compute the figures. The verdict on each row is kept beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement
from recipe.evaluation.baselines import label_draws, self_consistency
from recipe.evaluation.compare import figures
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.progress import bar
from recipe.storage import read_jsonl, write_json, write_jsonl

LABEL_ONLY = "label-only"
FORCED = "seed-constrained"
"""The name of the seed model measured with its labels forced."""


def evaluate(
    folder: Path,
    *,
    judge: Judge,
    examples: Sequence[Example],
    max_tokens: int,
    resamples: int,
    label_only: bool = False,
    samples: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge rows once and write folder/judgements.jsonl and folder/figures.json.

    The label is forced where the model writes none (finish "forced"). So one run gives both: the figures of what the
    model wrote, forced labels counting as malformed, and under "constrained" those with the forced labels.

    Args:
        folder: Where the files go.
        judge: Judges the rows.
        examples: The rows.
        max_tokens: The most that one judgement may take.
        resamples: Of the bootstrap.
        label_only: Ask for no rationale (finish "label-only").
        samples: With more than one, the majority of so many draws at temperature 1. They are kept in samples.jsonl.
        seed: Seed of the draws.

    Returns:
        {"figures", "rows", "tokens"}.
    """
    asked = 1 if label_only else samples
    options = JudgeOptions(max_tokens=max_tokens, label_only=label_only, seed=seed, samples=asked)
    pools: dict[str, list[Judgement]] = {example.id: [] for example in examples}
    with bar(f"judging with {judge.name}", len(examples) * asked, "judgements") as advance:
        for judgement in judge.judge(examples, options):
            pools[judgement.example_id].append(judgement)
            advance()
    tokens = sum(judgement.tokens for pool in pools.values() for judgement in pool)
    draws = [_all_draws(pool, samples, seed, label_only=label_only) for pool in pools.values()]
    judgements = [draw for pool in draws for draw in pool]
    if samples > 1:
        write_jsonl(folder / "samples.jsonl", [judgement.to_json() for judgement in judgements])
        judgements = _voted(judgements, samples)
    write_jsonl(folder / "judgements.jsonl", [judgement.to_json() for judgement in judgements])
    result = figures(examples, as_written(judgements), resamples)
    result["constrained"] = figures(examples, judgements, resamples)
    write_json(folder / "figures.json", result)
    return {"figures": result, "rows": len(examples), "tokens": tokens}


def as_written(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements without forced labels: malformed where the model itself wrote no well-formed verdict.

    One that was asked for the label alone is as it is: its label was read, not written.
    """
    kept = (j.finish == LABEL_ONLY or (j.finish != "forced" and j.rationale) for j in judgements)
    return [j if keep else replace(j, label=None) for j, keep in zip(judgements, kept, strict=True)]


def _all_draws(pool: list[Judgement], n: int, seed: int, *, label_only: bool) -> list[Judgement]:
    """An example's n draws in order. Where the engine failed there is one, and where only labels were asked for."""
    first = pool[0]
    if first.finish == "error":
        return [first] * n
    if label_only:
        first = replace(first, finish=LABEL_ONLY)
        return label_draws(first, n, seed) if n > 1 else [first]
    return sorted(pool, key=lambda judgement: judgement.sample)


def _voted(samples: Sequence[Judgement], n: int) -> list[Judgement]:
    """The majority of what was written; of the forced labels only where every sample is malformed."""
    pairs = zip(self_consistency(as_written(samples), n), self_consistency(samples, n), strict=True)
    return [forced if written.label is None else written for written, forced in pairs]


def read_judgements(run: Path, judge: str) -> list[Judgement]:
    """The verdicts of a judge of a run folder, in the examples' order; "seed-constrained": with forced labels."""
    name, _, constrained = judge.partition("-")
    judgements = [Judgement.from_json(row) for row in read_jsonl(run / "evaluation" / name / "judgements.jsonl")]
    return judgements if constrained else as_written(judgements)


def first_samples(run: Path, judge: str) -> list[Judgement]:
    """The first of the samples that a judge was measured with, as written, in the examples' order."""
    first: dict[str, Judgement] = {}
    for row in read_jsonl(run / "evaluation" / judge / "samples.jsonl"):
        first.setdefault(row["example_id"], Judgement.from_json(row))
    return as_written(list(first.values()))


CARD_FIGURES = {
    "Pearson": ("pointwise", "pearson"),
    "Pearson within criteria": ("pointwise", "pearson_within"),
    "pointwise accuracy": ("pointwise", "accuracy"),
    "pairwise accuracy": ("pairwise", "accuracy"),
    "pairwise accuracy, orders averaged": ("pairwise", "both_orders"),
    "pairwise accuracy where the longer response is worse": ("pairwise", "longer_is_worse"),
    "first position picked": ("pairwise", "first"),
}


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a model card shows, of the tasks that were measured."""
    counts = {key: sum(result[task][key] for task in TASKS) for key in ("n", "malformed")}
    found = {name: result[task].get(key) for name, (task, key) in CARD_FIGURES.items() if result[task]["n"]}
    return {"rows": counts["n"], "malformed": counts["malformed"], **{k: v for k, v in found.items() if v}}
