"""Writes a Hugging Face model folder, with or without a LoRA adapter, as one GGUF file.

One tensor is in memory at a time. llama.cpp quantises the file further (inference/llamacpp).
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf.architecture import Shape, architecture, heads_of, interleave, read_shape, tensor_names, write_shape
from recipe.gguf.header import add_metadata, read_metadata
from recipe.gguf.known import remember
from recipe.gguf.tokenizer import Vocabulary, read_vocabulary, write_vocabulary
from recipe.gguf.weights import Adapter, Checkpoint
from recipe.storage import replacing

__all__ = ["FILE_TYPES", "ExportReport", "add_metadata", "export_problem", "read_metadata", "write_gguf"]

# The type's name -> llama.cpp's number for a file that is mostly of it.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_FIXED = ("general.architecture", "general.file_type", "general.alignment", "general.quantization_version")


@dataclass(frozen=True)
class ExportReport:
    """tensors: written. bytes: of the file. adapter_modules: matrices adapted. seconds: wall."""

    tensors: int
    bytes: int
    adapter_modules: int
    seconds: float


@dataclass(frozen=True)
class _Tensor:
    """One tensor to write: Hugging Face's name ("" for the rotary factors), GGUF's, its shape and type."""

    source: str
    name: str
    shape: tuple[int, ...]
    type_name: str


def write_gguf(
    model: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    type_name: str = "F16",
    metadata: dict[str, Any] | None = None,
) -> ExportReport:
    """Write a model folder as a GGUF file, which appears only when it is complete.

    Args:
        model: The folder.
        out: The file.
        adapter: The folder of a LoRA adapter to merge into the weights.
        type_name: F32, F16 or BF16, for the matrices; vectors stay F32.
        metadata: Further pairs, `sre.*` or descriptive `general.*`: texts, numbers, lists of texts.

    Raises:
        SreError: An unknown architecture or tokenizer, an adapter of another base or kind, values too large for F16, or
            a full disk.
    """
    started = time.monotonic()
    pairs = _checked(metadata or {})
    if type_name not in FILE_TYPES:
        raise SreError(f"{type_name!r} is not one of {', '.join(FILE_TYPES)}", field="type_name")
    checkpoint = Checkpoint(model)
    merged = Adapter(adapter, checkpoint) if adapter is not None else None
    modules = 0 if merged is None else len(merged.modules)
    out.parent.mkdir(parents=True, exist_ok=True)
    shape = _shape(checkpoint)
    rows = checkpoint.shapes.get("model.embed_tokens.weight", (0,))[0]
    vocabulary = read_vocabulary(model, rows)
    plan = _plan(checkpoint, shape, type_name)
    _check_space(out, plan)
    with replacing(out) as temporary:
        pairs.setdefault("general.name", model.resolve().name)
        writer = _start(temporary, shape, vocabulary, plan, pairs, type_name)
        try:
            for tensor in plan:
                _write(writer, tensor, checkpoint, merged, shape)
        finally:
            writer.close()
    remember(out)
    return ExportReport(len(plan), out.stat().st_size, modules, time.monotonic() - started)


def export_problem(model: Path) -> str:
    """Why write_gguf can't export `model`, or "": to be asked before hours of training."""
    try:
        checkpoint = Checkpoint(model)
        _plan(checkpoint, _shape(checkpoint), "F16")
        read_vocabulary(model, checkpoint.shapes["model.embed_tokens.weight"][0])
    except SreError as error:
        return str(error)
    return ""


def _checked(metadata: dict[str, Any]) -> dict[str, Any]:
    for key in metadata:
        if not key.startswith(("general.", "sre.")) or key in _FIXED:
            raise SreError("metadata are pairs of sre.* or descriptive general.* keys", field=key)
    return dict(metadata)


def _shape(checkpoint: Checkpoint) -> Shape:
    try:
        return read_shape(checkpoint.config)
    except SreError as error:
        raise SreError(str(error), file=checkpoint.folder / "config.json") from error
    except KeyError as error:
        raise SreError(
            "this setting is missing", file=checkpoint.folder / "config.json", field=error.args[0]
        ) from error


def _plan(checkpoint: Checkpoint, shape: Shape, type_name: str) -> list[_Tensor]:
    """What is written, in order. Raises SreError for a tensor too many or too few."""
    import gguf

    where = checkpoint.folder
    missing = [name for name in tensor_names(shape) if name not in checkpoint.shapes]
    if missing:
        raise SreError(f"the weights lack {missing[0]} ({len(missing)} tensors in all)", file=where)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.arch)
    names = gguf.get_tensor_name_map(arch, shape.layers)
    plan = []
    if shape.rope.factors:
        plan.append(_Tensor("", "rope_freqs.weight", (len(shape.rope.factors),), "F32"))
    for source, size in checkpoint.shapes.items():
        if source.endswith("rotary_emb.inv_freq") or (shape.tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            known = architecture(checkpoint.config)
            raise SreError(f"{known} has no tensor {source!r} that llama.cpp knows", file=where)
        plan.append(_Tensor(source, name, size, type_name if len(size) > 1 else "F32"))
    return plan


def _check_space(out: Path, plan: list[_Tensor]) -> None:
    """Better before than after minutes of writing. Raises SreError."""
    needed = sum(_BYTES[tensor.type_name] * math.prod(tensor.shape) for tensor in plan)
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise SreError(f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free on this disk", file=out)


def _start(
    path: Path,
    shape: Shape,
    vocabulary: Vocabulary,
    plan: list[_Tensor],
    pairs: dict[str, Any],
    type_name: str,
) -> Any:
    """A gguf.GGUFWriter that has written all but the tensors' data."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_type("model")
    writer.add_file_type(FILE_TYPES[type_name])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_size_label(gguf.size_label(sum(math.prod(tensor.shape) for tensor in plan), 0, 0, 0))
    for key, value in pairs.items():
        add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}[type(value)]
        add(key, value)
    write_shape(writer, shape)
    write_vocabulary(writer, vocabulary)
    for tensor in plan:
        size = _BYTES[tensor.type_name] * math.prod(tensor.shape)
        kind = gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float16), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _write(writer: Any, tensor: _Tensor, checkpoint: Checkpoint, adapter: Adapter | None, shape: Shape) -> None:
    """Read, merge, permute, convert and write one tensor. Raises SreError when F16 can't hold it."""
    import torch

    if not tensor.source:
        values = torch.tensor(shape.rope.factors)
    else:
        values = checkpoint.tensor(tensor.source)
        if adapter is not None:
            values = adapter.merge(tensor.source, values)
        if heads := heads_of(tensor.source, shape):
            values = interleave(values, heads)
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[tensor.type_name]
    converted = values.to(kind).contiguous()
    if kind == torch.float16 and not torch.isfinite(converted).all():
        raise SreError(f"{tensor.source} has values F16 can't hold; use BF16 or F32", file=checkpoint.folder)
    writer.write_tensor_data(converted.reshape(-1).view(torch.uint8).numpy())
