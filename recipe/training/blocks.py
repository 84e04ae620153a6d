"""Judgements drawn in whole blocks of rows, into a file that grows.

Each block is generated alone and appended when it is complete, so a resumed run writes the same bytes as an
uninterrupted one. Several processes (accelerate launch) take blocks in turn, each in a file of its own (a shard); the
main process joins them to the bytes that one process would write.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from recipe.data.records import Example, Judgement
from recipe.errors import SreError
from recipe.progress import bar
from recipe.storage import append_jsonl, replacing, whole_blocks
from recipe.system import process, wait_for


def draw_in_blocks(
    path: Path,
    examples: Sequence[Example],
    judge: Callable[[Sequence[Example]], list[Judgement]],
    *,
    n: int,
    block: int,
    label: str,
) -> None:
    """Fill a file with `n` judgements of each example, one a line. It is whole when the main process returns.

    Args:
        path: The file; the blocks that it holds already are kept.
        examples: The rows to judge.
        judge: Judges the rows of a block, `n` times each.
        n: Judgements of a row.
        block: Rows of a block.
        label: What the progress bar says.
    """
    blocks = [examples[start : start + block] for start in range(0, len(examples), block)]
    sizes = [len(rows) * n for rows in blocks]
    done = whole_blocks(path, sizes)
    number, processes = process()

    def draw(out: Path, mine: Sequence[Sequence[Example]], skip: int) -> None:
        who = label + (f", process {number + 1} of {processes}" if processes > 1 else "")
        with bar(who, sum(map(len, mine)) * n, "judgements") as advance:
            advance(sum(map(len, mine[:skip])) * n, "resumed" if skip else "")
            for rows in mine[skip:]:
                judgements = judge(rows)
                append_jsonl(out, [judgement.to_json() for judgement in judgements])
                advance(len(judgements))

    for shard in path.parent.glob(f"{path.stem}-*-of-*") if done < len(blocks) else ():
        if shard.stem.rpartition("-")[2] != str(processes):  # other processes began, which shared the blocks otherwise
            shard.unlink(missing_ok=True)
    if processes == 1:
        draw(path, blocks, done)
    elif done < len(blocks):
        shards = [path.with_name(f"{path.stem}-{k}-of-{processes}.jsonl") for k in range(processes)]
        if not shards[number].exists():
            growing = shards[number].with_suffix(".part")
            draw(growing, blocks[done:][number::processes], whole_blocks(growing, sizes[done:][number::processes]))
            growing.touch()  # there may be fewer blocks than processes
            growing.rename(shards[number])
        if number == 0:
            wait_for(lambda: all(shard.exists() for shard in shards))
            join_shards(path, shards, sizes[done:])
    if number == 0:
        for left_over in path.parent.glob(f"{path.stem}-*-of-*"):
            left_over.unlink()


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
