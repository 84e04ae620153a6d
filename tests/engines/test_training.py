"""Every way to load a model trains the same tiny adapter: plain, Unsloth where it is installed, and 4-bit on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from recipe.engines.training import open_training_engine
from recipe.errors import SreError


def sft(model, data, folder, *overrides):
    """The marker of an SFT stage that ran in a process of its own (Unsloth patches the one it is imported in)."""
    settings = [f'model.source="{model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"', *overrides]
    options = [part for item in settings for part in ("--set", item)]
    command = [sys.executable, "-m", "recipe.cli", "run", "tiny", "--run-dir", str(folder), "--until", "sft-pointwise"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "sft-pointwise" / "done.json").read_text())


@pytest.fixture(scope="module")
def plain(tiny_model, tiny_data, tmp_path_factory):
    return sft(tiny_model, tiny_data, tmp_path_factory.mktemp("plain"))


def test_the_plain_engine_learns(plain):
    assert plain["engine"] == "transformers"
    assert plain["last_loss"] < plain["first_loss"]


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed")
def test_unsloth_gives_the_same_losses_within_two_percent(plain, tiny_model, tiny_data, tmp_path):
    fast = sft(tiny_model, tiny_data, tmp_path, 'model.engine="auto"')
    assert fast["engine"] == "unsloth"
    assert fast["first_loss"] == pytest.approx(plain["first_loss"], rel=0.02)
    assert fast["last_loss"] == pytest.approx(plain["last_loss"], rel=0.02)


def test_four_bit_trains_on_a_cpu(plain, tiny_model, tiny_data, tmp_path):
    qlora = sft(tiny_model, tiny_data, tmp_path, 'model.quantization="nf4"')
    assert qlora["first_loss"] == pytest.approx(plain["first_loss"], rel=0.2)
    assert qlora["last_loss"] < qlora["first_loss"]


def test_an_engine_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "recipe.engines.unsloth", None)
    with pytest.raises(SreError, match="Unsloth can't be imported"):
        open_training_engine("unsloth")
    assert open_training_engine("auto").name == "transformers"
