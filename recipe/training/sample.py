"""Stage sample: self-rationalization, N judgements of each input from J_t.

Each block of inputs is generated alone and written to a file of its own, so a resumed run draws what is missing and
writes the same bytes as an uninterrupted one. Several processes (accelerate launch) take blocks in turn. The main
process waits for all of them and joins them to samples.jsonl.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipe.config import BootstrapConfig, SampleConfig
from recipe.data.records import Example, Judgement
from recipe.inference.base import Generator, Request, Sampling, completions_by_request, to_judgement
from recipe.progress import bar, each
from recipe.prompts import Prompts
from recipe.storage import atomic, hash_object, read_jsonl, write_jsonl
from recipe.system import process, wait_for

UNFINISHED = "unfinished-samples"  # the folder of the blocks, until they are joined


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
    """Write folder/samples.jsonl, one judgement a line; returns counts for the done marker.

    generator: runs J_t, whose name is `origin`. examples: the inputs; one that the engine can't take gives judgements
    with the finish "error". ask: what is asked of each input, up to its label; None asks for a raw judgement.
    """
    path, unfinished = folder / "samples.jsonl", folder / UNFINISHED
    starts = range(0, len(examples), settings.block)
    blocks = {unfinished / f"{start}.jsonl": examples[start : start + settings.block] for start in starts}
    number, processes = process()
    drawn = int(hash_object([seed, origin])[:12], 16)
    sampling = Sampling(settings.temperature, settings.n, settings.max_tokens, drawn, stop_at_label=bool(ask))
    if not (path.exists() and path.read_bytes().count(b"\n") == len(examples) * settings.n):
        mine = dict(list(blocks.items())[number::processes])
        label = f"sampling {origin}" + (f", process {number + 1} of {processes}" if processes > 1 else "")
        with bar(label, sum(map(len, mine.values())) * settings.n, "judgements") as advance:
            for file, block in mine.items():
                if file.exists():
                    advance(len(block) * settings.n)
                    continue
                # Without `ask` no grammar and no filter, up to the end token.
                requests = [ask(row) if ask else Request(row.id, prompts.judge(row), row.labels) for row in block]
                found = completions_by_request(each(generator.generate(requests, sampling), advance))
                write_jsonl(file, [to_judgement(row, one, origin).to_json() for row in block for one in found[row.id]])
        if number == 0:
            wait_for(lambda: all(file.exists() for file in blocks))
            with atomic(path) as joined:
                joined.writelines(file.read_text(encoding="utf-8") for file in blocks)
    if number:
        return {}
    shutil.rmtree(unfinished, ignore_errors=True)
    return count(read_jsonl(path, Judgement.from_json))


def count(judgements: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "examples": len({judgement.example_id for judgement in judgements}),
        "judgements": len(judgements),
        "tokens": sum(judgement.tokens for judgement in judgements),
        "malformed": sum(judgement.label is None for judgement in judgements),
        "errors": sum(judgement.finish == "error" for judgement in judgements),
        "right": sum(judgement.label is not None and judgement.label == judgement.truth for judgement in judgements),
    }
