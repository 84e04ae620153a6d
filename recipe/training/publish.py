"""What of a run goes to the Hugging Face hub: the judge's GGUF files, the last adapter, a model card. One commit.

The card is that of the export stage, with the data, every judge's figures, the licence and all settings.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.config import Config, dump, load
from recipe.errors import SreError, install
from recipe.storage import read_json
from recipe.training.card import HUB_NAME, base_of, public_name


@dataclass(frozen=True)
class Bundle:
    """What would go up. files: path in the repository -> file here, or text that is made for it."""

    repo: str
    files: Mapping[str, Path | str]

    @property
    def card(self) -> str:
        return str(self.files["README.md"])

    @property
    def listing(self) -> str:
        """One line for each file: its size and its name."""
        lines = [f"{_size(content) / 1e6:10.2f} MB  {name}" for name, content in sorted(self.files.items())]
        total = sum(_size(content) for content in self.files.values())
        return "\n".join([f"To {self.repo}:", *lines, f"{total / 1e6:10.2f} MB  in {len(lines)} files"])


def collect(folder: Path, repo: str) -> Bundle:
    """The files of a finished run, and its model card; folders of this machine are named by their last part.

    Raises SreError where the run isn't exported, or for a bad name.
    """
    if not HUB_NAME.fullmatch(repo):
        raise SreError(f"expected USER/NAME, found {repo!r}", field="--repo")
    for needed in ("config.toml", "judge.gguf", "gguf/done.json"):
        if not (folder / needed).is_file():
            raise SreError(f"this run has no {needed} yet; finish it with `sre run`", file=folder)
    config = load(folder / "config.toml")
    files: dict[str, Path | str] = {"judge.gguf": folder / "judge.gguf"}
    # judge.gguf is one of the exported types under another name.
    others = set(config.export.types) - {config.export.judge, config.export.snapshot}
    files |= {f"judge-{name}.gguf": folder / "gguf" / f"judge-{name}.gguf" for name in others}
    adapter = folder / _stage_of(folder, config) / "adapter"
    files["adapter/adapter_model.safetensors"] = adapter / "adapter_model.safetensors"
    settings = read_json(adapter / "adapter_config.json") | {
        "base_model_name_or_path": base_of(config.model.source, folder / "seed" / "model").name
    }
    files["adapter/adapter_config.json"] = json.dumps(settings, indent=2) + "\n"
    files["config.toml"] = _without_folders(dump(config), config)
    if (folder / "results.json").is_file():
        files["results.json"] = folder / "results.json"
    licence_files = sorted((folder / "seed" / "model").glob("LICENSE*"))
    files |= {path.name: path for path in licence_files if path.is_file()}
    for name in ("Modelfile", *(["Modelfile.pairwise"] if (folder / "gguf" / "Modelfile.pairwise").is_file() else [])):
        files[name] = _read(folder / "gguf" / name).replace("FROM ../", "FROM ./")
    files["README.md"] = _without_folders(_card(folder, config), config)
    for name, content in files.items():
        if isinstance(content, Path) and not content.is_file():
            raise SreError(f"missing; run `sre stage gguf RUN --again` to make {name}", file=content)
    return Bundle(repo, files)


def upload(bundle: Bundle, *, private: bool) -> str:
    """Send the bundle in one commit, making the repository where it is missing; returns its address.

    Raises SreError without huggingface_hub, without a token, and when the hub refuses.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
    except ImportError as error:
        message = f"publishing needs huggingface_hub: {install('publish')}"
        raise SreError(message) from error
    token = get_token()
    if not token:
        raise SreError(
            "no Hugging Face token: make one with write access at huggingface.co/settings/tokens, then run "
            "`hf auth login` or set HF_TOKEN"
        )
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content.encode() if isinstance(content, str) else content)
        for name, content in sorted(bundle.files.items())
    ]
    api = HfApi(token=token)
    try:
        api.create_repo(bundle.repo, private=private, exist_ok=True)
        done = api.create_commit(bundle.repo, operations, commit_message="A judge made by self-rationalization")
    except Exception as error:  # HTTP, connection and validation errors share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = f"the hub refused {bundle.repo} ({type(error).__name__}: {reason}); no file there was changed"
        raise SreError(message) from error
    return str(done.repo_url)


def to_ollama(folder: Path, name: str) -> None:
    """Make the exported judge a model of the local Ollama, by its Modelfile. Raises SreError where that fails."""
    modelfile = folder / "gguf" / "Modelfile"
    if not modelfile.is_file():
        raise SreError("no gguf/Modelfile yet; run `sre stage gguf RUN` first", file=folder)
    command = ["ollama", "create", name, "-f", str(modelfile)]
    if shutil.which("ollama") is None:
        raise SreError(f"no program `ollama` on this machine; where it is, run: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SreError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _stage_of(folder: Path, config: Config) -> str:
    """The folder of the stage that made the exported judge."""
    results = folder / "results.json"
    judge = (read_json(results) if results.is_file() else {}).get("judge") or f"j{config.iterations}"
    if judge in ("sft", "j0"):
        alone = [task for task in ("pointwise", "pairwise") if config.data.source(task)]
        return f"sft-{alone[0]}" if len(alone) == 1 else "sft-mixed" if config.start == "mixed" else "merged"
    return f"iter-{judge.removeprefix('j')}"


def _without_folders(text: str, config: Config) -> str:
    """The text without the folders of this machine that the settings name."""
    named = (config.model.source, config.data.pointwise, config.data.pairwise)
    for source in sorted(filter(None, named), key=len, reverse=True):
        if Path(source).expanduser().is_absolute():
            text = text.replace(source, public_name(source))
    return text


def _card(folder: Path, config: Config) -> str:
    """The export's card with the data, every judge's figures, the licence and the settings."""
    base = base_of(config.model.source, folder / "seed" / "model")
    unsaid = (
        "its card names none: see what its makers say before you share this"
        if base.licence == "other"
        else base.licence
    )
    limits = {task: getattr(config.data, f"train_{task}") for task in ("pointwise", "pairwise")}
    data = [
        f"- {task}: `{config.data.source(task)}`, {f'{limit:,}' if limit else 'all'} training rows"
        for task, limit in limits.items()
        if config.data.source(task)
    ]
    results = folder / "results.md"
    measured = _read(results) if results.is_file() else "This run has no test rows: nothing was measured."
    sections = {
        "Data": "\n".join(data),
        "Every judge of this run": f"{measured.strip()}\n\nBrackets: 95% bootstrap intervals.",
        "Licence": f"That of the base model, `{base.name}`: {unsaid}.",
        "Settings": f"```toml\n{dump(config).strip()}\n```",
    }
    parts = [
        _read(folder / "gguf" / "README.md").rstrip(),
        *(f"## {title}\n\n{body}" for title, body in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SreError("missing; run `sre stage gguf RUN --again` to make it", file=path) from None


def _size(content: Path | str) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content.encode())
