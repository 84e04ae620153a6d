"""`sre doctor --gpu-smoke`: the stages run on a CPU, and a failure is reported with its trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.doctor.gpu_smoke import smoke
from recipe.pipeline import stages

ROOT = Path(__file__).parents[2]


def sre(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipe.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows(text: str) -> dict[str, list[str]]:
    """Stage -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in cells[2:]}


@pytest.mark.real
def test_every_stage_passes_on_a_cpu(tiny_model: Path) -> None:
    done = sre("doctor", "--gpu-smoke", "--cpu", "--model", str(tiny_model))
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done.stdout)
    assert {"seed", "sft-pointwise", "sft-pairwise", "merged", "iter-1:sample", "gguf"} <= found.keys()
    assert {cells[0] for cells in found.values()} == {"pass"}
    assert "steps 12" in found["sft-pairwise"][4]
    assert int(found["sft-pairwise"][2]) > 0
    assert "Device: CPU" in done.stdout
    assert "torch 2." in done.stdout


def test_without_a_gpu_it_says_so_and_names_the_other_way() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = sre("doctor", "--gpu-smoke")
    assert done.returncode == 2
    assert "error: no GPU: torch" in done.stderr
    assert "--gpu-smoke --cpu" in done.stderr


def test_a_stage_that_fails_is_reported_with_its_trace_and_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal | address")

    monkeypatch.setattr(stages, "seed", broken)
    text, passed = smoke("anything", cpu=True)
    assert not passed
    assert list(rows(text)) == ["seed"]
    assert rows(text)["seed"][0] == "FAIL"
    assert rows(text)["seed"][-1] == "RuntimeError: CUDA error: an illegal / address"
    assert 'raise RuntimeError("CUDA error: an illegal | address")' in text
