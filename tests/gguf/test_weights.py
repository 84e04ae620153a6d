"""An adapter that can't be used says why, in one line, wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.gguf.weights import open_adapter
from recipe.training.merge import read_adapter

SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS))
    return tmp_path


READERS = [open_adapter, read_adapter]


@pytest.mark.parametrize("read", READERS)
def test_a_plain_one_is_read(read: Callable[[Path], Any], adapter: Path) -> None:
    assert read(adapter)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"peft_type": "LOHA"}]
)
def test_other_kinds_are_refused_by_name(read: Callable[[Path], Any], change: dict[str, Any], adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(SETTINGS | change))
    with pytest.raises(SreError, match=rf"adapter_config\.json, field '{next(iter(change))}'"):
        read(adapter)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "use_rslora"])
def test_ranks_that_would_be_ignored_are_refused(read: Callable[[Path], Any], field: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(SETTINGS | {field: {"q_proj": 4}}))
    with pytest.raises(SreError, match=field):
        read(adapter)


@pytest.mark.parametrize("read", READERS)
def test_files_of_another_format_or_cut_short_say_so(read: Callable[[Path], Any], adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    for content in (weights.read_bytes()[:-8], b"", b"PK" * 99):
        weights.write_bytes(content)
        with pytest.raises(SreError, match="cut short"):
            read(adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(SreError, match=r"adapter_model\.bin"):
        read(adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(SreError, match=r"adapter_model\.safetensors is missing"):
        read(adapter)
