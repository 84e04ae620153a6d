"""`sre publish`: what would go up, and to whom; nothing here reaches a network."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.config import dump, load
from recipe.errors import SreError
from recipe.pipeline.publish import collect, upload


def make_run(folder: Path, *overrides: str) -> Path:
    """The files of a finished run with Q8_0 (judge.gguf) and Q4_K_M."""
    config = load("cpu-smollm2-135m", ("export.type=Q8_0", "start=merged", *overrides))
    contents = {
        "config.toml": dump(config),
        "results.json": json.dumps({"models": {}, "differences": {}, "stages": {}, "judge": None}),
        "judge.gguf": "a" * 3000,
        "gguf/judge-Q8_0.gguf": "a" * 3000,
        "gguf/judge-Q4_K_M.gguf": "b" * 2000,
        "gguf/j2.gguf": "a snapshot",
        "gguf/done.json": "{}",
        "gguf/Modelfile": "FROM ../judge.gguf\n",
        "gguf/README.md": "---\nlicense: mit\n---\n\n# quickstart: a self-rationalizing judge\n\n| rows | 64 |\n",
        "results.md": "| judge | n |\n| --- | --- |\n| J2 | 48 |\n",
        "merged/adapter/adapter_model.safetensors": "not the last",
        "iter-2/adapter/adapter_model.safetensors": "the last",
        "iter-2/adapter/adapter_config.json": json.dumps({"r": 32, "base_model_name_or_path": str(folder)}),
        "seed/model/LICENSE": "Apache License",
    }
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


class Hub:
    """In place of huggingface_hub.HfApi: keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    def __call__(self, token: str) -> Hub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append(("repo", (repo, options)))

    def create_commit(self, repo: str, operations: list[Any], **_: Any) -> Any:
        if self.error:
            raise self.error
        self.calls.append(("commit", {operation.path_in_repo: operation.path_or_fileobj for operation in operations}))
        return SimpleNamespace(repo_url=f"https://hub/{repo}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return fake


def test_the_judge_its_other_types_the_last_adapter_and_the_papers_go_up(run: Path) -> None:
    bundle = collect(run, "me/judge")
    assert set(bundle.files) == {
        "README.md",
        "LICENSE",
        "Modelfile",
        "config.toml",
        "results.json",
        "judge.gguf",
        "judge-Q4_K_M.gguf",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    adapter = bundle.files["adapter/adapter_model.safetensors"]
    assert isinstance(adapter, Path)
    assert adapter.read_text() == "the last"
    assert bundle.files["Modelfile"] == "FROM ./judge.gguf\n"  # both lie in one folder there


def test_without_iterations_the_merged_adapter_goes_up(tmp_path: Path) -> None:
    run = make_run(tmp_path, "iterations=0")
    (run / "merged" / "adapter" / "adapter_config.json").write_text("{}")
    assert collect(run, "me/judge").files["adapter/adapter_model.safetensors"] == (
        run / "merged" / "adapter" / "adapter_model.safetensors"
    )


def test_the_card_is_that_of_the_export_with_all_figures_and_settings(run: Path) -> None:
    card = collect(run, "me/judge").card
    assert card.startswith((run / "gguf" / "README.md").read_text().rstrip())
    assert "| J2 | 48 |" in card
    assert "\nlearning_rate = 0.001\n" in card


def test_the_adapter_is_that_of_the_judge_that_was_exported(run: Path) -> None:
    (run / "results.json").write_text(json.dumps({"models": {}, "judge": "sft"}))
    (run / "merged" / "adapter" / "adapter_config.json").write_text("{}")
    adapter = collect(run, "me/judge").files["adapter/adapter_model.safetensors"]
    assert isinstance(adapter, Path)
    assert adapter.read_text() == "not the last"


def test_no_folder_of_this_machine_goes_up(tmp_path: Path) -> None:
    model, data = tmp_path / "secret" / "base-model", tmp_path / "secret" / "my-rows"
    run = make_run(tmp_path / "run", f"model.source={model}", f"data.pointwise={data}")
    files = collect(run, "me/judge").files
    for name in ("README.md", "config.toml", "adapter/adapter_config.json"):
        assert str(tmp_path) not in str(files[name]), name
    assert "base-model" in str(files["adapter/adapter_config.json"])
    assert 'pointwise = "my-rows"' in str(files["config.toml"])
    run = make_run(tmp_path / "nearby", "data.pointwise=../secret/my-rows")
    files = collect(run, "me/judge").files
    assert 'pointwise = "my-rows"' in str(files["config.toml"])
    assert "secret" not in str(files["README.md"])


def test_the_dry_run_lists_everything_and_sends_nothing(run: Path, hub: Hub) -> None:
    result = CliRunner().invoke(main, ["publish", str(run), "--repo", "me/judge", "--dry-run"])
    assert result.exit_code == 0, result.output
    for name in collect(run, "me/judge").files:
        assert f" {name}\n" in result.output
    assert "in 9 files" in result.output
    assert "quickstart: a self-rationalizing judge" in result.output
    assert "Nothing was sent" in result.output
    assert hub.calls == []


def test_everything_goes_up_in_one_commit(run: Path, hub: Hub) -> None:
    bundle = collect(run, "me/judge")
    assert upload(bundle, private=True) == "https://hub/me/judge"
    token, repo, commit = hub.calls
    assert token == ("token", "hf_secret")
    assert repo == ("repo", ("me/judge", {"private": True, "exist_ok": True}))
    sent = commit[1]
    assert set(sent) == set(bundle.files)
    assert sent["README.md"] == bundle.card.encode()
    assert Path(sent["judge.gguf"]) == run / "judge.gguf"


def test_a_missing_token_says_how_to_get_one(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    result = CliRunner().invoke(main, ["publish", str(run), "--repo", "me/judge"])
    assert result.exit_code == 2
    assert "no Hugging Face token" in result.stderr
    assert "HF_TOKEN" in result.stderr
    assert hub.calls == []


def test_a_refusal_by_the_hub_is_one_line(run: Path, hub: Hub) -> None:
    hub.error = RuntimeError("403 Forbidden\nmore")
    with pytest.raises(SreError, match=r"the hub refused me/judge \(RuntimeError: 403 Forbidden\); no file there"):
        upload(collect(run, "me/judge"), private=False)


@pytest.mark.parametrize("repo", ["judge", "me/judge/more", "me/ judge", ""])
def test_a_bad_repository_name_is_refused(run: Path, repo: str) -> None:
    with pytest.raises(SreError, match="expected USER/NAME"):
        collect(run, repo)


@pytest.mark.parametrize("missing", ["judge.gguf", "gguf/done.json", "config.toml"])
def test_an_unfinished_run_is_refused(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(SreError, match=f"no {missing} yet"):
        collect(run, "me/judge")


@pytest.mark.parametrize(
    "name", ["README.md", "Modelfile", "../results.json", "../results.md", "../seed/model/README.md"]
)
@pytest.mark.parametrize("data", [b"\xff\xfe\0", b'{"judge": 5}', b"[]"])
def test_a_damaged_file_is_one_error_or_goes_up_as_it_is(run: Path, name: str, data: bytes) -> None:
    (run / "gguf" / name).write_bytes(data)
    with contextlib.suppress(SreError):
        collect(run, "me/judge")


def test_a_lost_file_is_named(run: Path) -> None:
    (run / "gguf" / "judge-Q4_K_M.gguf").unlink()
    with pytest.raises(SreError, match=r"judge-Q4_K_M\.gguf: missing"):
        collect(run, "me/judge")
