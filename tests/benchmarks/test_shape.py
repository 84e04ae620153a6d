"""Random weights of a true shape: the shape they get, what is refused, and a whole run on them.

test_smoke.py runs all stages on a small one, by way of tools/gpu_check.sh.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.random_model import shape_named, write_random_model
from recipe.errors import SreError
from recipe.planning.shapes import shape_of

ROOT = Path(__file__).parents[2]


def test_a_random_model_has_the_shape_it_was_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for asked, tied in (
        ("llama3.1-8b", False),
        ("Qwen/Qwen3-4B-Instruct-2507", True),
        ("qwen2.5-0.5b", True),
        ("gemma-3-1b", True),
    ):
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
    with pytest.raises(SreError, match=r"SHAPE.*Llama-3\.1-8B"):
        shape_named(name)


def test_a_disk_that_is_too_full_is_an_error_before_anything_is_written(tiny_model: Path, tmp_path: Path) -> None:
    name, shape = shape_named("llama3.1-8b")
    with pytest.raises(SreError, match="GB are needed"):
        write_random_model(tmp_path / "model", name, replace(shape, layers=10**6), tiny_model)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_true_8b_shape_with_two_layers_passes_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.shape", "llama3.1-8b", "--cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
