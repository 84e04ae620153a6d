"""What a judge costs a fresh process: memory at most, and seconds to its first answers. `-s` prints the figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measure import Job, measure
from benchmarks.workloads import cold_start
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.prompts import Prompts
from recipe.system import usable_cores

ROWS = 64
BUDGET = 200_000_000  # bytes of the KV cache
BESIDE = 250_000_000  # bytes of everything but the model's file and the KV cache
SECONDS = {"label only": 1.5, "full": 2.5}  # what is aimed at, on two cores that are free
PATIENCE = 60  # what a machine that does other work may take
# A process counts the memory of the one that forked it, up to its exec, among its own: so a small one starts it.
LAUNCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_K_M", "F16"])
def test_peak_memory_is_the_file_the_budget_and_a_little(
    type_name: str, smollm2: Callable[[str], Path], at_most: Callable[[int], int], tmp_path: Path
) -> None:
    model, out = smollm2(type_name), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "recipe.cli", "judge", "seed-data", "-o", str(out), "--model", str(model)]
    command += ["--limit", str(at_most(ROWS)), "--max-tokens", "64", "--memory", str(BUDGET)]
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_text().count("\n") == at_most(ROWS)
    peak, size = int(done.stdout.split()[-1]) * 1024, model.stat().st_size
    print(
        f"\n{type_name}: peak {peak / 1e6:.0f} MB of {(size + BUDGET + BESIDE) / 1e6:.0f}: file {size / 1e6:.0f}, "
        f"KV cache {BUDGET / 1e6:.0f}, beside them {(peak - size - BUDGET) / 1e6:.0f}"
    )
    assert peak <= size + BUDGET + BESIDE


@pytest.mark.slow
@pytest.mark.parametrize("kind", SECONDS)
def test_a_fresh_process_gives_its_first_answer_soon(kind: str, smollm2: Callable[[str], Path]) -> None:
    model = smollm2("Q8_0")
    with LlamaCppGenerator(model, context=1024) as generator:  # its file is in the page cache then
        workload = cold_start(
            Prompts(),
            lambda messages, lead: generator.tokenize(generator.render(messages) + lead),
            label_only=kind == "label only",
        )
    found = [measure(Job("cold", model, workload, usable_cores(), 16))["seconds"] for _ in range(3)]
    times = ", ".join(f"{seconds:.2f}" for seconds in sorted(found))
    print(f"\n{kind}, {len(workload.items[0].ids)} tokens, {workload.new_tokens} new: {times} s; aim {SECONDS[kind]} s")
    assert min(found) < PATIENCE
