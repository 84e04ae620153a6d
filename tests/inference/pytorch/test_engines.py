"""The base model that the plain engine loads computes what llama.cpp computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.gguf.export import write_gguf
from recipe.inference.pytorch.engines import load_base


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_caps_and_windows_of_gemma_are_kept(
    case: str, models: Any, load: Any, inputs_for: Any, llama_logits: Any, mean_kl: Any, tmp_path: Path
) -> None:
    inputs = inputs_for(load(models(case))[1])
    write_gguf(models(case), tmp_path / "out.gguf", type_name="F32")
    _, logits = llama_logits(tmp_path / "out.gguf", inputs)
    assert mean_kl(load_base(models(case), "none").float(), inputs, logits) < 0.05
