"""Which engine draws a round's samples: the fastest that is installed, and the one that the settings name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from recipe.config import load
from recipe.pipeline.context import RunContext

BOTH = {"vllm", "unsloth"}


@pytest.mark.parametrize(
    ("installed", "gpu", "processes", "settings", "engine"),
    [
        (BOTH, True, "1", [], "vllm"),
        (BOTH, True, "1", ["sample.engine=torch"], "torch"),
        (BOTH, True, "1", ["sample.temperature=0.0"], "torch"),
        (BOTH, True, "1", ["model.engine=transformers"], "torch"),
        (BOTH, True, "2", [], "torch"),
        ({"vllm"}, True, "1", [], "torch"),
        ({"unsloth"}, True, "1", [], "torch"),
        (BOTH, False, "1", [], "llamacpp"),
    ],
)
def test_vllm_draws_the_samples_on_a_gpu_where_it_is_installed(
    installed: set[str],
    gpu: bool,
    processes: str,
    settings: list[str],
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: name in installed if name in BOTH else find(name, *more)
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setenv("WORLD_SIZE", processes)
    run = RunContext(load("tiny", ["model.engine=auto", "model.quantization=nf4", *settings]), tmp_path)
    assert run.judge_model("j1", sampling=True).engine == engine
    assert run.judge_model("j1").engine == ("torch" if gpu else "llamacpp"), "vLLM reads no labels"
