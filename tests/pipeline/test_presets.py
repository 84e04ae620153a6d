"""Every preset runs end to end on the tiny model with its own settings, so that none runs first on a user's card.

Only the numbers of rows, inputs and tokens are smaller. bitsandbytes runs NF4 on a processor too, and gradient
checkpoints are the same code. What is another here: the 16-bit type is the processor's (a T4 takes float16), AdamW's
moments have 32 bit instead of 8, and transformers stands in for Unsloth (tests/training/test_engines.py runs that).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.config import Config, load, presets
from recipe.pipeline.context import RunContext
from recipe.pipeline.preflight import preflight
from recipe.pipeline.stage_order import run_pipeline
from recipe.planning.machines import reference
from recipe.planning.plan import make_plan
from recipe.storage import read_json

SMALL = ["data.train_pointwise=24", "data.train_pairwise=12", "data.dev_pointwise=2", "data.dev_pairwise=2"]
SMALL += ["sample.inputs=[8, 8]", "sample.max_tokens=24", "evaluate.max_tokens=24", "evaluate.resamples=100"]
SMALL += ["export.flip_rows=2", 'rounds.keep="all"', 'model.engine="transformers"', "threads=1"]
ON_A_PROCESSOR = {"cpu-smollm2-135m", "seed-data"}
# One of each card, and the quickstart, take two rounds; a second one of the others would show nothing new.
TWO_ROUNDS = {"cpu-smollm2-135m", "t4-qwen2.5-1.5b", "12gb-qwen3-4b", "24gb-llama3.1-8b"}
NAMES = [name for name in presets() if name != "tiny"]


def small(name: str, model: Path, data: Path) -> Config:
    """The preset on the tiny model and its rows; on a card PyTorch would draw the samples."""
    sources = [f'model.source="{model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"']
    card = [] if name in ON_A_PROCESSOR else ['sample.engine="torch"']
    rounds = [] if name in TWO_ROUNDS else ["iterations=1"]
    return load(name, [*sources, *SMALL, *card, *rounds])


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_runs_with_its_own_settings(name: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = small(name, tiny_model, tiny_data)
    preflight(RunContext(config, tmp_path))
    planned = {stage.stage for stage in make_plan(config, machine=reference()).stages}
    results = run_pipeline(config, tmp_path)
    assert planned <= results["stages"].keys()
    assert results["judge"] in ("sft", "j1", "j2")[: config.iterations + 1]
    assert (tmp_path / "judge.gguf").is_file()
    for t in range(1, config.iterations + 1):
        marker = read_json(tmp_path / f"iter-{t}" / "dpo.done.json")
        assert marker["pairs"] > 0
        assert marker["settings"]["loading"]["gradient_checkpointing"] == (config.model.gradient_checkpointing is True)
        adapter = read_json(tmp_path / f"iter-{t}" / "adapter" / "adapter_config.json")
        assert adapter["r"] == config.lora.r * (2 if config.start == "merged" else 1)
    nf4 = config.model.quantization == "nf4"
    assert results["flips"]["rates"].keys() == {*config.export.types, *(["NF4"] if nf4 else [])}
    assert all(0 <= rate <= 1 for rate in results["flips"]["rates"].values())
    assert ("| NF4 | as trained |" in (tmp_path / "gguf" / "README.md").read_text()) == nf4
