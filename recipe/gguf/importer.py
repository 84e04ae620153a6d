"""Turns a GGUF file into a plain Hugging Face model folder, for seed models: the inverse of export.py.

transformers' own reader marks the model as quantised, takes four times as long, and makes a tokeniser with the wrong
end token and other ids for " 12".
"""

from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf import architecture
from recipe.gguf.architecture import Hyperparameters
from recipe.gguf.header import read_header
from recipe.gguf.tokenizer import PRE_TOKENIZERS, Vocabulary, tokenizer_json
from recipe.storage import write_json

_ADVICE = "give the model as a Hugging Face folder or hub name instead"


def import_gguf(source: Path, folder: Path, dtype: str = "bfloat16") -> None:
    """Write the model of `source` into a folder, its weights dequantised to `dtype`. All of it is in memory once."""
    from gguf import GGUFReader

    read_header(source)  # a size without end would keep the reader busy for ever
    try:
        reader = GGUFReader(source)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # the reader lets whatever goes wrong in numpy through
        raise SreError(f"can't be read as GGUF: {error}", file=source) from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}  # memory-mapped
    try:
        config = _config(fields, tensors, dtype, source)
        vocabulary = _vocabulary(fields, source)
    except KeyError as error:
        raise SreError(f"the file lacks the key {error.args[0]!r}", file=source) from error
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise SreError(f"a value in its metadata has the wrong shape ({error})", file=source) from error
    ids = {f"{role}_token_id": vocabulary.special[role] for role in ("bos", "eos", "pad") if role in vocabulary.special}
    config.update(ids)
    shape = architecture.read_hyperparameters(config)
    _write_weights(tensors, shape, folder / "model.safetensors", dtype, source)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ids)
    write_tokenizer(vocabulary, folder, int(config["max_position_embeddings"]))


def write_tokenizer(vocabulary: Vocabulary, folder: Path, longest: int) -> None:
    """Write transformers' tokenizer files. `longest` is the model's context in tokens."""
    (folder / "tokenizer.json").write_text(tokenizer_json(vocabulary), encoding="utf-8")
    special = vocabulary.special.items()
    settings: dict[str, Any] = {f"{role}_token": vocabulary.tokens[number] for role, number in special}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    settings["clean_up_tokenization_spaces"] = False
    write_json(folder / "tokenizer_config.json", settings)
    if vocabulary.chat_template:
        (folder / "chat_template.jinja").write_text(vocabulary.chat_template, encoding="utf-8")


def _config(fields: dict[str, Any], tensors: dict[str, Any], dtype: str, source: Path) -> dict[str, Any]:
    """A config.json of the model in a GGUF file."""
    import numpy as np

    arch = fields.get("general.architecture")
    if arch not in architecture.FAMILIES:
        known = ", ".join(architecture.FAMILIES)
        raise SreError(f"a GGUF of architecture {arch!r} can't be a seed ({known}); {_ADVICE}", file=source)
    scaling = fields.get(f"{arch}.rope.scaling.type", "none")
    scaled = scaling != "none" and (arch, scaling) != ("gemma3", "linear")
    if scaled or "rope_freqs.weight" in tensors or f"{arch}.expert_count" in fields:
        raise SreError(f"a GGUF with rotary scaling or experts can't be a seed; {_ADVICE}", file=source)
    width, heads = fields[f"{arch}.embedding_length"], fields[f"{arch}.attention.head_count"]
    config = {
        "architectures": architecture.FAMILIES[arch]["transformers"][:1],
        "model_type": arch,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": fields[f"{arch}.feed_forward_length"],
        "num_hidden_layers": fields[f"{arch}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get(f"{arch}.attention.head_count_kv", heads),
        "head_dim": fields.get(f"{arch}.attention.key_length", width // heads),
        "hidden_act": "silu",
        "max_position_embeddings": fields[f"{arch}.context_length"],
        # GGUF keeps it as float32. The shortest decimal that rounds to it is the number that was meant.
        "rms_norm_eps": float(str(np.float32(fields[f"{arch}.attention.layer_norm_rms_epsilon"]))),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields.get(f"{arch}.rope.freq_base", 10000.0)},
        "attention_bias": arch == "llama" and "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": dtype,
    }
    return config | _gemma(config, fields) if arch in ("gemma2", "gemma3") else config


def _gemma(config: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """What Gemma's config.json has beyond, or otherwise than, the others'."""
    arch, rope = config["model_type"], config["rope_parameters"]
    more = {name: fields.get(f"{arch}.{key}") for key, name in architecture.GEMMA_KEYS.items()}
    more |= {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": config["head_dim"]}
    if arch == "gemma2":
        return more
    if f"{arch}.rope.scaling.factor" in fields:
        rope = {**rope, "rope_type": "linear", "factor": fields[f"{arch}.rope.scaling.factor"]}
    local = {"rope_type": "default", "rope_theta": fields.get(f"{arch}.rope.freq_base_swa", 10000.0)}
    by_layer = {"full_attention": rope, "sliding_attention": local}
    return {**more, "model_type": "gemma3_text", "rope_parameters": by_layer}


_ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _vocabulary(fields: dict[str, Any], source: Path) -> Vocabulary:
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model != "llama" and (model != "gpt2" or pre not in PRE_TOKENIZERS):
        raise SreError(f"a GGUF with the tokeniser {model!r}/{pre!r} can't be a seed; {_ADVICE}", file=source)
    special = {role: fields.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES.items()}
    if special["eos"] is None:
        raise SreError(f"it names no end-of-sequence token; {_ADVICE}", file=source)
    marks = model == "llama"  # SentencePiece
    special["pad"] = special["eos"] if special["pad"] is None else special["pad"]
    return Vocabulary(
        pre="default" if marks else str(pre),
        tokens=fields["tokenizer.ggml.tokens"],
        types=fields["tokenizer.ggml.token_type"],
        special={role: int(number) for role, number in special.items() if number is not None},
        add_bos=bool(fields.get("tokenizer.ggml.add_bos_token", marks or pre == "llama-bpe")),
        add_eos=bool(fields.get("tokenizer.ggml.add_eos_token", False)),
        chat_template=fields.get("tokenizer.chat_template", ""),
        merges=[] if marks else fields["tokenizer.ggml.merges"],
        scores=fields["tokenizer.ggml.scores"] if marks else [],
        space_prefix=marks and bool(fields.get("tokenizer.ggml.add_space_prefix", True)),
    )


def _write_weights(tensors: dict[str, Any], shape: Hyperparameters, out: Path, dtype: str, source: Path) -> None:
    import numpy as np
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    names = architecture.gguf_names(shape)
    weights = {}
    for name in architecture.tensor_names(shape):
        for kind in (name, name.removesuffix("weight") + "bias"):
            tensor = tensors.get(names.get_name(kind, try_suffixes=(".weight", ".bias")))
            if tensor is None and kind == name:
                raise SreError(f"the file lacks the tensor of {name}", file=source)
            if tensor is None:
                continue
            values = torch.from_numpy(np.require(dequantize(tensor.data, tensor.tensor_type), requirements="W"))
            values = architecture.converted(values, kind, shape, inverse=True)
            weights[kind] = values.to(getattr(torch, dtype)).contiguous()
    save_file(weights, out, metadata={"format": "pt"})
