"""Export through llama.cpp's convert_hf_to_gguf.py, for what engines/gguf.py doesn't know."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from recipe.errors import SreError
from recipe.gguf.header import add_metadata, read_header
from recipe.gguf.weights import Adapter, Checkpoint, shard_paths

_TAIL = 15  # lines of the converter's complaint that are shown


def convert(
    checkpoint: Checkpoint,
    adapter: Adapter | None,
    out: Path,
    converter: Path,
    type_name: str,
    metadata: dict[str, str],
) -> int:
    """Run `converter` on the model (a merged plain copy of it when there is an adapter) and add `metadata`.

    Writes `out` and returns its number of tensors. Beside `out` it needs room for the copy and for one more
    file. Raises SreError with the end of the converter's messages when it fails.
    """
    if not converter.is_file():
        raise SreError("there is no converter here; it is llama.cpp's convert_hf_to_gguf.py", file=converter)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=out.parent) as scratch:
        folder = checkpoint.folder
        if adapter is not None:
            folder = Path(scratch) / "model"
            _merged_copy(checkpoint, adapter, folder)
        plain = Path(scratch) / "plain.gguf"
        _run([str(converter), str(folder), "--outfile", str(plain), "--outtype", type_name.lower()], plain)
        add_metadata(plain, out, {k: v for k, v in metadata.items() if k.startswith("sre.")})
        return read_header(out).tensors


def _run(arguments: list[str], expected: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode or not expected.is_file():
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL:])
        raise SreError(f"the converter failed (exit code {done.returncode}):\n{tail}", file=arguments[0])


def _merged_copy(checkpoint: Checkpoint, adapter: Adapter, folder: Path) -> None:
    """The model folder with the adapter merged in: shard by shard, in the stored types; the rest linked."""
    from safetensors.torch import save_file

    folder.mkdir()
    shards = shard_paths(checkpoint.folder)
    for path in shards:
        names = [name for name, shard in checkpoint.shard_of.items() if shard == path]
        tensors = {name: checkpoint.tensor(name) for name in names}
        merged = {name: adapter.merge(name, tensor).to(tensor.dtype) for name, tensor in tensors.items()}
        save_file(merged, folder / path.name, metadata={"format": "pt"})
    for path in checkpoint.folder.iterdir():
        if path not in shards and path.is_file():
            os.symlink(path.resolve(), folder / path.name)
