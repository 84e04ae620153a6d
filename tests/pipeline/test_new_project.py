"""`sre init`: from the files that people have to a folder that `sre run` takes."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner, Result

from recipe.cli.main import main
from recipe.config import load
from recipe.data.examples import read_examples
from recipe.judge import Judge
from recipe.pipeline import new_project as module
from recipe.storage import read_json, read_jsonl


@pytest.fixture(autouse=True)
def on_a_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "nvidia_gpus", list)


def sre(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scored(scores: list[Any], name: str = "rows.csv", **renamed: str) -> str:
    """A CSV file as pandas writes it: two answers to each of the questions, scores as floats."""
    questions = [f"Name fruit number {k // 2}." for k in range(len(scores))]
    table = pandas.DataFrame(
        {"question": questions, "answer": ["apple", "brick"] * (len(scores) // 2), "score": scores}
    )
    table.rename(columns=renamed).to_csv(name, index=False)
    return name


def pairs(count: int = 24) -> str:
    rows = [
        {"prompt": f"Name fruit {k}.", "response_a": "apple", "response_b": "brick", "winner": "ab"[k % 2]}
        for k in range(count)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "pairs.jsonl"


def written(folder: str = "mine") -> list[Any]:
    return [row for split in ("train", "dev", "test") for row in read_examples(f"{folder}/data", split=split)]


def test_from_a_csv_of_pandas_to_a_started_run(tiny_model: Path) -> None:
    scored([float(1 + k % 5) for k in range(40)])
    assert ",4.0\n" in Path("rows.csv").read_text()
    made = sre("init", "mine", "rows.csv", "--rubric", "helpfulness")
    assert made.exit_code == 0, made.output
    assert "scores: 1-5" in made.output
    assert "GiB" in made.output
    assert "sre run mine/config.toml" in made.output
    assert [len(read_examples("mine/data", split=split)) for split in ("train", "dev", "test")] == [32, 4, 4]
    prompts = [{row.prompt_id for row in read_examples("mine/data", split=split)} for split in ("train", "dev", "test")]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 20
    config = load("mine/config.toml")
    assert (config.data.pointwise, config.data.pairwise, config.data.tasks) == ("mine/data", "", ("pointwise",))
    assert config.data.train_pointwise is None
    assert (config.sample.inputs, config.rounds.keep) == ((32,), "better")
    tiny = ["--set", f"model.source={tiny_model}", "--set", "model.engine=transformers", "--until", "seed"]
    started = sre("run", "mine/config.toml", *tiny)
    assert started.exit_code == 0, started.output
    assert list(Path("runs/mine").rglob("*done.json"))


@pytest.mark.parametrize("labels", [(0, 1), tuple(range(1, 11)), (1, 2)], ids=["yes-no", "1 to 10", "pairs"])
def test_from_labels_of_one_task_to_a_judge(labels: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    """Scores alone, or pairs alone, with rationales (without: test_bootstrap.py): every stage, DPO too."""
    tiny_model = request.getfixturevalue("tiny_model_to_10" if len(labels) == 10 else "tiny_model")
    if labels == (1, 2):
        table = pandas.read_json(pairs(30), lines=True)
    else:
        table = pandas.read_csv(scored([float(labels[k // 2 % len(labels)]) for k in range(60)]))
    table.assign(feedback="it fits", criteria="Is it a fruit?").to_csv("rows.csv", index=False)
    assert sre("init", "mine", "rows.csv").exit_code == 0
    settings = [f"model.source={tiny_model}", "model.engine=transformers", "sft.learning_rate=2e-3"]
    settings += ["sample.inputs=[16]", "sample.max_tokens=24", "evaluate.max_tokens=24", "evaluate.resamples=100"]
    settings += ["iterations=1", "rounds.keep=all", "export.types=['Q8_0']", "threads=1"]
    made = sre("run", "mine/config.toml", *(part for setting in settings for part in ("--set", setting)))
    assert made.exit_code == 0, made.output
    assert f"Your judge: {Path('runs/mine/judge.gguf')}" in made.output
    assert "Round 1 is kept" in made.output
    assert read_json(Path("runs/mine/iter-1/dpo.done.json"))["pairs"] > 0
    assert not list(Path("runs/mine").glob("*merged*"))
    row = read_examples("mine/data", split="test")[0]
    with Judge.from_gguf("runs/mine/judge.gguf", threads=1) as judge:
        (found,) = judge.judge([row])
    assert found.label in row.labels == labels
    assert set(found.label_probabilities) == set(labels)
    assert sum(found.label_probabilities.values()) == pytest.approx(1)
    if len(labels) == 10:
        samples = read_jsonl(Path("runs/mine/iter-1/samples.jsonl"))
        drawn = {one["label"] for one in samples}
        assert drawn <= {None, *labels}
        assert {1, 10} <= drawn
        assert all(one["text"].endswith("[RESULT] 10") for one in samples if one["label"] == 10)
        verdicts = read_jsonl(Path("runs/mine/evaluation/j1/judgements.jsonl"))
        assert all(len(one["label_logprobs"]) == 10 for one in verdicts)


def test_pairs_alone() -> None:
    result = sre("init", "mine", pairs())
    assert result.exit_code == 0, result.output
    assert load("mine/config.toml").data.tasks == ("pairwise",)
    assert {row.task for row in written()} == {"pairwise"}


def test_both_tasks_with_rationales_need_no_others() -> None:
    pairs()
    rows = [json.loads(line) | {"feedback": "It fits."} for line in Path("pairs.jsonl").read_text().splitlines()]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pandas.read_csv(scored([1.0, 5.0] * 12)).assign(feedback="It is a fruit.", criteria="Is it a fruit?")
    table.to_csv("rows.csv", index=False)
    assert sre("init", "mine", "rows.csv", "pairs.jsonl").exit_code == 0
    config = load("mine/config.toml")
    assert config.data.tasks == ("pointwise", "pairwise")
    assert module.NO_RATIONALES not in Path("mine/config.toml").read_text()
    assert not config.sft.label_only


def test_rows_without_rationales_are_trained_on_all_the_same() -> None:
    sre("init", "mine", pairs())
    assert module.NO_RATIONALES in Path("mine/config.toml").read_text()


@pytest.mark.parametrize(
    ("scores", "labels", "margin"),
    [
        ([0, 1], (0, 1), 1),
        ([1, 2, 3], (1, 2, 3), 1),
        ([1, 4], (1, 2, 3, 4, 5), 1),
        ([0, 5], (0, 1, 2, 3, 4, 5), 1),
        ([1, 6], (1, 2, 3, 4, 5, 6, 7), 1),
        ([1, 10], tuple(range(1, 11)), 1),
        ([0, 10], tuple(range(11)), 1),
    ],
)
def test_scales(scores: list[int], labels: tuple[int, ...], margin: int) -> None:
    file = scored([float(scores[k % len(scores)]) for k in range(24)])
    assert sre("init", "mine", file, "--rubric", "Is it a fruit?").exit_code == 0
    rows = written()
    assert {row.labels for row in rows} == {labels}
    assert {row.label for row in rows} == set(scores)
    assert load("mine/config.toml").curate.margin == margin


def test_a_ready_rubric_lends_its_descriptions_where_they_fit() -> None:
    file = scored([1.0, 3.0] * 12)
    assert "scores: 1-5" in sre("init", "mine", file, "--rubric", "helpfulness").output
    assert "scores: 0-1" in sre("init", "other", scored([0.0, 1.0] * 12), "--rubric", "helpfulness").output
    (mine,), (other,) = ({row.rubric.descriptions[1] for row in written(name)} for name in ("mine", "other"))
    assert mine != other == "The response meets the criteria fully."


def test_a_preset_is_planned_for_its_card() -> None:
    large = sre("init", "large", pairs(), "--preset", "24gb-llama3.1-8b")
    assert large.exit_code == 0
    assert "RTX 4090" in large.output
    assert "no such card" in large.output


def test_few_rows_are_told_before_they_are_trained_on() -> None:
    few, many = sre("init", "few", pairs(24)).output, sre("init", "many", pairs(300)).output
    assert few.count("warning:") == 2
    assert "warning:" not in many
    held = [len(read_examples("few/data", split=split)) for split in ("train", "dev", "test")]
    told = next(line for line in Path("few/config.toml").read_text().splitlines() if "whole prompts" in line)
    assert [int(word) for word in told.split() if word.isdigit()] == held


def test_descriptions_that_do_not_fit_the_scores_are_told() -> None:
    fitting = sre("init", "fitting", scored([1.0, 5.0] * 12), "--rubric", "helpfulness").output
    other = sre("init", "other", scored([1.0, 10.0] * 12), "--rubric", "helpfulness").output
    assert "helpfulness: its descriptions" in other
    assert "helpfulness: its descriptions" not in fitting


def test_a_project_runs_and_shows_its_run_from_any_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data is found beside its config, and the run goes by the project's name in the status too."""
    assert sre("init", "mine", pairs()).exit_code == 0
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    for config in ("../mine", tmp_path / "mine/config.toml"):
        assert load(config).data.pairwise == "../mine/data"
    assert load("../mine", ["data.pairwise=mine/data"]).data.pairwise == "mine/data"
    assert sre("status", "../mine/config.toml").exit_code == 2
    tiny = ["--set", f"model.source={tiny_model}", "--set", "model.engine=transformers", "--until", "seed"]
    assert sre("run", "../mine/config.toml", *tiny).exit_code == 0
    shown = sre("status", "runs/mine").output
    assert shown.strip()
    assert sre("status", "../mine").output == sre("status", "../mine/config.toml").output == shown


def test_criteria_in_a_column_take_any_scale_too() -> None:
    table = pandas.read_csv(scored([0.0, 1.0] * 12)).assign(criteria="Is it a fruit?")
    table.to_csv("rows.csv", index=False)
    assert sre("init", "mine", "rows.csv").exit_code == 0
    assert {row.labels for row in written()} == {(0, 1)}


def test_an_odd_column_gives_a_ready_line() -> None:
    file = scored([1.0, 5.0] * 12, answer="said by it", score="stars")
    result = sre("init", "mine", file)
    assert result.exit_code == 2
    assert "columns found: question, said by it, stars" in result.stderr
    assert "--map response='said by it' --rubric helpfulness" in result.stderr
    result = sre("init", "mine", file, "--map", "response=said by it", "--rubric", "helpfulness")
    assert "--map score=stars" in result.stderr
    line = ("--map", "response=said by it", "--rubric", "helpfulness", "--map", "score=stars")
    assert sre("init", "mine", file, *line).exit_code == 0


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (
            [1.0, 3.5] * 12,
            "rows.csv, line 3, field 'score': off the scale: expected a whole score from 0 to 10",
        ),
        (
            [1.0, 87.0] * 12,
            "rows.csv, line 3, field 'score': off the scale: expected a whole score from 0 to 10, not '87.0'",
        ),
        ([None] * 24, "rows.csv, line 2, field 'score': the label is missing"),
        ([1.0, 2.0], "rows.csv: none of its prompts (1)"),
        ([5.0] * 24, "all scores are 5"),
    ],
)
def test_bad_rows_write_nothing(scores: list[Any], told: str) -> None:
    result = sre("init", "mine", scored(scores), "--rubric", "helpfulness")
    assert result.exit_code == 2
    assert told in result.stderr
    assert not Path("mine").exists()
    assert not Path(".mine.tmp").exists()


def test_nothing_is_overwritten() -> None:
    Path("mine").mkdir()
    assert sre("init", "mine", pairs()).exit_code == 0
    before = Path("mine/config.toml").read_bytes()
    result = sre("init", "mine", pairs())
    assert (result.exit_code, "is there already" in result.stderr) == (2, True)
    assert Path("mine/config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("gpu", "preset"),
    [
        ("NVIDIA GeForce RTX 4090, 24564, 570.1", "24gb-qwen2-7b"),
        ("NVIDIA GeForce RTX 3060, 12288, 570.1", "12gb-qwen3-4b"),
        ("Tesla T4, 15360, 570.1", "t4-qwen2.5-1.5b"),
        ("NVIDIA GeForce RTX 4060, 8188, 570.1", "t4-qwen2.5-1.5b"),
        ("NVIDIA H200, 143771, 570.1", "24gb-qwen2-7b"),
    ],
)
def test_the_card_decides_the_preset(gpu: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_gpus", lambda: [gpu])
    result = sre("init", "mine", pairs())
    assert result.exit_code == 0, result.output
    assert f"preset: {preset}" in result.output
    assert f"it fits {gpu.split(',')[0]}" in result.output
    config = tomllib.loads(Path("mine/config.toml").read_text())
    assert "test_split" not in config["data"]
    assert "dev_share" not in config["data"]
    assert (
        config["data"]["train_pairwise"]
        == tomllib.loads((module.CONFIGS / f"{preset}.toml").read_text())["data"]["train_pairwise"]
    )


def test_a_card_whose_memory_is_not_known_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_gpus", lambda: ["NVIDIA GB10, [N/A], 580.1"])
    assert "preset: cpu-smollm2-135m" in sre("init", "mine", pairs()).output


def test_long_rows_raise_the_length_on_a_cpu() -> None:
    table = pandas.read_csv(scored([1.0, 5.0] * 12))
    table.assign(answer=table["answer"] + " and more" * 300).to_csv("rows.csv", index=False)
    assert sre("init", "mine", "rows.csv", "--rubric", "helpfulness").exit_code == 0
    assert 1000 < load("mine/config.toml").model.max_length <= 2048


def test_an_empty_cell_is_no_column_that_is_not_recognised() -> None:
    table = pandas.read_csv(scored([1.0, 5.0] * 12))
    table.loc[3, "question"] = None
    table.to_csv("rows.csv", index=False)
    for more in ((), ("--map", "instruction=question")):
        result = sre("init", "mine", "rows.csv", "--rubric", "helpfulness", *more)
        assert result.exit_code == 2
        assert "rows.csv, line 5, field 'question'" in result.stderr
        assert "empty" in result.stderr
        assert "Add for example" not in result.stderr


def test_an_interrupted_run_prints_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    sre("init", "my rows", pairs())
    monkeypatch.setattr("recipe.pipeline.stage_order.run_pipeline", interrupted)
    arguments = ["run", "my rows/config.toml", "--set", "sample.n=2"]
    monkeypatch.setattr("sys.argv", ["sre", *arguments])
    stopped = sre(*arguments)
    assert stopped.exit_code == 130
    assert shlex.split(stopped.stderr.partition("To go on: ")[2]) == ["sre", *arguments]
