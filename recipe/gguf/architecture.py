"""The hyperparameters of a Llama, Mistral, Qwen or Gemma model: from config.json, and as GGUF's keys."""

import math
from dataclasses import dataclass, field
from typing import Any

from recipe.errors import SreError
from recipe.gguf.shape import Shape, read_sizes
from recipe.system import read_table

_TABLE = read_table(__file__, "families.toml")
FAMILIES: dict[str, dict[str, Any]] = _TABLE["families"]
GEMMA_KEYS: dict[str, str] = _TABLE["gemma_keys"]
ARCHITECTURES = {name: arch for arch, family in FAMILIES.items() for name in family["transformers"]}
_LARGEST = (46, 62)  # layers of the 27B sizes, whose attention is scaled otherwise
_LOCAL_THETA = 10000.0  # the rotary base of Gemma 3's layers with a window


@dataclass(frozen=True)
class Hyperparameters(Shape):
    """A model's shape and all else that llama.cpp has to know to compute it."""

    arch: str
    context: int  # in tokens
    epsilon: float
    rope_theta: float
    rope_factors: tuple[float, ...] = ()  # divide the rotary frequencies: none, or head_dim / 2 numbers
    rope_scale: float = 1.0  # divides the positions, in Gemma 3's layers without a window
    gemma: dict[str, float] = field(default_factory=dict)  # its own settings, by GEMMA_KEYS


def sees_pictures(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of a Gemma 3 that sees pictures, of which only the text part is used here."""
    return config.get("architectures") == ["Gemma3ForConditionalGeneration"]


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with all its settings, those of the text part where the model sees pictures too."""
    if sees_pictures(config):
        config = {**config["text_config"], "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    family = FAMILIES.get(str(config.get("model_type")).removesuffix("_text"), {})
    return {**family.get("defaults", {}), **config}


def read_hyperparameters(config: dict[str, Any]) -> Hyperparameters:
    """Read a config.json. Raises SreError also for a setting that llama.cpp computes differently for its family."""
    config = text_config(config)
    name = str((config.get("architectures") or [""])[0])
    if name not in ARCHITECTURES:
        raise SreError(f"the architecture {name!r} is not one of {', '.join(ARCHITECTURES)}", field="architectures")
    arch = ARCHITECTURES[name]
    is_gemma = "full_every" in FAMILIES[arch]
    act, wanted = ("hidden_activation", "gelu_pytorch_tanh") if is_gemma else ("hidden_act", "silu")
    if config.get(act, wanted) != wanted:
        raise SreError(f"the activation {config[act]!r} is not {wanted}", field=act)
    if arch not in ("llama", "qwen2") and config.get("attention_bias"):
        raise SreError(f"llama.cpp has no attention biases for {arch}", field="attention_bias")
    sizes = read_sizes(config)
    for key in ("max_position_embeddings", "rms_norm_eps"):
        if key not in config:
            raise SreError("this setting is missing", field=key)
    context = int(config["max_position_embeddings"])
    # llama.cpp ignores the sliding window of these families. Within the window both compute the same.
    slides = name == "MistralForCausalLM" or config.get("use_sliding_window")
    window = config.get("sliding_window") if slides else None
    return Hyperparameters(
        **sizes,
        arch=arch,
        context=min(context, window or context),
        epsilon=float(config["rms_norm_eps"]),
        **_rope(config, arch, sizes["head_dim"], context),
        gemma=_gemma(config, arch, sizes["head_dim"]) if is_gemma else {},
    )


def _gemma(config: dict[str, Any], arch: str, head_dim: int) -> dict[str, float]:
    """Gemma's own settings. Raises SreError where llama.cpp computes one differently."""
    layers, every = int(config["num_hidden_layers"]), FAMILIES[arch]["full_every"]
    wanted = ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]
    settings = {key: config[name] for key, name in GEMMA_KEYS.items() if config.get(name)}
    for setting, fits in {
        "num_hidden_layers": layers not in _LARGEST,
        "layer_types": config.get("layer_types", wanted) == wanted,
        "sliding_window_pattern": config.get("sliding_window_pattern", every) == every,
        "query_pre_attn_scalar": config.get("query_pre_attn_scalar", 256) == head_dim,
        "use_bidirectional_attention": not config.get("use_bidirectional_attention"),
        "sliding_window": "attention.sliding_window" in settings,
        "attn_logit_softcapping": ("attn_logit_softcapping" in settings) == (arch == "gemma2"),
        "final_logit_softcapping": "final_logit_softcapping" in settings or arch == "gemma3",
    }.items():
        if not fits:
            raise SreError(f"llama.cpp has another way to compute this for {arch}", field=setting)
    return settings


def _rope(config: dict[str, Any], arch: str, head_dim: int, context: int) -> dict[str, Any]:
    """The base of the rotary embedding, the divisors of its frequencies, and that of the positions."""
    if arch == "gemma3":
        config = _full_attention(config)
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in settings.values()):
        raise SreError("rotary settings that differ between layers are not supported", field="rope_parameters")
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise SreError("rotating a part of each head is not supported", field="partial_rotary_factor")
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta}
    if kind == "linear" and arch == "gemma3":
        return {"rope_theta": theta, "rope_scale": float(settings["factor"])}
    if kind == "llama3" and arch == "llama":
        original = int(settings.get("original_max_position_embeddings") or context)
        return {"rope_theta": theta, "rope_factors": _llama3_factors(settings, theta, head_dim, original)}
    raise SreError(f"the rotary scaling {kind!r} is not supported for {arch}", field="rope_parameters")


def _full_attention(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma 3's config with the rotary settings of its layers without a window. Those with one must have the usual."""
    by_layer = config.get("rope_parameters") or {}
    local = by_layer.get("sliding_attention") or {"rope_theta": config.get("rope_local_base_freq", _LOCAL_THETA)}
    if float(local.get("rope_theta", _LOCAL_THETA)) != _LOCAL_THETA or local.get("rope_type", "default") != "default":
        raise SreError(f"llama.cpp turns Gemma 3's sliding layers by {_LOCAL_THETA:g}", field="rope_parameters")
    full = by_layer.get("full_attention") or config.get("rope_scaling") or {}
    return {"rope_parameters": {"rope_theta": config.get("rope_theta", 1e6), **full}}


def _llama3_factors(settings: dict[str, Any], theta: float, head_dim: int, original: int) -> tuple[float, ...]:
    """Llama 3.1's divisor of each frequency: 1 for short waves, `factor` for long ones, smooth between."""
    factor, low, high = (float(settings[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    factors = []
    for i in range(0, head_dim, 2):
        turns = original / (2 * math.pi * theta ** (i / head_dim))  # full turns over the original context
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1.0 / (keep + (1.0 - keep) / factor))
    return tuple(factors)


def write_hyperparameters(writer: Any, shape: Hyperparameters) -> None:
    """Add the hyperparameters' keys to a gguf.GGUFWriter."""
    import gguf

    for kind, keys in _TABLE["keys"].items():
        for key, name in keys.items():
            getattr(writer, f"add_{kind}")(f"{shape.arch}.{key}", getattr(shape, name))
    if shape.rope_scale != 1.0:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.rope_scale)
    for key, value in shape.gemma.items():
        add = writer.add_uint32 if key == "attention.sliding_window" else writer.add_float32
        add(f"{shape.arch}.{key}", value)


def tensor_names(shape: Hyperparameters) -> list[str]:
    """The Hugging Face names of the matrices and norms that such a model has, biases apart."""
    inner = ["input_layernorm", "post_attention_layernorm"]
    inner += [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    inner += [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    inner += FAMILIES[shape.arch].get("norms", [])
    outer = ["model.embed_tokens", "model.norm"] + ([] if shape.tied else ["lm_head"])
    names = outer + [f"model.layers.{layer}.{name}" for layer in range(shape.layers) for name in inner]
    return [f"{name}.weight" for name in names]


def gguf_names(shape: Hyperparameters) -> Any:
    """gguf's map from Hugging Face's names of tensors to llama.cpp's."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.arch)
    return gguf.get_tensor_name_map(arch, shape.layers)


def converted(values: Any, name: str, shape: Hyperparameters, *, inverse: bool = False) -> Any:
    """The tensor `name` (Hugging Face's) as llama.cpp wants it; inverse: as transformers does.

    For "llama", llama.cpp rotates neighbouring rows of q and k; transformers rotates rows that are half a head apart.
    Gemma multiplies by 1 + the weights of a norm; llama.cpp wants the sum.
    """
    if shape.gemma and name.endswith("norm.weight"):
        return values.float() + (-1.0 if inverse else 1.0)
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.rsplit(".", 2)[-2])
    if shape.arch != "llama" or not heads:
        return values
    halves = (heads, -1, 2) if inverse else (heads, 2, -1)
    return values.reshape(*halves, *values.shape[1:]).swapaxes(1, 2).reshape(*values.shape)
