"""A run on rows with labels alone: the seed model writes their rationales, for one task alone and for both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipe.config import load
from recipe.errors import SreError
from recipe.pipeline import preflight, stage_work
from recipe.pipeline.context import RunContext
from recipe.pipeline.stage_order import run_pipeline, run_stage, steps
from recipe.planning.machines import reference
from recipe.planning.plan import make_plan
from recipe.storage import read_jsonl

BOOTSTRAP = ['sft.rationales="bootstrap"', "bootstrap.n=3", "bootstrap.block=4", "iterations=0"]


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny rows without rationales; one training row of each task keeps its own."""
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("labels") / "data")
    for path in folder.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row | {"orig_feedback": ""} for row in rows[:-1]] + rows[-1:]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def settings(model: Path, data: Path, task: str = "pointwise") -> list[str]:
    other = "pairwise" if task == "pointwise" else "pointwise"
    return [f'model.source="{model}"', f'data.{task}="{data}"', f'data.{other}=""', f"data.train_{task}=24", *BOOTSTRAP]


@pytest.fixture(scope="module")
def finished(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on scored rows alone."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_pipeline(load("tiny", settings(tiny_model, data)), folder)
    return folder


def marker(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "done.json").read_text(encoding="utf-8"))


def test_a_judge_is_trained_from_scored_rows_alone(finished: Path) -> None:
    assert (finished / "judge.gguf").is_file()
    facts = marker(finished, "bootstrap-pointwise")
    kept = read_jsonl(finished / "bootstrap-pointwise" / "rationales.jsonl")
    assert facts["rows"] == 23
    assert facts["unhinted"] + facts["hinted"] == len(kept) == 23 - facts["without"] > 0
    drawn = sum(len(read_jsonl(finished / "bootstrap-pointwise" / n / "samples.jsonl")) for n in ("unhinted", "hinted"))
    assert sum(facts["dropped"].values()) + len(kept) == drawn
    assert "malformed" not in facts["dropped"]
    for row in kept:
        assert row["label"] == row["truth"]
        assert row["rationale"].startswith("The response ")
        assert row["origin"] in ("seed", "seed, told the label")
    # The row with a rationale of its own is trained on too.
    assert marker(finished, "sft-pointwise")["rows"] == len(kept) + 1


def test_killed_in_its_midst_and_resumed_equals_uninterrupted(
    finished: Path, tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe.training import sample

    write, config, calls = sample.write_jsonl, load("tiny", settings(tiny_model, data)), []

    def killed(*given):
        write(*given)
        calls.append(given)
        if len(calls) in (2, 5, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(sample, "write_jsonl", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config, tmp_path, until="bootstrap-pointwise")
    monkeypatch.setattr(sample, "write_jsonl", write)
    run_pipeline(config, tmp_path, until="bootstrap-pointwise")
    for name in ("unhinted/samples", "hinted/samples", "rationales"):
        path = Path("bootstrap-pointwise") / f"{name}.jsonl"
        assert (tmp_path / path).read_bytes() == (finished / path).read_bytes()
    assert marker(tmp_path, "bootstrap-pointwise")["hash"] == marker(finished, "bootstrap-pointwise")["hash"]


def test_its_settings_and_nothing_else_make_it_another_stage(finished: Path, tiny_model: Path, data: Path) -> None:
    given = settings(tiny_model, data)
    for changed in ("bootstrap.n=2", "bootstrap.temperature=0.7", "bootstrap.max_tokens=64", "bootstrap.keep=2"):
        with pytest.raises(SreError, match=changed.split("=")[0].replace(".", r"\.")):
            run_pipeline(load("tiny", [*given, changed]), finished, until="bootstrap-pointwise")
    before = marker(finished, "bootstrap-pointwise")["finished"]
    run_pipeline(load("tiny", [*given, "lora.r=8"]), finished, until="bootstrap-pointwise")
    run_pipeline(load("tiny", given), finished, until="bootstrap-pointwise")
    assert marker(finished, "bootstrap-pointwise")["finished"] == before


def test_a_gguf_teacher_writes_them_and_is_named(finished: Path, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    teacher = shutil.copy(finished / "gguf" / "seed.gguf", tmp_path / "big.gguf")
    config = load("tiny", [*settings(tiny_model, data, "pairwise"), f'bootstrap.teacher="{teacher}"'])
    run_pipeline(config, tmp_path / "run", until="bootstrap-pairwise")
    facts = marker(tmp_path / "run", "bootstrap-pairwise")
    assert facts["maker"] == "big"
    assert facts["rows"] == 23
    assert facts["settings"]["teacher"].keys() == {"big.gguf"}


def test_a_teacher_behind_an_address_is_asked(tiny_model: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    from recipe.inference import openai
    from tests.scripted import ScriptedGenerator

    asked = []

    def server(address, *, model, parallel):
        asked.append((address, model))
        return ScriptedGenerator(
            lambda r: [f"It is as good as {r.id} can be. [RESULT] {k}" for k in r.labels], name="large"
        )

    monkeypatch.setattr(openai, "OpenAIGenerator", server)
    teacher = ['bootstrap.teacher="http://127.0.0.1:8000/v1"', 'bootstrap.teacher_model="large"', "bootstrap.n=5"]
    config = load("tiny", [*settings(tiny_model, data), *teacher])
    run_pipeline(config, tmp_path, until="sft-pointwise")
    assert asked == [("http://127.0.0.1:8000/v1", "large")]
    facts = marker(tmp_path, "bootstrap-pointwise")
    assert (facts["maker"], facts["unhinted"], facts["without"]) == ("large", 23, 0)
    assert marker(tmp_path, "sft-pointwise")["rows"] == 24


def test_the_refusal_of_rows_without_rationales_names_the_setting(tiny_model: Path, tiny_data: Path, tmp_path: Path):
    rows = [json.loads(line) for line in (tiny_data / "train" / "pointwise.jsonl").read_text().splitlines()]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row | {"orig_feedback": ""}) + "\n" for row in rows))
    given = settings(tiny_model, path)
    with pytest.raises(SreError, match=r'sft\.rationales = "bootstrap"'):
        run_pipeline(load("tiny", [*given, "sft.rationales=given"]), tmp_path / "run")
    (said, _) = preflight.preflight(RunContext(load("tiny", given), tmp_path / "run"))
    assert "20 without a rationale, which is bootstrapped" in said


def test_settings_that_can_not_work_are_refused_before_anything_is_made(tiny_model: Path, data: Path, tmp_path: Path):
    given = settings(tiny_model, data)
    with pytest.raises(SreError, match=r"bootstrap\.teacher.*no such file"):
        run_pipeline(load("tiny", [*given, "bootstrap.teacher=none.gguf"]), tmp_path)
    labels = load("tiny", [*given, "sft.label_only=true"])
    assert "bootstrap-pointwise" not in dict(steps(RunContext(labels, tmp_path)))


def test_where_no_rationale_is_kept_sft_says_what_to_change(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rationales.jsonl").touch()

    class Nothing:
        path = tmp_path / "rationales.jsonl"

    given = {"loading": None, "model": None, "prompts": None, "seed": 0}
    with pytest.raises(SreError, match=r"raise bootstrap\.n, or name a better bootstrap\.teacher"):
        stage_work.bootstrapped_sft(tmp_path, examples=[], rationales=[Nothing], **given)


def test_the_plan_has_the_stages_of_the_run(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    both = [f'data.pairwise="{data}"', *settings(tiny_model, data)[:2], *BOOTSTRAP]
    config = load("tiny", both)
    names = list(dict(steps(RunContext(config, tmp_path))))
    assert names[1:5] == ["bootstrap-pointwise", "bootstrap-pairwise", "sft-pointwise", "sft-pairwise"]
    plan = make_plan(config, machine=reference())
    planned = [stage.stage for stage in plan.stages]
    assert planned[:5] == names[:5]
    assert all(stage.seconds > 0 for stage in plan.stages[1:3])
    assert plan.stages[1].work.startswith("16 rows x 3") or plan.stages[1].work.startswith("15 rows x 3")


def test_one_stage_after_another(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    run_pipeline(load("tiny", settings(tiny_model, data)), tmp_path, until="seed")
    with pytest.raises(SreError, match="needs stage 'bootstrap-pointwise'"):
        run_stage(tmp_path, "sft-pointwise")
