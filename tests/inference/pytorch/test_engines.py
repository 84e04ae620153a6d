"""The base model that the plain engine loads computes what llama.cpp computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.gguf.export import write_gguf
from recipe.inference.pytorch.engines import TransformersEngine, load_base


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_caps_and_windows_of_gemma_are_kept(
    case: str, models: Any, load: Any, inputs_for: Any, llama_logits: Any, mean_kl: Any, tmp_path: Path
) -> None:
    inputs = inputs_for(load(models(case))[1])
    write_gguf(models(case), tmp_path / "out.gguf", type_name="F32")
    _, logits = llama_logits(tmp_path / "out.gguf", inputs)
    assert mean_kl(load_base(models(case), "none").float(), inputs, logits) < 0.05


def test_gradients_in_four_bit_are_the_same_after_an_evaluation(tiny_model: Path) -> None:
    import torch

    base, tokenizer = TransformersEngine().load_base(tiny_model, "nf4", 128)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    model = TransformersEngine().add_adapter(base, lora, 0, "nf4", gradient_checkpointing=False)
    ids = torch.tensor([tokenizer.encode("All four are fruits.")])

    def gradients() -> list[Any]:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [values.grad.clone() for values in model.parameters() if values.requires_grad]

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    after = gradients()
    assert all(values.any() for values in before)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-4)
