"""What stages are given: every setting is in a hash or reaches no stage, and no stage sees more than it is given."""

from __future__ import annotations

import ast
import json
import shutil
import types
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from recipe import prompts
from recipe.config import Config, load, validate
from recipe.pipeline import stage_inputs
from recipe.pipeline.context import RunContext
from recipe.pipeline.judge_model import JudgeModel
from recipe.pipeline.stage_cache import RunFolder
from recipe.pipeline.stage_order import steps
from recipe.training.trainer import Loading

ROOT = Path(__file__).parents[2]
# Settings that no stage is given: they change no result, or the rows that are left tell what was set aside.
GIVEN_TO_NO_STAGE = {"threads", "report_to", "data.skip_bad_rows"}
OTHER = {
    "name": "other",
    "model.revision": "main",
    "model.quantization": "nf4",
    "model.gradient_checkpointing": True,
    "sample.engine": "torch",
    "data.dev_pointwise": 2,
    "data.dev_pairwise": 2,
    "export.flip_rows": 6,
    "model.max_length": 512,
    "data.dev_split": "test",
    "data.test_split": "dev",
    "export.types": ("Q8_0", "Q4_K_M"),
    "export.type": "F16",
    "export.source": "sft",
    "lora.target_modules": ("q_proj",),
    "sample.inputs": (4,),
    "bootstrap.teacher": "http://127.0.0.1:8000/v1",
    "bootstrap.teacher_model": "large",
    "data.reference_share": 1.0,
}


class Recorder(RunFolder):
    """Runs nothing: notes what each stage is given."""

    def do(self, stage: str, work: Any, *, makes: Any = (), together: bool = False, **given: Any) -> dict[str, Any]:
        assert work.__module__ in ("recipe.pipeline.stage_work", "recipe.training.merge")
        assert work.__closure__ is None
        described = {name: self._describe(value, stage, {}) for name, value in given.items()}
        self.given[stage] = {"makes": makes, **described}
        return {}

    def _result_of(self, name: str, asking: str) -> str:
        return name


def given(config: Config, folder: Path) -> dict[str, Any]:
    """Stage -> what it is given under these settings."""
    run = RunContext(config, folder)
    run.cache = Recorder(folder)
    run.cache.given = {}
    for _, step in steps(run, every=True):
        step()
    return run.cache.given


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory) -> Path:
    """The tiny rows, and scored ones that share a prompt: pairs can be made of them."""
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("data") / "data")
    path = folder / "train" / "pointwise.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[:6]]
    for k, row in enumerate(rows):
        row |= {"id": f"same-{k}", "prompt_id": f"q{k % 2}", "orig_score": str(k // 2 + 1)}
        row |= {"orig_instruction": f"Name fruits {k % 2}.", "orig_reference_answer": "apple"}
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """What a model folder is made of; nothing here opens it."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def config(model, data) -> Config:
    """Every kind of stage takes part."""
    sources = [f"model.source={model}", f"data.pointwise={data}", f"data.pairwise={data}"]
    settings = ["evaluate.samples=2", "data.pairs_from_scores=inputs", "iterations=2"]
    settings.append("sft.rationales=bootstrap")
    return load("tiny", [*sources, *settings, "data.forged_share=0.2", "data.train_pairwise=8"])


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """No model is there to be checked after the seed stage, which runs nothing here."""
    monkeypatch.setattr(stage_inputs, "check_model", lambda *_: None)


def leaves(section: BaseModel, prefix: str = "") -> list[str]:
    found = []
    for name, value in section:
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [prefix + name]
    return found


def another(config: Config, key: str) -> Any:
    """A value that the setting can have and hasn't."""
    section: Any = config
    for name in key.split(".")[:-1]:
        section = getattr(section, name)
    name = key.rpartition(".")[2]
    value, kind = getattr(section, name), type(section).model_fields[name].annotation
    choices = [choice for choice in literals(kind) if choice != value]
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if choices:
        return choices[0]
    if isinstance(value, float) or (value is None and kind == float | None):
        return (value or 0) / 2 + 0.01
    if isinstance(value, int) or (value is None and kind == int | None):
        return (value or 1) + 1
    raise AssertionError(f"no other value for {key}: add one to OTHER")


def literals(kind: Any) -> list[Any]:
    """The choices of a Literal, also within a union."""
    if isinstance(kind, types.UnionType) or getattr(kind, "__origin__", None) is not None:
        parts = get_args(kind)
        nested = [choice for part in parts for choice in literals(part)]
        return nested or [part for part in parts if isinstance(part, str)]
    return []


def changed(config: Config, key: str, value: Any) -> Config:
    raw = config.model_dump()
    section = raw
    *sections, last = key.split(".")
    for name in sections:
        section = section[name]
    section[last] = value
    return validate(raw)


@pytest.fixture(scope="module")
def base(config, tmp_path_factory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_inputs, "check_model", lambda *_: None)
        return given(config, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("key", leaves(Config()))
def test_a_changed_setting_changes_a_stages_hash_or_reaches_no_stage(key, config, base, tmp_path):
    if key in ("data.pointwise", "data.pairwise", "model.source", "data.default", "data.dev_share", "data.test_share"):
        pytest.skip("this data has no use for it, or its content counts; tested below")
    other = given(changed(config, key, another(config, key)), tmp_path)
    assert (other == base) == (key in GIVEN_TO_NO_STAGE)


def test_a_stage_that_is_given_what_cannot_be_hashed_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="can't be hashed"):
        RunFolder(tmp_path).do("seed", lambda folder, **_: {}, thing=object())


@pytest.mark.parametrize("key", ["dev_share", "test_share"])
def test_the_shares_of_held_out_prompts_change_what_stages_are_given(key, config, data, tmp_path):
    for task in ("pointwise", "pairwise"):
        (tmp_path / f"{task}.jsonl").write_text((data / "train" / f"{task}.jsonl").read_text())
    files = [changed(config, f"data.{task}", str(tmp_path / f"{task}.jsonl")) for task in ("pointwise",)]
    one = changed(files[0], "data.pairwise", str(tmp_path / "pairwise.jsonl"))
    one = changed(changed(one, "data.dev_share", 0.3), "data.test_share", 0.3)
    assert given(one, tmp_path)["sft-pointwise"] != given(changed(one, f"data.{key}", 0.5), tmp_path)["sft-pointwise"]


def test_prompts_are_given_to_every_stage_that_shows_them(config, base, monkeypatch, tmp_path):
    edited = {**prompts._shipped(), "pointwise": prompts._shipped()["pointwise"] + "\nBe strict."}
    monkeypatch.setattr(prompts, "_shipped", lambda: edited)
    found = given(config, tmp_path)
    same = {stage for stage in base if found[stage] == base[stage]}
    assert same == {"seed", "merged", "iter-1:curate", "iter-2:curate", "iter-1:decide", "iter-2:decide"}


def test_a_seed_model_changed_in_place_is_another_one(config, base, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    source = {"source": str(copy)}
    before = given(changed(config, "model.source", str(copy)), tmp_path)
    assert {**before["seed"], **source} == {**base["seed"], **source}
    (copy / "model.safetensors").write_text("model.safetensorz")
    assert given(changed(config, "model.source", str(copy)), tmp_path)["seed"] != before["seed"]


def test_rows_are_given_by_content_wherever_they_lie(config, base, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    moved = changed(changed(config, "data.pointwise", str(copy)), "data.pairwise", str(copy))
    found = given(moved, tmp_path)
    # The origin of a row names its file only, and the model card names the data.
    assert {stage for stage in base if found[stage] != base[stage]} <= {"gguf"}
    path = copy / "dev" / "pairwise.jsonl"
    path.write_text(path.read_text().replace("Name four fruits", "List four fruits"))
    found = given(moved, tmp_path)
    decided = {"dev/sft", "dev/j1", "dev/j2", "iter-1:decide", "iter-2:decide"}
    assert {"sft-pairwise", *decided, "gguf"} == {s for s in base if found[s] != base[s]}


def imported(source: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


def test_no_work_reaches_for_settings_that_it_is_not_given():
    training = [path for path in (ROOT / "recipe" / "training").glob("*.py") if path.stem != "publish"]
    for path in (ROOT / "recipe" / "pipeline" / "stage_work.py", *training):
        found = imported(path.read_text())
        assert not found & {"recipe.config.Config", "recipe.config.load"}, path
        assert not {name for name in found if name.startswith("recipe.pipeline.context")}, path


def test_what_is_not_compared_of_a_judge_changes_no_result():
    free = {f.name for kind in (JudgeModel, Loading) for f in fields(kind) if not f.compare}
    assert free == {"threads", "base_model", "report_to", "run"}
