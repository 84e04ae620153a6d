"""Decoder on a tiny random Llama, against passes over whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from recipe.inference.pytorch import decoder
from recipe.inference.pytorch.decoder import Decoder, can_decode
from recipe.inference.pytorch.engines import TransformersEngine
from recipe.inference.pytorch.grouped_attention import decode_grouped

PROMPTS = ([5, 6, 7], list(range(20, 41)), [9], [5, 6, 7], list(range(50, 57)), [9])


@pytest.fixture(scope="module")
def model(models: Callable[..., Path]) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(models("llama"), dtype=torch.float32).eval()
    decode_grouped(loaded)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu")


def of_a_pass(model: Any, run: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([run], device=model.device)).logits[0, -1]
    return logits


@pytest.mark.parametrize("prefill", [4, 50, 1000])
def test_logits_are_those_of_passes_also_when_rows_are_left_behind(
    model: Any, prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "PREFILL", prefill)
    draw = torch.Generator().manual_seed(0)
    runs = [list(prompt) for prompt in PROMPTS]
    with torch.inference_mode():
        decoding = Decoder(model, runs, steps=14, pad=0, record=True)
        logits = decoding.logits
        for step in range(14):
            for row, run in enumerate(runs):
                torch.testing.assert_close(logits[row], of_a_pass(model, run), atol=1e-4, rtol=1e-4)
            if step in (3, 7):
                left = [row for row in range(len(runs)) if row != step % 4]
                runs = [runs[row] for row in left]
                decoding.keep(left)
            if step < 13:
                drawn = torch.randint(3, 200, (len(runs),), generator=draw).tolist()
                for run, token in zip(runs, drawn, strict=True):
                    run.append(token)
                logits = decoding.step(drawn)
    assert len(runs) == 4
    assert decoding._graph is not None or model.device.type == "cpu"


def test_a_prompt_is_prefilled_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return real(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    with torch.inference_mode():
        decoding = Decoder(model, PROMPTS, steps=3, pad=0, record=False)
        decoding.step([1] * len(PROMPTS))
    assert shapes == [(4, 21), (6, 1)]


def test_models_of_plain_attention_only(models: Callable[..., Path]) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(models("mistral"))
    assert not can_decode(loaded)  # without grouped decoding
    decode_grouped(loaded)
    assert can_decode(loaded)
    loaded.config.sliding_window = 8
    assert not can_decode(loaded)
    loaded.config.sliding_window = None
    loaded.config.rope_parameters = {**loaded.config.rope_parameters, "rope_type": "longrope"}
    assert not can_decode(loaded)


def test_one_token_needs_no_cache(model: Any) -> None:
    with torch.inference_mode():
        decoding = Decoder(model, PROMPTS, steps=1, pad=0, record=True)
        for row, run in enumerate(PROMPTS):
            torch.testing.assert_close(decoding.logits[row], of_a_pass(model, run), atol=1e-4, rtol=1e-4)
    assert decoding._cache is None


def test_nf4_with_an_adapter_is_decoded_too(
    models: Callable[..., Path], make_adapter: Callable[..., Any], tmp_path: Path
) -> None:
    make_adapter(models("llama"), tmp_path, target_modules=["q_proj", "v_proj", "down_proj"])
    loaded, _ = TransformersEngine().load_for_inference(models("llama"), tmp_path, "nf4", 128)
    assert can_decode(loaded)
    runs = [list(prompt) for prompt in PROMPTS]
    with torch.inference_mode():
        decoding = Decoder(loaded, runs, steps=3, pad=0, record=False)
        logits = decoding.logits
        for token in (30, 40):
            wanted = torch.stack([of_a_pass(loaded, run) for run in runs])
            assert (logits.softmax(-1) - wanted.softmax(-1)).abs().sum(-1).max() < 0.02
            logits = decoding.step([token] * len(runs))
            runs = [[*run, token] for run in runs]
