"""Open a judge by what the user calls it: a GGUF file, a run folder, an adapter, a model folder or a hub name."""

import re
from pathlib import Path

from recipe.errors import SreError
from recipe.judge.judge import Judge
from recipe.storage import fingerprint, hash_object, read_json
from recipe.training.card import HUB_NAME
from recipe.training.seed import fetch_model

_EXPECTED = "a .gguf file, a run folder, a hub name, or a folder with config.json or adapter_config.json"
_WEIGHTS = ("*.safetensors", "*.bin")


def open_judge(
    model: str, *, threads: int | None = None, context: int = 4096, parallel: int = 16, gpu_layers: int | None = None
) -> Judge:
    """The judge that `model` names.

    A .gguf file, or a run folder with its judge.gguf: llama.cpp. A folder with adapter_config.json (its base is
    where that file says, seen from the folder) or config.json, or the hub name of either: PyTorch, with this package's
    prompts. Raises SreError for anything else, a base that is missing, or a hub that can't be reached.
    """
    path = Path(model)
    if path.is_file() or path.suffix.lower() == ".gguf" or (path / "config.toml").is_file():
        return Judge.from_gguf(path, threads=threads, context=context, parallel=parallel, gpu_layers=gpu_layers)
    if gpu_layers is not None:
        raise SreError(
            "only a GGUF file takes a number of layers; PyTorch puts the whole model on the GPU", field="gpu_layers"
        )
    folder = path if path.is_dir() else _downloaded(model)
    base, adapter = _parts(folder)
    from recipe.inference.pytorch.generator import TorchGenerator
    from recipe.inference.pytorch.loading import use_threads

    use_threads(threads)
    # The generator's name is what tells a resumed evaluation that the weights are still the same.
    weights = sorted(file for part in (base, adapter) if part for pattern in _WEIGHTS for file in part.glob(pattern))
    name = f"{model} {hash_object([*map(fingerprint, weights)])[:16]}"
    generator = TorchGenerator(base, adapter=adapter, name=name, parallel=parallel, context=context)
    return Judge(generator, name=label_of(model) if path.is_dir() else model)


def label_of(model: str) -> str:
    """A folder name for what belongs to a model: its own, led by its folder's ("quickstart-judge")."""
    path = Path(model)
    parts = (path.resolve().parent.name, path.stem) if path.exists() else path.parts[-2:]
    return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part))


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The base model's folder, and the adapter's if `folder` is one."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        if (folder / "config.json").is_file():
            return folder, None
        raise SreError(f"no model here; expected {_EXPECTED}", file=folder)
    named = str(read_json(file).get("base_model_name_or_path") or "")
    for base in (folder / named, Path(named)):
        if (base / "config.json").is_file():
            return base, folder
    if Path(named).is_absolute() or not HUB_NAME.fullmatch(named):
        message = f"the adapter's base model is not at {named!r}; put it there, or change base_model_name_or_path"
        raise SreError(message, file=file)
    return _downloaded(named), folder


def _downloaded(name: str) -> Path:
    if not HUB_NAME.fullmatch(name):
        raise SreError(f"no such file or folder; expected {_EXPECTED}", file=name)
    return fetch_model(name, ignore_patterns=["*.gguf", "*.pth", "original/*"])
