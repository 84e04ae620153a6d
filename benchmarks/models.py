"""Models of true shapes with random weights, for measuring speed and memory without a download.

    python -m benchmarks.models llama3.1-8b Q4_K_M 8b.gguf

How fast a model runs depends on its shape and on the types of its weights, not on their values. One block of random
numbers of each type is quantised by llama.cpp and repeated, so that a model is written as fast as the disk takes it and
one tensor is in memory at a time. The vocabulary is SmolLM2's, filled up to the size of the model's own.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from recipe.cli import options as opt
from recipe.errors import SreError
from recipe.gguf.architecture import Hyperparameters, read_hyperparameters, write_hyperparameters
from recipe.storage import replacing
from recipe.training.seed import embedded_gguf

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _config(kind: str, layers: int, width: int, hidden: int, heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    """The settings of a config.json, with 8 heads of keys and 131,072 positions where nothing else is said."""
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "vocab_size": vocab,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        **more,
    }


SHAPES: Mapping[str, dict[str, Any]] = {
    "tiny": _config("Llama", 10, 256, 512, 4, 50_000, num_key_value_heads=2, tie_word_embeddings=True),
    "llama3.2-1b": _config(
        "Llama", 16, 2048, 8192, 32, 128_256, tie_word_embeddings=True, rope_parameters={**_LLAMA3, "factor": 32.0}
    ),
    "llama3.1-8b": _config("Llama", 32, 4096, 14_336, 32, 128_256, rope_parameters={**_LLAMA3, "factor": 8.0}),
    "qwen3-1.7b": _config("Qwen3", 28, 2048, 6144, 16, 151_936, head_dim=128, tie_word_embeddings=True),
    "qwen3-4b": _config("Qwen3", 36, 2560, 9728, 32, 151_936, head_dim=128, tie_word_embeddings=True),
}

TYPES = {"F16": 1, "Q8_0": 7, "Q4_K_M": 15}
"""The file's type -> llama.cpp's number for it."""

POOL = 2**22
"""Random numbers that are quantised once and repeated: a multiple of every block's size."""


def write_model(shape_name: str, type_name: str, out: Path) -> None:
    """Write a GGUF file with random weights.

    Args:
        shape_name: one of SHAPES.
        type_name: one of TYPES.
        out: the file; it appears complete or not at all.

    Raises:
        SreError: for an unknown name, or a disk that is full.
    """
    import gguf

    for given, known, field in ((shape_name, SHAPES, "shape"), (type_name, TYPES, "type")):
        if given not in known:
            raise SreError(f"no {field} {given!r}; expected one of {', '.join(known)}", field=field)
    shape = read_hyperparameters(SHAPES[shape_name])
    pools = _Pools()
    with replacing(out) as temporary:
        writer = gguf.GGUFWriter(temporary, shape.arch)
        writer.add_name(f"{shape_name} with random weights")
        writer.add_file_type(TYPES[type_name])
        write_hyperparameters(writer, shape)
        _write_vocabulary(writer, shape.vocab)
        plan = [(name, size, tensor_type(name, type_name, shape)) for name, size in tensors(shape)]
        for name, size, kind in plan:
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor_info(name, size, np.dtype(np.float16), _bytes(size, kind), raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, size, kind in plan:
            writer.write_tensor_data(_values(name, size, kind, shape, pools))
        writer.close()


def tensors(shape: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """GGUF's name and the size (rows, columns) of each tensor, in the order of a converted model."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.rope_factors:
        yield "rope_freqs.weight", (len(shape.rope_factors),)
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    sizes: dict[str, tuple[int, ...]] = {
        "attn_norm": (shape.hidden,),
        "attn_q": (queries, shape.hidden),
        "attn_k": (keys, shape.hidden),
        "attn_v": (keys, shape.hidden),
        "attn_output": (shape.hidden, queries),
        "ffn_norm": (shape.hidden,),
        "ffn_gate": (shape.intermediate, shape.hidden),
        "ffn_up": (shape.intermediate, shape.hidden),
        "ffn_down": (shape.hidden, shape.intermediate),
    }
    if shape.arch == "qwen3":
        sizes |= {"attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,)}
    for layer in range(shape.layers):
        yield from ((f"blk.{layer}.{name}.weight", size) for name, size in sizes.items())
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocab, shape.hidden)


def tensor_type(name: str, type_name: str, shape: Hyperparameters) -> str:
    """The type that llama.cpp's quantisation gives a tensor: Q4_K_M keeps some matrices in Q6_K."""
    if "norm" in name or name.startswith("rope"):
        return "F32"
    if type_name != "Q4_K_M":
        return type_name
    if name == ("token_embd.weight" if shape.tied else "output.weight"):
        return "Q6_K"
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), shape.layers // 8
        outer = layer < eighth or layer >= 7 * shape.layers // 8
        return "Q6_K" if outer or (layer - eighth) % 3 == 2 else "Q4_K"
    return "Q4_K"


def _values(
    name: str, size: tuple[int, ...], kind: str, shape: Hyperparameters, pools: _Pools
) -> NDArray[np.float32] | NDArray[np.uint8]:
    if name == "rope_freqs.weight":
        return np.array(shape.rope_factors, np.float32)
    if kind == "F32":
        return np.ones(size, np.float32)
    return np.resize(pools.get(kind), _bytes(size, kind))


def _bytes(size: tuple[int, ...], kind: str) -> int:
    import gguf

    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return math.prod(size) // int(block) * int(block_bytes)


class _Pools:
    """Random numbers as so many bytes of each type."""

    def __init__(self) -> None:
        self._values = np.random.default_rng(0).normal(0, 0.02, POOL).astype(np.float32)
        self._bytes: dict[str, NDArray[np.uint8]] = {}

    def get(self, kind: str) -> NDArray[np.uint8]:
        if kind not in self._bytes:
            self._bytes[kind] = self._quantized(kind)
        return self._bytes[kind]

    def _quantized(self, kind: str) -> NDArray[np.uint8]:
        if kind == "F16":
            return self._values.astype(np.float16).view(np.uint8)
        import gguf
        from llama_cpp._ggml import libggml

        size = (POOL // 4096, 4096)
        out = np.zeros(_bytes(size, kind), np.uint8)
        quantize = libggml.ggml_quantize_chunk
        quantize.restype = ctypes.c_size_t
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        quantize.argtypes = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
        kind_number = int(gguf.GGMLQuantizationType[kind])
        written = quantize(kind_number, self._values.ctypes.data, out.ctypes.data, 0, *size, None)
        assert written == out.size
        return out


def _write_vocabulary(writer: Any, size: int) -> None:
    """SmolLM2's tokens, merges and chat template, and tokens that no text contains."""
    import gguf

    for key, field in gguf.GGUFReader(embedded_gguf()).fields.items():
        if not key.startswith("tokenizer."):
            continue
        value: Any = field.contents()
        if key == "tokenizer.ggml.tokens":
            value += [f"[PAD{place}]" for place in range(len(value), size)]
        if key == "tokenizer.ggml.token_type":
            value += [int(gguf.TokenType.UNUSED)] * (size - len(value))
        kind, *inner = field.types
        writer.add_key_value(key, value, kind, sub_type=inner[0] if inner else None)


@opt.program("python -m benchmarks.models llama3.2-1b Q4_K_M 1b.gguf")
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("type_name", metavar="TYPE", type=click.Choice(list(TYPES)))
@click.argument("out", type=click.Path(path_type=Path))
def main(shape: str, type_name: str, out: Path) -> None:
    """Write a GGUF file of a true shape with random weights."""
    write_model(shape, type_name, out)
    click.echo(f"{out}: {out.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
