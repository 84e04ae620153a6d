"""Grouped decoding against transformers' own attention, which repeats the keys for every query head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from recipe.inference.pytorch.grouped_attention import NAME, attention, decode_grouped


class Layer(torch.nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("heads", "key_heads", "tokens"), [(6, 2, 1), (4, 4, 1), (6, 2, 5)])
def test_attention_is_transformers_own(heads: int, key_heads: int, tokens: int, masked: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(3, heads, tokens, 8, generator=draw)
    key, value = (torch.randn(3, key_heads, 11, 8, generator=draw) for _ in range(2))
    mask = None
    if masked:
        mask = torch.rand(3, 1, tokens, 11, generator=draw) < 0.7
        mask[..., 0] = True  # something is left to see
    layer = Layer(heads // key_heads)
    options: dict[str, Any] = {"scaling": 0.3, "dropout": 0.0}
    found, _ = attention(layer, query, key, value, mask, **options)
    wanted, _ = sdpa_attention_forward(layer, query, key, value, mask, **options)
    assert found.shape == wanted.shape == (3, tokens, heads, 8)
    torch.testing.assert_close(found, wanted)


@pytest.fixture(scope="module")
def folder(models: Callable[..., Path]) -> Path:
    return models("llama")


def model(folder: Path, implementation: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation, dtype=torch.float32)


def test_a_padded_batch_is_continued_alike(folder: Path) -> None:
    ids = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    grouped = model(folder, "sdpa")
    decode_grouped(grouped)
    assert grouped.config._attn_implementation == NAME
    found = grouped.generate(ids, output_logits=True, return_dict_in_generate=True, **options)
    wanted = model(folder, "sdpa").generate(ids, output_logits=True, return_dict_in_generate=True, **options)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(wanted.logits), atol=1e-5, rtol=1e-4)


def test_other_attention_is_left_as_it_is(folder: Path) -> None:
    eager = model(folder, "eager")
    decode_grouped(eager)
    assert eager.config._attn_implementation == "eager"
