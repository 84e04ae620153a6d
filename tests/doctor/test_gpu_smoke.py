"""`sre doctor --gpu-smoke`: the steps run on a CPU, a failure is reported and does not end the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.doctor import gpu_smoke
from recipe.doctor.gpu_smoke import Report, Skip, Step, smoke

ROOT = Path(__file__).parents[2]


def sre(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipe.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows(text: str) -> dict[str, list[str]]:
    """Step -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in cells[2:]}


@pytest.mark.real
def test_every_step_passes_on_a_cpu(tiny_model: Path) -> None:
    done = sre("doctor", "--gpu-smoke", "--cpu", "--model", str(tiny_model))
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done.stdout)
    assert found.pop("Unsloth imports")[0] == "skip"
    assert found.pop("sampling with vLLM")[0] == found.pop("steps as CUDA graphs")[0] == "skip"
    assert {name: cells[0] for name, cells in found.items()} == dict.fromkeys(found, "pass"), done.stdout
    assert len(found) == 11
    assert "2 steps, loss" in found["SFT step, pairwise"][3]
    assert "reference: " in found["DPO step, J_t as reference"][3]
    assert "Device: CPU" in done.stdout
    assert "torch 2." in done.stdout
    assert "11 pass, 0 FAIL, 3 skip" in done.stdout


def test_without_a_gpu_it_says_so_and_names_the_other_way() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = sre("doctor", "--gpu-smoke")
    assert done.returncode == 2
    assert "error: no GPU: torch" in done.stderr
    assert "--gpu-smoke --cpu" in done.stderr


def test_a_failing_step_is_reported_with_its_trace_and_skips_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> str:
        raise RuntimeError("CUDA error: an illegal | address")

    monkeypatch.setattr(gpu_smoke._Smoke, "_seed", broken)
    report = smoke("anything", cpu=True, folder=tmp_path)
    found = rows(report.text)
    assert found["seed model"][0] == "FAIL"
    assert found["seed model"][3] == "RuntimeError: CUDA error: an illegal / address"
    assert {cells[0] for name, cells in found.items() if name != "seed model"} == {"skip"}
    assert found["llama.cpp judges"][3] == "needs the judge.gguf that an earlier step makes"
    assert 'raise RuntimeError("CUDA error: an illegal | address")' in report.text
    assert "0 pass, 1 FAIL, 13 skip" in report.text
    assert report.failed == 1


def test_an_inexact_merge_and_a_sample_without_logprob_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.training import merge

    monkeypatch.setattr(merge, "run_merge", lambda *_, **__: {"relative_error": {"exact": 0.2}})
    test = gpu_smoke._Smoke("anything", True, "", tmp_path)
    test.made |= {"pointwise adapter": True, "pairwise adapter": True}
    with pytest.raises(RuntimeError, match=r"off by 2\.0e-01"):
        test._merge()
    with pytest.raises(Skip, match="both samples"):
        gpu_smoke._pairs([])


def test_skipped_steps_are_no_failure() -> None:
    report = Report("CPU", {"python": "3.11"}, [Step("one", "pass", 1.0, 5, "fine"), Step("two", "skip", 0.0, 0, "no")])
    assert report.failed == 0
    assert "| one | pass | 1.0 | 5 | fine |" in report.text
    assert "1 pass, 0 FAIL, 1 skip" in report.text


def test_samplers_and_trainers_that_disagree_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.training import dpo

    monkeypatch.setattr(gpu_smoke, "_pairs", lambda samples: [])
    monkeypatch.setattr(dpo, "run_dpo", lambda *_, **__: {"recorded_gap_max": 7.5, "reference": "pass"})
    test = gpu_smoke._Smoke("anything", True, "", tmp_path)
    test.made |= {"merged adapter": tmp_path, "samples": []}
    with pytest.raises(RuntimeError, match=r"disagree by 7\.5 nat"):
        test._dpo()


@pytest.mark.slow
def test_every_step_passes_on_the_embedded_model() -> None:
    done = sre("doctor", "--gpu-smoke", "--cpu")
    assert done.returncode == 0, done.stdout
