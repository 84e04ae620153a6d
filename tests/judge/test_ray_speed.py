"""Two workers against one, one thread each, on the rows of `python -m benchmarks`'s workload b."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.workloads import JUDGED_TOKENS, ROWS
from recipe.data.examples import read_examples
from recipe.data.records import Example
from recipe.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.workers import RayPool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray brings it"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two cores"),
]

FASTER = 1.6


def seconds(model: Path, examples: list[Example], workers: int) -> float:
    """For all rows, the start of the workers included."""
    settings = JudgeOptions(max_tokens=JUDGED_TOKENS)
    with RayPool(partial(Judge.from_gguf, model, threads=1), workers, threads=1) as pool:
        start = time.monotonic()
        ids = [row["id"] for row in pool.rows(examples, settings)]
    assert sorted(ids) == sorted(example.id for example in examples)
    return time.monotonic() - start


def test_two_workers_are_that_much_faster_than_one(
    smollm2: Callable[[str], Path], at_most: Callable[[int], int]
) -> None:
    examples = read_examples("seed-data", task="pointwise", split="test", limit=at_most(ROWS))
    examples = [replace(example, rubric=examples[0].rubric) for example in examples]
    model = smollm2("F16")
    one, two = (seconds(model, examples, workers) for workers in (1, 2))
    print(f"\n{len(examples)} rows: {one:.1f} s with one worker, {two:.1f} s with two: {one / two:.2f}x")
    assert one / two >= FASTER
