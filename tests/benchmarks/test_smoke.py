"""`python -m benchmarks.smoke`, tools/gpu_check.sh: the stages run on a CPU; a failure is reported with its trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.smoke import markdown, smoke
from recipe.pipeline import stage_inputs
from tools.gpu_report import report

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows(text: str) -> dict[str, list[str]]:
    """Stage -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in cells[2:]}


@pytest.fixture(scope="module")
def checked(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tools/gpu_check.sh writes, on a processor with tiny settings."""
    folder = tmp_path_factory.mktemp("gpu-check")
    settings = {"DEVICE": "cpu", "SHAPE": "smollm2-135m", "VOCAB": "800", "MODEL": str(tiny_model), "LIMIT_S": "900"}
    env = {**os.environ, **settings, "PYTHON": sys.executable}
    done = subprocess.run(
        [ROOT / "tools" / "gpu_check.sh", folder], env=env, capture_output=True, text=True, check=False
    )
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert done.stdout == (folder / "report.md").read_text()
    return folder


@pytest.mark.real
def test_every_stage_passes_on_a_cpu(checked: Path) -> None:
    told = json.loads((checked / "smoke.json").read_text())
    found = {row["stage"]: row for row in told["stages"]}
    assert {"seed", "sft-pointwise", "sft-pairwise", "merged", "iter-1:sample", "gguf"} <= found.keys()
    assert {row["result"] for row in told["stages"]} == {"pass"}
    assert "steps 12" in found["sft-pairwise"]["detail"]
    assert found["sft-pairwise"]["tokens/s"] > 0
    assert "NF4" in found["gguf"]["detail"]
    assert told["device"].startswith("CPU")
    assert told["versions"]["torch"].startswith("2.")
    assert rows(markdown(told))["sft-pairwise"][0] == "pass"


@pytest.mark.real
def test_a_shape_with_random_weights_passes_every_stage_in_nf4(checked: Path) -> None:
    told = json.loads((checked / "shape.json").read_text())
    found = {row["stage"]: row for row in told["stages"]}
    assert {"seed", "sft-mixed", "iter-1:sample", "iter-1:dpo", "gguf"} <= found.keys()
    assert {row["result"] for row in told["stages"]} == {"pass"}
    for stage in ("sft-mixed", "iter-1:sample", "iter-1:dpo"):
        for measure in ("s", "tokens/s", "peak MiB"):
            assert found[stage][measure] > 0
            assert found[stage][f"plan {measure.removeprefix('peak ')}"] > 0
    assert "pairs" in found["iter-1:dpo"]["detail"]
    assert "iter-1:dpo …" in (checked / "shape.log").read_text()


@pytest.mark.real
def test_the_check_sums_up_its_steps_and_compares_them_with_the_plan(checked: Path) -> None:
    text = (checked / "report.md").read_text()
    steps, speeds = text.split("## Speed")
    assert {name: cells[0] for name, cells in rows(steps).items()} == dict.fromkeys(
        ("doctor", "speed", "smoke", "shape"), "pass"
    )
    measured = json.loads((checked / "speed.json").read_text())
    assert measured["flops"] > 1e9
    assert measured["bandwidth"] > 1e8
    ratios = rows(speeds.rpartition("### Measured over planned")[2])
    shape = {row["stage"]: row for row in json.loads((checked / "shape.json").read_text())["stages"]}
    assert float(ratios["iter-1:dpo"][0]) == pytest.approx(
        shape["iter-1:dpo"]["s"] / shape["iter-1:dpo"]["plan s"], abs=0.01
    )


def test_a_check_without_time_says_which_steps_were_stopped(tmp_path: Path) -> None:
    (tmp_path / "steps.txt").write_text("doctor 0 1\nsmoke 124 9\nshape 1 3\n")
    text, passed = report(tmp_path)
    assert not passed
    assert [cells[0].split(":")[0] for cells in rows(text).values()] == ["pass", "stopped", "FAIL"]


def test_without_a_gpu_it_says_so_and_names_the_other_way() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run("benchmarks.smoke")
    assert done.returncode == 2
    assert "error: no GPU: torch" in done.stderr
    assert "benchmarks.smoke --cpu" in done.stderr


def test_the_option_of_an_older_version_names_the_command() -> None:
    done = run("recipe.cli", "doctor", "--gpu-smoke")
    assert (done.returncode, "python -m benchmarks.smoke" in done.stderr) == (2, True)


def test_a_stage_that_fails_is_reported_with_its_trace_and_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal | address")

    monkeypatch.setattr(stage_inputs, "seed", broken)
    found = smoke("anything", cpu=True)
    text = markdown(found)
    assert not found["passed"]
    assert list(rows(text)) == ["seed"]
    assert rows(text)["seed"][0] == "FAIL"
    assert rows(text)["seed"][-1] == "RuntimeError: CUDA error: an illegal / address"
    assert 'raise RuntimeError("CUDA error: an illegal | address")' in text
