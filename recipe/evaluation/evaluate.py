"""Judge labelled rows and compute the figures. The verdict on each row is kept beside the figures."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.config import EvaluateConfig
from recipe.data.records import TASKS, Example, Judgement, pools_of
from recipe.evaluation.audit import FIGURES, figures_by_task
from recipe.judge.aggregate import consensus
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.progress import bar, each
from recipe.storage import read_jsonl, write_json, write_jsonl
from recipe.verdict import format_verdict

LABEL_ONLY = "label-only"
FORCED = "seed-constrained"
"""The name of the seed model measured with its labels forced."""


def evaluate(
    folder: Path, *, judge: Judge, examples: Sequence[Example], settings: EvaluateConfig, seed: int = 0
) -> dict[str, Any]:
    """Judge rows once, write folder/judgements.jsonl and folder/figures.json; returns {"figures", "rows", "tokens"}.

    The label is forced where the model writes none (finish "forced"). So one run gives both: the figures of what the
    model wrote, forced labels counting as malformed, and under "constrained" those with the forced labels. With more
    than one sample a judgement is the majority of so many draws at temperature 1, which are kept in samples.jsonl.
    """
    samples, label_only = settings.samples, settings.label_only
    asked = 1 if label_only else samples
    options = JudgeOptions(max_tokens=settings.max_tokens, label_only=label_only, seed=seed, samples=asked)
    pools: dict[str, list[Judgement]] = {example.id: [] for example in examples}
    with bar(f"judging with {judge.name}", len(examples) * asked, "judgements") as advance:
        for judgement in each(judge.judge(examples, options), advance):
            pools[judgement.example_id].append(judgement)
    tokens = sum(judgement.tokens for pool in pools.values() for judgement in pool)
    judgements = [draw for pool in pools.values() for draw in _all_draws(pool, samples, seed, label_only=label_only)]
    if samples > 1:
        write_jsonl(folder / "samples.jsonl", [judgement.to_json() for judgement in judgements])
        # The majority of what was written; of the forced labels only where every sample is malformed.
        sides = self_consistency(as_written(judgements)), self_consistency(judgements)
        judgements = [forced if written.label is None else written for written, forced in zip(*sides, strict=True)]
    write_jsonl(folder / "judgements.jsonl", [judgement.to_json() for judgement in judgements])
    result = figures_by_task(examples, as_written(judgements), settings.resamples)
    result["constrained"] = figures_by_task(examples, judgements, settings.resamples)
    write_json(folder / "figures.json", result)
    return {"figures": result, "rows": len(examples), "tokens": tokens}


def as_written(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements, malformed where a label was forced. One that was asked for the label alone is as it is."""
    kept = (j.finish == LABEL_ONLY or (j.finish != "forced" and j.rationale) for j in judgements)
    return [j if keep else replace(j, label=None) for j, keep in zip(judgements, kept, strict=True)]


def _all_draws(pool: list[Judgement], n: int, seed: int, *, label_only: bool) -> list[Judgement]:
    """An example's n draws in order. Where the engine failed there is one, and where only labels were asked for."""
    first = pool[0]
    if first.finish == "error":
        return [first] * n
    if label_only:
        first = replace(first, finish=LABEL_ONLY)
        return _label_draws(first, n, seed) if n > 1 else [first]
    return sorted(pool, key=lambda judgement: judgement.sample)


def read_judgements(run: Path, judge: str) -> list[Judgement]:
    """The verdicts of a judge of a run folder, in the examples' order; "seed-constrained": with forced labels."""
    name, _, constrained = judge.partition("-")
    judgements = read_jsonl(run / "evaluation" / name / "judgements.jsonl", Judgement.from_json)
    return judgements if constrained else as_written(judgements)


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a model card shows, of the tasks that were measured."""
    counts = {key: sum(result[task][key] for task in TASKS) for key in ("n", "malformed")}
    found = {"rows": counts["n"], "malformed": counts["malformed"]}
    for task, names in FIGURES["card"].items():
        for name in names if result[task]["n"] else ():
            label = FIGURES["labels"][name]
            label = f"{task} {label}" if label.startswith("accuracy") else label
            if figure := result[task].get(name):
                found[label] = figure
    return found


# --- a judge's samples as one judgement ---


def self_consistency(judgements: Iterable[Judgement]) -> list[Judgement]:
    """One judgement an example: the majority of its samples (`aggregate.consensus`), with their mean distribution."""
    found = []
    for samples in pools_of(judgements).values():
        agreed = consensus(samples)
        chosen = agreed.judgement or samples[0]
        shares = {label: math.log(share) for label, share in agreed.label_probabilities.items() if share > 0}
        found.append(replace(chosen, label_logprobs=shares, origin=f"{chosen.origin}-consistency-{len(samples)}"))
    return found


def _label_draws(judgement: Judgement, n: int, seed: int) -> list[Judgement]:
    """n samples at temperature 1 of a judgement that is a label alone: draws from its label distribution."""
    shares = judgement.label_probabilities
    labels = random.Random(f"{seed}:{judgement.example_id}").choices(list(shares), list(shares.values()), k=n)
    stem = judgement.id.rpartition(":")[0]
    return [
        replace(judgement, id=f"{stem}:{k}", label=label, text=format_verdict("", label))
        for k, label in enumerate(labels)
    ]
