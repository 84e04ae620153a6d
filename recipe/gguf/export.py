"""Writes a Hugging Face model folder, with or without a LoRA adapter, as one GGUF file.

One tensor is in memory at a time. llama.cpp quantises the file further (inference/llamacpp).
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf import architecture
from recipe.gguf.architecture import Hyperparameters
from recipe.gguf.known import remember
from recipe.gguf.tokenizer import Vocabulary, read_vocabulary, write_vocabulary
from recipe.gguf.weights import Adapter, Checkpoint
from recipe.storage import replacing

# The type's name -> llama.cpp's number for a file that is mostly of it.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


@dataclass(frozen=True)
class _Tensor:
    """A tensor to write. `source` is its Hugging Face name, "" for the rotary factors; `name` is GGUF's."""

    source: str
    name: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def bytes(self) -> int:
        return (4 if self.type_name == "F32" else 2) * math.prod(self.shape)


def write_gguf(
    model: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    type_name: str = "F16",
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model folder, with an adapter merged into it, as a GGUF file, which appears only when it is complete.

    `type_name` (F32, F16 or BF16) is that of the matrices; vectors stay F32. `metadata` has further pairs, `sre.*` or
    descriptive `general.*`. Raises SreError for an unknown architecture or tokenizer, an adapter of another base or
    kind, values too large for F16, or a full disk.
    """
    pairs = {"general.name": model.resolve().name, **(metadata or {})}
    checkpoint, shape, plan, vocabulary = _read(model, type_name)
    merged = Adapter(adapter, checkpoint) if adapter is not None else None
    out.parent.mkdir(parents=True, exist_ok=True)
    needed, free = sum(tensor.bytes for tensor in plan), shutil.disk_usage(out.parent).free
    if needed > free:
        raise SreError(f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free on this disk", file=out)
    with replacing(out) as temporary:
        writer = _start(temporary, shape, vocabulary, plan, pairs, type_name)
        try:
            for tensor in plan:
                _write(writer, tensor, checkpoint, merged, shape)
        finally:
            writer.close()
    remember(out)


def export_problem(model: Path) -> str:
    """Why write_gguf can't export `model`, or "": to be asked before hours of training."""
    try:
        _read(model, "F16")
    except SreError as error:
        return str(error)
    return ""


def write_sentencepiece(model: Path, out: Path) -> bool:
    """Write a model's vocabulary alone as a GGUF file if it is SentencePiece's; returns whether it is."""
    _, shape, _, vocabulary = _read(model, "F16")
    if vocabulary.scores:
        _start(out, shape, vocabulary, [], {}, "F16").close()
    return bool(vocabulary.scores)


def _read(model: Path, type_name: str) -> tuple[Checkpoint, Hyperparameters, list[_Tensor], Vocabulary]:
    """All that is known of a model before its weights are read. Raises SreError where it can't be exported."""
    checkpoint = Checkpoint(model)
    try:
        shape = architecture.read_hyperparameters(checkpoint.config)
    except SreError as error:
        raise SreError(error.message, file=model / "config.json", field=error.field) from error
    missing = [name for name in architecture.tensor_names(shape) if name not in checkpoint.shapes]
    if missing:
        raise SreError(f"the weights lack {missing[0]} ({len(missing)} tensors in all)", file=model)
    names = architecture.gguf_names(shape)
    plan = []
    if shape.rope_factors:
        plan.append(_Tensor("", "rope_freqs.weight", (len(shape.rope_factors),), "F32"))
    for source, size in checkpoint.shapes.items():
        if source.endswith("rotary_emb.inv_freq") or (shape.tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise SreError(f"{shape.arch} has no tensor {source!r} that llama.cpp knows", file=model)
        plan.append(_Tensor(source, name, size, type_name if len(size) > 1 else "F32"))
    return checkpoint, shape, plan, read_vocabulary(model, checkpoint.shapes["model.embed_tokens.weight"][0])


def _start(
    path: Path,
    shape: Hyperparameters,
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
    architecture.write_hyperparameters(writer, shape)
    write_vocabulary(writer, vocabulary)
    for tensor in plan:
        kind = gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float16), tensor.bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _write(
    writer: Any, tensor: _Tensor, checkpoint: Checkpoint, adapter: Adapter | None, shape: Hyperparameters
) -> None:
    """Read, merge, convert and write one tensor. Raises SreError when F16 can't hold it."""
    import torch

    if tensor.source:
        values = checkpoint.tensor(tensor.source)
        if adapter is not None:
            values = adapter.merge(tensor.source, values)
        values = architecture.converted(values, tensor.source, shape)
    else:
        values = torch.tensor(shape.rope_factors)
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[tensor.type_name]
    values = values.to(kind).contiguous()
    if kind == torch.float16 and not torch.isfinite(values).all():
        raise SreError(f"{tensor.source} has values F16 can't hold; use BF16 or F32", file=checkpoint.folder)
    writer.write_tensor_data(values.reshape(-1).view(torch.uint8).numpy())
