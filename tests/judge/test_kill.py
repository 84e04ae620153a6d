"""`sre judge` killed three times at random moments and resumed: every row is there once. `-s` prints the moments."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 3
LONGEST = 900  # seconds of one run at most


def write_rows(path: Path, count: int) -> None:
    row = {"orig_instruction": "Name a number.", "orig_criteria": "Is it even?"}
    lines = (json.dumps({**row, "id": f"row-{k}", "orig_response": f"It is {k}."}) + "\n" for k in range(count))
    path.write_text("".join(lines))


def finished(path: Path) -> list[str]:
    """Ids of the whole lines."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line)["id"] for line in whole.splitlines()]


def kill_within(command: list[str], out: Path, lines: int, delay: float) -> None:
    """Start it, and kill -9 it `delay` seconds after it has written `lines` lines in all."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + LONGEST
        while (out.read_bytes().count(b"\n") if out.exists() else 0) < lines:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        process.kill()
        process.wait()


def check_killed_runs(model: Path, folder: Path, rows: int, options: list[str]) -> None:
    source, out = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(source, rows)
    command = [sys.executable, "-m", "recipe.cli", "judge", str(source), "-o", str(out), "--model", str(model)]
    command += ["--resume", "--max-tokens", "16", *options]
    draw = random.Random(rows)
    begin = time.monotonic()
    for number in range(KILLS):
        kept = finished(out)
        lines = len(kept) + 1 + draw.randrange((rows - len(kept)) // (KILLS - number + 1))
        kill_within(command, out, lines, delay=draw.random() / 5)
        kept = finished(out)
        assert len(set(kept)) == len(kept) < rows
        print(f"killed with {len(kept)} of {rows} rows whole")
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    ids = finished(out)
    assert out.read_bytes().endswith(b"\n")
    assert sorted(ids) == sorted(f"row-{k}" for k in range(rows))
    assert all(json.loads(line)["label"] for line in out.read_text().splitlines())
    print(f"{rows} rows, {KILLS} kills, {time.monotonic() - begin:.0f} s: none lost, none twice")


@pytest.mark.slow
def test_10000_rows_outlive_three_kills(tiny_model: Path, tmp_path: Path) -> None:
    from recipe.gguf.export import write_gguf

    write_gguf(tiny_model, tmp_path / "tiny.gguf")
    check_killed_runs(tmp_path / "tiny.gguf", tmp_path, 10_000, ["--label-only"])


@pytest.mark.slow
def test_300_rationales_of_a_real_model_outlive_three_kills(at_most: Callable[[int], int], tmp_path: Path) -> None:
    from recipe.training.seed import embedded_gguf

    check_killed_runs(embedded_gguf(), tmp_path, at_most(300), [])
