"""`sre doctor --gpu-smoke`: the stages run on a CPU, and a failure is reported with its trace."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.doctor.gpu_smoke import markdown, smoke
from recipe.doctor.random_model import shape_named, write_random_model
from recipe.errors import SreError
from recipe.pipeline import stages
from recipe.planning.shapes import shape_of

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
    assert "steps 12" in found["sft-pairwise"][-1]
    assert int(found["sft-pairwise"][3]) > 0
    assert float(found["sft-pairwise"][2]) > 0, "the plan's seconds stand beside the measured ones"
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
    report = smoke("anything", cpu=True)
    text = markdown(report)
    assert not report["passed"]
    assert list(rows(text)) == ["seed"]
    assert rows(text)["seed"][0] == "FAIL"
    assert rows(text)["seed"][-1] == "RuntimeError: CUDA error: an illegal / address"
    assert 'raise RuntimeError("CUDA error: an illegal | address")' in text


def test_a_shape_with_random_weights_passes_every_stage_in_nf4(tiny_model: Path) -> None:
    options = ["--shape", "smollm2-135m", "--vocab", "800", "--model", str(tiny_model)]
    done = CliRunner().invoke(main, ["doctor", "--gpu-smoke", "--cpu", "--json", *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    found = {row["stage"]: row for row in report["stages"]}
    assert {"seed", "sft-mixed", "iter-1:sample", "iter-1:dpo", "dev/j1", "gguf"} <= found.keys()
    assert {row["result"] for row in report["stages"]} == {"pass"}
    for stage in ("sft-mixed", "iter-1:sample", "iter-1:dpo"):
        for measure in ("s", "tokens/s", "peak MiB"):
            assert found[stage][measure] > 0
            assert found[stage][f"plan {measure.removeprefix('peak ')}"] > 0
    assert "NF4" in found["gguf"]["detail"]
    assert "pairs" in found["iter-1:dpo"]["detail"]
    assert "iter-1:dpo …" in done.stderr


def test_a_random_model_has_the_shape_it_was_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for asked, tied in (("llama3.1-8b", False), ("Qwen/Qwen3-4B-Instruct-2507", True), ("qwen2.5-0.5b", True)):
        name, shape = shape_named(asked)
        assert shape.tied == tied
        small = replace(shape, layers=2, hidden=64, intermediate=96, vocab=900)
        write_random_model(tmp_path / name.replace("/", "-"), name, small, tiny_model)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name.replace("/", "-"))
        assert shape_of(str(tmp_path / name.replace("/", "-"))) == small
        first, second = (layer.mlp.up_proj.weight for layer in model.model.layers)
        assert float(first.detach().float().std()) == pytest.approx(0.02, rel=0.1)
        assert (first == second).all()


@pytest.mark.parametrize("name", ["", "qwen2.5", "gpt-5"])
def test_a_shape_that_is_not_known_or_not_one_is_an_error(name: str) -> None:
    with pytest.raises(SreError, match=r"--shape.*Llama-3\.1-8B"):
        shape_named(name)


def test_a_disk_that_is_too_full_is_an_error_before_anything_is_written(tiny_model: Path, tmp_path: Path) -> None:
    name, shape = shape_named("llama3.1-8b")
    with pytest.raises(SreError, match="GB are needed"):
        write_random_model(tmp_path / "model", name, replace(shape, layers=10**6), tiny_model)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_true_8b_shape_with_two_layers_passes_on_a_cpu(tmp_path: Path) -> None:
    done = sre("doctor", "--gpu-smoke", "--cpu", "--shape", "llama3.1-8b")
    assert done.returncode == 0, done.stdout + done.stderr
