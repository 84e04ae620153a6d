"""What a model may be called, and what is said of names that lead nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.evaluation import models
from recipe.evaluation.models import label_of, open_judge
from recipe.judge import Judge


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    opened: list[Any] = []

    def from_gguf(path: Path, **options: Any) -> Any:
        opened.append((path, options))
        return type("Fake", (), {"name": path.stem})()

    monkeypatch.setattr(Judge, "from_gguf", from_gguf)
    return opened


@pytest.fixture
def torch_generator(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    generation = pytest.importorskip("recipe.inference.pytorch.generator")
    opened: list[Any] = []

    class Fake:
        def __init__(self, model: Path, **options: Any) -> None:
            opened.append((model, options))
            self.name = options["name"]

    monkeypatch.setattr(generation, "TorchGenerator", Fake)
    return opened


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def adapter_folder(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def test_a_gguf_file_and_a_run_folder_are_opened_by_llama_cpp(tmp_path: Path, gguf: list[Any]) -> None:
    file = tmp_path / "quickstart" / "judge.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    open_judge(str(file), threads=2, context=512)
    (tmp_path / "quickstart" / "config.toml").write_text("")
    open_judge(str(tmp_path / "quickstart"))
    assert [path for path, _ in gguf] == [file, file.parent]
    assert (gguf[0][1]["threads"], gguf[0][1]["context"]) == (2, 512)


def test_layers_for_the_gpu_are_llama_cpps_alone(tmp_path: Path, torch_generator: list[Any]) -> None:
    with pytest.raises(SreError, match=r"gpu_layers.*GGUF"):
        open_judge(str(model_folder(tmp_path / "model")), gpu_layers=4)
    assert not torch_generator


def test_an_adapter_is_opened_on_the_base_that_it_names(tmp_path: Path, torch_generator: list[Any]) -> None:
    base = model_folder(tmp_path / "seed" / "model")
    adapter = adapter_folder(tmp_path / "iter-1" / "adapter", str(base))
    judge = open_judge(str(adapter), context=777)
    ((model, options),) = torch_generator
    assert (model, options["adapter"], options["context"], judge.name) == (base, adapter, 777, "iter-1-adapter")
    open_judge(str(base))
    assert torch_generator[1][1]["adapter"] is None


def test_an_adapters_base_is_looked_for_from_the_adapters_folder(tmp_path: Path, torch_generator: list[Any]) -> None:
    base = model_folder(tmp_path / "seed" / "model")
    open_judge(str(adapter_folder(tmp_path / "iter-1" / "adapter", "../../seed/model")))
    assert torch_generator[0][0].resolve() == base


def test_other_weights_under_the_same_name_are_told_apart(tmp_path: Path, torch_generator: list[Any]) -> None:
    base = model_folder(tmp_path / "model")
    adapter = adapter_folder(tmp_path / "adapter", str(base))
    before = [open_judge(str(path)).identity for path in (base, adapter)]
    assert [open_judge(str(path)).identity for path in (base, adapter)] == before
    (adapter / "adapter_model.safetensors").write_bytes(b"ADAPTER")
    assert open_judge(str(adapter)).identity != before[1]
    assert open_judge(str(base)).identity == before[0]
    (base / "model.safetensors").write_bytes(b"more weights")
    assert open_judge(str(base)).identity != before[0]


def test_a_base_that_is_gone_is_named(tmp_path: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", "/nowhere/model")
    with pytest.raises(SreError, match=r"not at '/nowhere/model'") as caught:
        open_judge(str(adapter))
    assert caught.value.file == adapter / "adapter_config.json"


def test_a_hub_name_is_downloaded(tmp_path: Path, torch_generator: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = model_folder(tmp_path / "snapshot")
    asked = []

    def snapshot_download(name: str, **_: Any) -> str:
        asked.append(name)
        if name == "some/adapter":
            return str(adapter_folder(tmp_path / "downloaded", "some/base"))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert open_judge("some/model").name == "some/model"
    assert open_judge("some/adapter").name == "some/adapter"
    assert asked == ["some/model", "some/adapter", "some/base"]
    assert [model for model, _ in torch_generator] == [folder, folder]


def test_a_hub_that_fails_and_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name: str, **_: Any) -> str:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(SreError, match=r"some/model .*no route to host\)"):
        open_judge("some/model")
    with pytest.raises(SreError, match="a hub name"):
        open_judge("nowhere")
    with pytest.raises(SreError, match="no such model file"):
        open_judge(str(tmp_path / "gone.gguf"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SreError, match="no model here"):
        open_judge(str(tmp_path / "empty"))


def test_the_label_of_a_model_is_its_own_and_its_folders_name(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "judge.gguf").write_bytes(b"")
    assert label_of(str(tmp_path / "quickstart" / "judge.gguf")) == "quickstart-judge"
    assert label_of("some/model 7B") == "some-model-7B"
    assert label_of("rewardbench") == "rewardbench"
    assert models.label_of(".") != ""
