"""Several processes of one launch: the losses, the adapter and the samples of one process, written once.

Computed in float32, so that only the order of additions may differ: bfloat16 differs by 1e-3 with the padding alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
LAUNCH = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m"]
LOSS, WEIGHT = 1e-5, 1e-6


@pytest.fixture(scope="module")
def start(tiny_model, tiny_data):
    """Starts `sre run tiny` up to a stage, in one process or in two."""

    def start(folder: Path, until: str, processes: int = 1) -> subprocess.Popen[str]:
        settings = [f'model.source="{tiny_model}"', f'data.pointwise="{tiny_data}"', f'data.pairwise="{tiny_data}"']
        options = [part for item in (*settings, "threads=1") for part in ("--set", item)]
        launch = LAUNCH if processes > 1 else []
        command = [sys.executable, "-m", *launch, "recipe.cli", "run", "tiny", "--run-dir", str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, "--until", until, *options], env={**os.environ, **FLOAT32}, **pipes)

    return start


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote to (output, error output)."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return output, errors


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The run folder of one process, up to the first DPO."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish(start(folder, "iter-1:dpo"))
    return folder


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Losses step by step, dev losses, and every weight of the adapter."""
    from safetensors.torch import load_file

    histories = [json.loads((folder / "training.json").read_text())["history"] for folder in (ours, theirs)]
    for kind in ("loss", "eval_loss"):
        found, wanted = ([entry[kind] for entry in history if kind in entry] for history in histories)
        assert found == pytest.approx(wanted, abs=LOSS)
    found, wanted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (ours, theirs))
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= WEIGHT


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def test_sft_in_two_processes_is_sft_in_one(alone, start, tmp_path):
    folder = tmp_path / "run"
    output, errors = finish(start(folder, "sft-pointwise", processes=2))
    assert_same_training(folder / "sft-pointwise", alone / "sft-pointwise")
    assert json.loads((folder / "sft-pointwise" / "done.json").read_text())["processes"] == 2
    assert files(folder / "sft-pointwise") == files(alone / "sft-pointwise")
    # One process speaks.
    assert len(re.findall("SFT pointwise: 8/8 steps", errors)) == 1
    assert len(re.findall("wall time", output)) == 1


def test_sampling_and_dpo_in_two_processes_are_those_in_one(alone, start, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    shutil.rmtree(folder / "iter-1")
    shutil.rmtree(folder / "gguf")
    _, errors = finish(start(folder, "iter-1:dpo", processes=2))
    assert "sampling sft, process 1 of 2: 16/16" in errors
    for name in ("samples.jsonl", "preferences.jsonl", "dropped.jsonl"):
        assert (folder / "iter-1" / name).read_bytes() == (alone / "iter-1" / name).read_bytes()
    assert_same_training(folder / "iter-1", alone / "iter-1")
    assert files(folder) == files(alone)


@pytest.mark.slow
def test_stopped_and_resumed_in_two_processes_is_uninterrupted_in_one(alone, start, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "sft-pointwise", processes=2)
    while process.poll() is None and not list(folder.glob("sft-pointwise/checkpoints/*/trainer_state.json")):
        time.sleep(0.1)
    process.terminate()
    process.communicate()
    assert not (folder / "sft-pointwise" / "done.json").exists()
    finish(start(folder, "sft-pointwise", processes=2))
    assert_same_training(folder / "sft-pointwise", alone / "sft-pointwise")
    assert files(folder / "sft-pointwise") == files(alone / "sft-pointwise")
