"""Stage sample: self-rationalization, N judgements of each input from J_t, in whole blocks of inputs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.config import SampleConfig
from recipe.data.records import Example, Judgement
from recipe.inference.base import Generator, Request, Sampling, completions_by_request
from recipe.inference.conversion import to_judgement
from recipe.prompts import Prompts
from recipe.storage import hash_object, read_jsonl
from recipe.system import process
from recipe.training.blocks import draw_in_blocks


def choose_inputs(
    pointwise: Sequence[Example], pairwise: Sequence[Example], settings: SampleConfig, *, iteration: int, seed: int
) -> list[Example]:
    """The training inputs of an iteration (from 1), grouped by rubric so that their prompts share prefixes.

    `seed` shuffles each task's rows once. An iteration goes on where the one before it ended, and wraps around.
    """
    counts = [settings.inputs_of(t) for t in range(1, iteration + 1)]
    pairs = settings.pairwise_share if pointwise and pairwise else float(bool(pairwise))
    chosen: list[Example] = []
    for task, rows, share in (("pointwise", pointwise, 1 - pairs), ("pairwise", pairwise, pairs)):
        ends = [sum(round(count * share) for count in counts[:t]) for t in (iteration - 1, iteration)]
        wanted = min(ends[1] - ends[0], len(rows))
        order = random.Random(f"{seed}:{task}").sample(range(len(rows)), len(rows))
        chosen += [rows[order[(ends[0] + k) % len(rows)]] for k in range(wanted)]
    return sorted(chosen, key=lambda example: (example.task, example.rubric.criteria, example.id))


def run_sample(
    folder: Path,
    *,
    generator: Generator,
    examples: Sequence[Example],
    settings: SampleConfig,
    prompts: Prompts,
    origin: str,
    seed: int,
) -> dict[str, Any]:
    """Write folder/samples.jsonl, one judgement a line.

    Args:
        folder: The iteration's folder.
        generator: Runs J_t.
        examples: The inputs. One that the engine can't take gives judgements with the finish "error".
        settings: The section `sample`.
        prompts: The templates.
        origin: J_t's name.
        seed: The run's seed.

    Returns:
        Counts for the done marker.
    """

    def judge(block: Sequence[Example]) -> list[Judgement]:
        return sample_block(generator, block, settings, prompts=prompts, origin=origin, seed=seed)

    path = folder / "samples.jsonl"
    draw_in_blocks(path, examples, judge, n=settings.n, block=settings.block, label=f"sampling {origin}")
    if process()[0]:
        return {}
    return count(read_jsonl(path, Judgement.from_json))


def sample_block(
    generator: Generator,
    block: Sequence[Example],
    settings: SampleConfig,
    *,
    prompts: Prompts,
    origin: str,
    seed: int,
) -> list[Judgement]:
    """N judgements of each example, in order. They are raw: no grammar and no filter, up to the end token."""
    requests = [Request(example.id, prompts.judge(example), example.labels) for example in block]
    draw = int(hash_object([seed, origin])[:12], 16)
    sampling = Sampling(settings.temperature, settings.n, settings.max_tokens, draw, logprobs=True)
    found = completions_by_request(generator.generate(requests, sampling))
    judgements = []
    for example in block:
        completions = found[example.id]
        if completions[0].finish == "error":
            completions = [completions[0]] * settings.n
        judgements += [to_judgement(example, completion, origin) for completion in completions]
    return judgements


def count(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Counts for the done marker; those of the labels by task."""
    labels: dict[str, Counter[str]] = {}
    for judgement in judgements:
        name = "malformed" if judgement.label is None else str(judgement.label)
        labels.setdefault(judgement.task, Counter())[name] += 1
    return {
        "examples": len({judgement.example_id for judgement in judgements}),
        "judgements": len(judgements),
        "tokens": sum(judgement.tokens for judgement in judgements),
        "malformed": sum(judgement.label is None for judgement in judgements),
        "errors": sum(judgement.finish == "error" for judgement in judgements),
        "right": sum(judgement.label is not None and judgement.label == judgement.truth for judgement in judgements),
        "labels": {task: dict(sorted(counts.items())) for task, counts in labels.items()},
    }
