"""What of a run goes to the Hugging Face hub: the judge's GGUF files, its adapter, the settings and a model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.config import Config, dump, load
from recipe.errors import SreError, first_line, install
from recipe.pipeline.context import RunContext, judges_of
from recipe.storage import intact, read_json
from recipe.system import user_path
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
    """The files of a finished run and its model card, without names of folders of this machine."""
    if not HUB_NAME.fullmatch(repo):
        raise SreError(f"expected USER/NAME, found {repo!r}", field="--repo")
    for needed in ("config.toml", "judge.gguf", "gguf/done.json"):
        if not (folder / needed).is_file():
            raise SreError(f"this run has no {needed} yet; finish it with `sre run`", file=folder)
    config = load(folder / "config.toml")
    run, results, gguf = RunContext(config, folder), folder / "results.json", folder / "gguf"
    with intact(results):
        judge = str((read_json(results) if results.is_file() else {}).get("judge") or judges_of(config)[-1])
    model, adapter = run.model.path, run.made(run.stage_of(judge), "adapter").path
    # judge.gguf is one of the exported types under another name.
    others = set(config.export.types) - {config.export.type, config.export.snapshot}
    files: dict[str, Path | str] = {
        "judge.gguf": folder / "judge.gguf",
        **{f"judge-{name}.gguf": gguf / f"judge-{name}.gguf" for name in others},
        "adapter/adapter_model.safetensors": adapter / "adapter_model.safetensors",
        "adapter/adapter_config.json": adapter / "adapter_config.json",
        "README.md": gguf / "README.md",
        **{path.name: path for path in (*model.glob("LICENSE*"), *folder.glob("results.json"))},
    }
    for name, path in files.items():
        if not Path(path).is_file():
            raise SreError(f"missing; run `sre stage gguf RUN --again` to make {name}", file=path)
    settings = read_json(adapter / "adapter_config.json")
    with intact(folder):
        settings["base_model_name_or_path"] = base_of(config.model.source, model).name
        files |= {path.name: path.read_text("utf-8").replace("FROM ../", "FROM ./") for path in gguf.glob("Modelfile*")}
        files["adapter/adapter_config.json"] = json.dumps(settings, indent=2) + "\n"
        files["config.toml"] = _without_folders(dump(config), config)
        files["README.md"] = _without_folders(_card(folder, config), config)
    return Bundle(repo, files)


def upload(bundle: Bundle, *, private: bool) -> str:
    """Send the bundle in one commit, making the repository where it is missing; returns its address."""
    try:
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
    except ImportError as error:
        raise SreError(f"publishing needs huggingface_hub: {install('publish')}") from error
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
        message = (
            f"the hub refused {bundle.repo} ({type(error).__name__}: {first_line(error)}); no file there was changed"
        )
        raise SreError(message) from error
    return str(done.repo_url)


def _without_folders(text: str, config: Config) -> str:
    """The text without the folders of this machine that the settings name."""
    named = (config.model.source, config.data.pointwise, config.data.pairwise)
    for source in sorted(filter(None, named), key=len, reverse=True):
        if user_path(source).is_absolute() or source.startswith(".."):
            text = text.replace(source, public_name(source))
    return text


def _card(folder: Path, config: Config) -> str:
    """The export's card with every judge's figures and the settings."""
    card, results = folder / "gguf" / "README.md", folder / "results.md"
    measured = results.read_text(encoding="utf-8").strip() if results.is_file() else "Nothing: it has no test rows."
    return (
        f"{card.read_text(encoding='utf-8').rstrip()}\n\n## Every judge of this run\n\n{measured}\n\n"
        f"Brackets: 95% bootstrap intervals.\n\n## Settings\n\n```toml\n{dump(config).strip()}\n```\n"
    )


def _size(content: Path | str) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content.encode())
