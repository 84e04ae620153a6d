"""The hyperparameters of a Llama, Mistral, Qwen2 or Qwen3 model: from config.json, and as GGUF's keys."""

import math
from dataclasses import dataclass
from typing import Any

from recipe.errors import SreError

# transformers' architecture -> the name llama.cpp knows it by.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


@dataclass(frozen=True)
class Shape:
    """The hyperparameters of one model.

    `head_dim` is not always width / heads. `context` is in tokens. `rope_factors` divide the rotary frequencies: ()
    or head_dim / 2 numbers.
    """

    arch: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    epsilon: float
    tied: bool
    rope_theta: float
    rope_factors: tuple[float, ...] = ()


def read_shape(config: dict[str, Any]) -> Shape:
    """The hyperparameters in a config.json.

    Raises SreError for another architecture, or a setting that llama.cpp computes differently for these families, and
    KeyError for one that is missing.
    """
    name = str((config.get("architectures") or [""])[0])
    if name not in ARCHITECTURES:
        raise SreError(f"the architecture {name!r} is not one of {', '.join(ARCHITECTURES)}", field="architectures")
    arch = ARCHITECTURES[name]
    if config.get("hidden_act", "silu") != "silu":
        raise SreError(f"the activation {config['hidden_act']!r} is not silu", field="hidden_act")
    if arch == "qwen3" and config.get("attention_bias"):
        raise SreError("llama.cpp has no attention biases for Qwen3", field="attention_bias")
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    context = int(config["max_position_embeddings"])
    theta, factors = _rope(config, arch, head_dim, context)
    # llama.cpp ignores the sliding window of these families. Within the window both compute the same.
    slides = name == "MistralForCausalLM" or config.get("use_sliding_window")
    window = config.get("sliding_window") if slides else None
    return Shape(
        arch=arch,
        layers=int(config["num_hidden_layers"]),
        width=int(config["hidden_size"]),
        hidden=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        vocab=int(config["vocab_size"]),
        context=min(context, window or context),
        epsilon=float(config["rms_norm_eps"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        rope_theta=theta,
        rope_factors=factors,
    )


def _rope(config: dict[str, Any], arch: str, head_dim: int, context: int) -> tuple[float, tuple[float, ...]]:
    """The base of the rotary embedding, and the divisors of its frequencies."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in settings.values()):
        raise SreError("rotary settings that differ between layers are not supported", field="rope_parameters")
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise SreError("rotating a part of each head is not supported", field="partial_rotary_factor")
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind == "default":
        return theta, ()
    if kind == "llama3" and arch == "llama":
        original = int(settings.get("original_max_position_embeddings") or context)
        return theta, _llama3_factors(settings, theta, head_dim, original)
    raise SreError(f"the rotary scaling {kind!r} is not supported for {arch}", field="rope_parameters")


def _llama3_factors(settings: dict[str, Any], theta: float, head_dim: int, original: int) -> tuple[float, ...]:
    """Llama 3.1's divisor of each frequency: 1 for short waves, `factor` for long ones, smooth between."""
    factor, low, high = (float(settings[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    factors = []
    for i in range(0, head_dim, 2):
        turns = original / (2 * math.pi * theta ** (i / head_dim))  # full turns over the original context
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1.0 / (keep + (1.0 - keep) / factor))
    return tuple(factors)


def write_shape(writer: Any, shape: Shape) -> None:
    """Add the hyperparameters' keys to a gguf.GGUFWriter."""
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocab)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)


def tensor_names(shape: Shape) -> list[str]:
    """The Hugging Face names of the matrices and norms that such a model has, biases apart."""
    inner = ["input_layernorm", "post_attention_layernorm"]
    inner += [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    inner += [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    inner += ["self_attn.q_norm", "self_attn.k_norm"] if shape.arch == "qwen3" else []
    outer = ["model.embed_tokens", "model.norm"] + ([] if shape.tied else ["lm_head"])
    names = outer + [f"model.layers.{layer}.{name}" for layer in range(shape.layers) for name in inner]
    return [f"{name}.weight" for name in names]


def gguf_names(shape: Shape) -> Any:
    """gguf's map from Hugging Face's names of tensors to llama.cpp's."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.arch)
    return gguf.get_tensor_name_map(arch, shape.layers)


def permuted(rows: Any, name: str, shape: Shape, *, inverse: bool = False) -> Any:
    """The tensor `name` (Hugging Face's) with its rows in llama.cpp's order; inverse: in transformers'.

    For "llama", llama.cpp rotates neighbouring rows of q and k; transformers rotates rows that are half a head apart.
    """
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.rsplit(".", 2)[-2])
    if shape.arch != "llama" or not heads:
        return rows
    halves = (heads, -1, 2) if inverse else (heads, 2, -1)
    return rows.reshape(*halves, *rows.shape[1:]).swapaxes(1, 2).reshape(*rows.shape)
