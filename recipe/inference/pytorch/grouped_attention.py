"""Attention of one new token, for models in which several query heads share a key head.

PyTorch's fast attention takes either a mask or shared key heads. With a mask, transformers therefore copies the whole
KV cache once for each query head, at every token. Here the query heads of one key head are passed as if they were
several tokens. The products are the same, and nothing is copied.
"""

from typing import Any

import torch

NAME = "sre-grouped"
# Models whose attention has no mask of its own kind.
_MODELS = frozenset({"gemma", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"})


def decode_grouped(model: Any) -> None:
    """Have a transformers model use `attention`, if it is one of _MODELS and uses PyTorch's own attention."""
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
    """As transformers' own: query [batch, heads, tokens, size], key and value [batch, key heads, context, size], mask
    [batch, 1, tokens, context] -> [batch, tokens, heads, size].
    """
    batch, heads, tokens, size = query.shape
    group = heads // key.shape[1]
    mask_per_head = attention_mask is not None and attention_mask.shape[1] > 1
    if tokens > 1 or group == 1 or mask_per_head or options.get("position_bias") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return whole
    if attention_mask is not None:
        attention_mask = attention_mask.expand(batch, key.shape[1], group, key.shape[2])
    grouped = query.view(batch, key.shape[1], group, size)
    answer = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return answer.reshape(batch, 1, heads, value.shape[-1]), None
