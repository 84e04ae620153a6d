"""Stage sample: self-rationalization, N judgements of each input from J_t.

samples.jsonl grows by whole blocks of inputs. Each block is generated alone and appended when it is complete, so a
resumed run writes the same bytes as an uninterrupted one. Several processes (accelerate launch) take blocks in turn,
each in a file of its own (a shard); the main process joins them to the bytes that one process would write.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipe.config import BootstrapConfig, SampleConfig
from recipe.data.records import Example, Judgement
from recipe.errors import SreError
from recipe.inference.base import Generator, Request, Sampling, completions_by_request
from recipe.inference.conversion import to_judgement
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import append_jsonl, hash_object, read_jsonl, replacing, whole_blocks
from recipe.system import process, wait_for


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
    settings: SampleConfig | BootstrapConfig,
    prompts: Prompts,
    origin: str,
    seed: int,
    ask: Callable[[Example], Request] | None = None,
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
        ask: What is asked of each input, up to its label; None asks for a raw judgement.

    Returns:
        Counts for the done marker.
    """
    path = folder / "samples.jsonl"
    blocks = [examples[start : start + settings.block] for start in range(0, len(examples), settings.block)]
    sizes = [len(block) * settings.n for block in blocks]
    done = whole_blocks(path, sizes)
    number, processes = process()
    drawn = int(hash_object([seed, origin])[:12], 16)
    sampling = Sampling(settings.temperature, settings.n, settings.max_tokens, drawn, stop_at_label=bool(ask))

    def draw(out: Path, mine: Sequence[Sequence[Example]], skip: int) -> None:
        who = f"sampling {origin}" + (f", process {number + 1} of {processes}" if processes > 1 else "")
        with bar(who, sum(map(len, mine)) * settings.n, "judgements") as advance:
            advance(sum(map(len, mine[:skip])) * settings.n, "resumed" if skip else "")
            for block in mine[skip:]:
                # Without `ask` no grammar and no filter, up to the end token.
                requests = [ask(row) if ask else Request(row.id, prompts.judge(row), row.labels) for row in block]
                judgements = sample_block(generator, block, requests, sampling, origin)
                append_jsonl(out, [judgement.to_json() for judgement in judgements])
                advance(len(judgements))

    for shard in folder.glob("samples-*-of-*") if done < len(blocks) else ():
        if shard.stem.rpartition("-")[2] != str(processes):  # other processes began, which shared the blocks otherwise
            shard.unlink(missing_ok=True)
    if processes == 1:
        draw(path, blocks, done)
    elif done < len(blocks):
        shards = [folder / f"samples-{k}-of-{processes}.jsonl" for k in range(processes)]
        if not shards[number].exists():
            growing = shards[number].with_suffix(".part")
            draw(growing, blocks[done:][number::processes], whole_blocks(growing, sizes[done:][number::processes]))
            growing.touch()  # there may be fewer blocks than processes
            growing.rename(shards[number])
        if number == 0:
            wait_for(lambda: all(shard.exists() for shard in shards))
            join_shards(path, shards, sizes[done:])
    if number:
        return {}
    for left_over in folder.glob("samples-*-of-*"):
        left_over.unlink()
    return count(read_jsonl(path, Judgement.from_json))


def join_shards(path: Path, shards: Sequence[Path], sizes: Sequence[int]) -> None:
    """Append the shards' blocks, of so many rows each, in turn to what `path` holds: all or nothing.

    Raises SreError for a shard that lacks a block.
    """
    for number, shard in enumerate(shards):
        share = list(sizes[number :: len(shards)])
        if whole_blocks(shard, share) < len(share):
            raise SreError("samples are missing here; remove the file and run the stage again", file=shard)
    lines = [iter(shard.read_bytes().splitlines(keepends=True)) for shard in shards]
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(path.read_bytes() if path.exists() else b"")
        for rest, rows in zip(itertools.cycle(lines), sizes, strict=False):
            out.writelines(itertools.islice(rest, rows))
        out.flush()
        os.fsync(out.fileno())


def sample_block(
    generator: Generator, block: Sequence[Example], requests: Sequence[Request], sampling: Sampling, origin: str
) -> list[Judgement]:
    """N judgements of each example, in order."""
    found = completions_by_request(generator.generate(requests, sampling))
    judgements = []
    for example in block:
        completions = found[example.id]
        if completions[0].finish == "error":
            completions = [completions[0]] * sampling.n
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
