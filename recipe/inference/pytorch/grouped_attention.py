"""Decoding with grouped query heads on PyTorch, without a copy of the KV cache for every query head.

PyTorch's fast kernels take a mask or grouped heads, not both, so transformers repeats each key head for all its query
heads at every token. But where one token asks, the query heads of a key head may as well stand as so many positions:
the same products, and each key is read once.
"""

from __future__ import annotations

from typing import Any

import torch

NAME = "sre-grouped"
# Of plain attention. Some others choose masks of their own by the name of the attention they run.
_MODELS = frozenset({"gemma", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"})


def decode_grouped(model: Any) -> None:
    """Let a transformers model decode so, if it is of a kind named here and runs PyTorch's own attention."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if model.config._attn_implementation != "sdpa" or model.config.model_type not in _MODELS:
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' own for PyTorch: query [batch, heads, tokens, size], key and value [batch, key heads, context,
    size], mask [batch, 1, tokens, context] -> [batch, tokens, heads, size]."""
    batch, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    of_heads = attention_mask is not None and attention_mask.shape[1] > 1
    if tokens > 1 or groups == 1 or of_heads or options.get("position_bias") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return whole
    if attention_mask is not None:
        attention_mask = attention_mask.expand(batch, key.shape[1], groups, key.shape[2])
    asked = query.view(batch, key.shape[1], groups, size)
    answer = torch.nn.functional.scaled_dot_product_attention(
        asked, key, value, attn_mask=attention_mask, scale=scaling
    )
    return answer.reshape(batch, 1, heads, value.shape[-1]), None
