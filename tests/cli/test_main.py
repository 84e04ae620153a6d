"""The command line: help with examples for every command, and bad input as one line on stderr with exit code 2."""

from __future__ import annotations

import json
import shlex

import click
import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.config import load, presets

ROW = {
    "orig_instruction": "Name two fruits.",
    "orig_response": "apple and brick",
    "orig_criteria": "Are both fruits?",
    **{f"orig_score{k}_description": f"level {k}" for k in range(1, 6)},
    "orig_score": "3",
    "orig_feedback": "One of them is.",
}
PAIR = {key: value for key, value in ROW.items() if key not in ("orig_response", "orig_score")} | {
    "orig_response_A": "apple and pear",
    "orig_response_B": "apple and brick",
    "orig_preference": "A",
}


def sre(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name):
    command = main.commands[name]
    assert isinstance(command, click.Command)
    result = sre(name, "--help")
    assert result.exit_code == 0
    assert f"sre {name}" in result.output.partition("Examples:")[2]


def test_config_lists_the_presets_and_prints_one_resolved():
    assert sre("config").output.split() == presets()
    assert "n = 3" in sre("config", "tiny", "--set", "sample.n=3").output


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run_with(tmp_path, tiny_model, *, pointwise=(ROW,), pairwise=(PAIR,), until="sft-pointwise", extra=()):
    """`sre run tiny` on the given rows, none of them held out; stops at the first stage that trains on them."""
    files = (write(tmp_path / "point.jsonl", *pointwise), write(tmp_path / "pair.jsonl", *pairwise))
    overrides = [f'model.source="{tiny_model}"', f'data.pointwise="{files[0]}"', f'data.pairwise="{files[1]}"']
    overrides += ["data.dev_split=", "data.test_split=", *extra]
    options = [part for item in overrides for part in ("--set", item)]
    return sre("run", "tiny", "--run-dir", tmp_path / "run", "--until", until, *options)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    for part in parts:
        assert part in message, message


def test_an_unknown_config_key_is_named():
    refused(sre("run", "tiny", "--set", "sample.m=3"), "tiny.toml", "sample.m", "unknown setting")


def test_a_wrong_type_is_named():
    refused(sre("run", "tiny", "--set", "sample.n='many'"), "tiny.toml", "sample.n")


def test_a_missing_config_is_named():
    refused(sre("run", "nowhere.toml"), "nowhere.toml", "no such config file")


def test_an_unknown_stage_is_named(tmp_path):
    refused(sre("run", "tiny", "--run-dir", tmp_path, "--until", "distil"), "distil", "sft-pointwise")


def changed(**fields):
    return {key: value for key, value in {**ROW, **fields}.items() if value is not None}


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["point.jsonl"]),
        ([ROW, "{broken"], ["point.jsonl", "line 2"]),
        ([ROW, changed(orig_criteria=None)], ["line 2", "orig_criteria"]),
        ([changed(orig_score="0")], ["line 1", "orig_score", "0"]),
        ([changed(orig_score="6")], ["line 1", "orig_score", "6"]),
        ([changed(orig_score="five")], ["line 1", "orig_score", "five"]),
        ([changed(orig_score=3.5)], ["line 1", "orig_score", "3.5"]),
        ([changed(orig_response=[7])], ["line 1", "orig_response"]),
        ([changed(orig_feedback="")], ["orig_feedback", "rationale"]),
        ([changed(id="a"), changed(id="a")], ["line 2", "id"]),
    ],
    ids=["empty", "invalid JSON", "missing column", "0", "6", "five", "3.5", "wrong type", "no rationale", "same id"],
)
def test_a_bad_pointwise_row_names_its_place(rows, parts, tmp_path, tiny_model):
    refused(run_with(tmp_path, tiny_model, pointwise=rows), *parts)
    assert not list(tmp_path.rglob("*done.json")), "a stage ran before the rows were read"


def test_a_bad_preference_names_its_place(tmp_path, tiny_model):
    bad = PAIR | {"orig_preference": "C"}
    refused(
        run_with(tmp_path, tiny_model, pairwise=[PAIR, bad], until="sft-pairwise"), "line 2", "orig_preference", "'C'"
    )
    assert not list(tmp_path.rglob("*done.json")), "a stage ran before the rows were read"


def test_a_missing_reference_answer_is_fine_and_a_missing_file_is_not(tmp_path, tiny_model):
    result = run_with(tmp_path, tiny_model, extra=["data.pointwise=gone.jsonl"])
    refused(result, "gone.jsonl")


def test_a_run_on_unrecognised_columns_names_commands_that_work(tmp_path, tiny_model, monkeypatch):
    """As a newcomer would: each error names the next command, the last one starts the run."""
    monkeypatch.chdir(tmp_path)
    lines = [f"Name {k} fruits.,apple,{k % 5 + 1},It names one.\n" for k in range(12)]
    (tmp_path / "my rows.csv").write_text("asked,reply,mark,feedback\n" + "".join(lines))
    begin = ["run", "tiny", "--until", "sft-pointwise", "--run-dir", "run", "--set", f"model.source={tiny_model}"]
    begin += ["--set", "data.pointwise=my rows.csv"]
    for command in (begin, ["plan", *begin[1:2], *begin[6:]]):
        told = sre(*command)
        refused(told, "columns found: asked, reply, mark, feedback", "then add --set data.pointwise=DIR")
    words = shlex.split(told.stderr.partition("Prepare the rows: sre ")[2].partition("; then")[0])
    assert words[:4] == ["split", "my rows.csv", "-o", "DIR"]
    told = sre(*words)
    refused(told, "the label is missing", "Add for example: --map score=mark")
    words += shlex.split(told.stderr.partition("Add for example: ")[2])
    result = sre(*words, "--dev", "0.2", "--test", "0.2")
    assert result.exit_code == 0, result.output
    started = sre(*begin, "--set", "data.pointwise=DIR")
    assert started.exit_code == 0, started.output


def test_bad_rows_are_set_aside_when_asked(tmp_path, tiny_model):
    rows = [changed(id=str(k)) for k in range(4)] + [changed(orig_score="9")]
    result = run_with(tmp_path, tiny_model, pointwise=rows, extra=["data.skip_bad_rows=true"])
    assert result.exit_code == 0, result.output
    (reject,) = (tmp_path / "run" / "rejects-train-pointwise.jsonl").read_text().splitlines()
    assert json.loads(reject)["line"] == 5


def test_rows_longer_than_the_context_are_counted_and_never_cut(tmp_path, tiny_model):
    long = changed(orig_response="word " * 3000)
    result = run_with(tmp_path, tiny_model, pointwise=[ROW, long])
    assert result.exit_code == 0, result.output
    marker = json.loads((tmp_path / "run" / "sft-pointwise" / "done.json").read_text())
    assert (marker["rows"], marker["too_long"]) == (1, 1)


@pytest.mark.parametrize("source", ["empty-folder", "text.gguf"])
def test_a_model_path_that_is_no_model_is_named(source, tmp_path):
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "text.gguf").write_text("no model")
    path = tmp_path / source
    refused(sre("run", "tiny", "--run-dir", tmp_path / "run", "--set", f'model.source="{path}"'), source)


def test_an_adapter_that_is_not_what_the_stage_made_is_refused(tmp_path, tiny_model):
    import torch
    from safetensors.torch import load_file, save_file

    result = run_with(tmp_path, tiny_model, until="merged")
    assert result.exit_code == 0, result.output
    path = tmp_path / "run" / "merged" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(tensors[name].shape[0], 7)
    save_file(tensors, path)
    refused(
        sre("stage", "iter-1:sample", tmp_path / "run"), "adapter_model.safetensors", "changed since stage 'merged'"
    )


def test_a_folder_that_is_no_run_is_named(tmp_path):
    refused(sre("status", tmp_path), "not a run folder")
    refused(sre("stage", "merged", tmp_path), "not a run folder")


def test_judging_with_a_file_that_is_no_judge_is_refused(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ROW)
    missing = sre("judge", rows, "-o", tmp_path / "out.jsonl", "--model", tmp_path / "gone.gguf")
    refused(missing, "gone.gguf", "no such model file")
    (tmp_path / "text.gguf").write_text("not a model")
    refused(sre("judge", rows, "-o", tmp_path / "out.jsonl", "--model", tmp_path / "text.gguf"), "text.gguf")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_default_config_of_the_quickstart_is_the_embedded_model():
    config = load("cpu-smollm2-135m")
    assert (config.model.source, config.data.source("pairwise"), config.iterations) == (
        "smollm2-135m",
        "seed-data:counted",
        2,
    )


def test_evaluate_wants_a_judge_of_a_run_or_a_model_and_not_both(tmp_path):
    refused(sre("evaluate", "rewardbench"), "--judge", "--model")
    refused(sre("evaluate", tmp_path, "--judge", "j2", "--model", "judge.gguf"), "--judge", "--model")
    refused(sre("evaluate", tmp_path, "--judge", "j2"), "not a run folder")
    for *option, named in (
        ("--no-constrain", "--constrain"),
        ("--context", 99, "--context"),
        ("--max-tokens", 9, "--max-tokens"),
        ("--map", "response=text", "--map"),
        ("--limit", 2, "--limit"),
    ):
        result = sre("evaluate", tmp_path, "--judge", "j2", *option)
        assert (result.exit_code, f"{named} needs --model" in result.stderr) == (2, True), result.stderr
    forged = sre("evaluate", "rewardbench", "--model", "judge.gguf", "--forgery", "--label-only")
    assert "--label-only does not go with --forgery" in forged.stderr
    refused(sre("evaluate", tmp_path, "--judge", "j2", "--forgery", "--limit", 2), "not a run folder")
    refused(sre("evaluate", "rewardbank", "--model", "judge.gguf"), "no benchmark", "rewardbench-pairwise", "llmbar")
    refused(sre("evaluate", "rewardbench", "--model", tmp_path / "gone.gguf"), "gone.gguf", "no such model file")


def test_evaluate_shows_a_benchmarks_figures_and_where_they_are(tmp_path, monkeypatch):
    from recipe.evaluation import models
    from recipe.judge import Judge
    from tests.scripted import ScriptedGenerator

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "open_judge", lambda model, **options: Judge(ScriptedGenerator(), name=model))
    rows = write(tmp_path / "rows.jsonl", *(changed(id=str(k), orig_score=str(k % 5 + 1)) for k in range(30)))
    result = sre("evaluate", rows, "--model", "mine", "--limit", 25)
    assert result.exit_code == 0, result.output
    for part in ("Pearson, expected score", "label forced", "25 rows; 25 judgements", "n=25"):
        assert part in result.output
    assert len(list(tmp_path.glob("runs/benchmarks/*rows-mine/figures.json"))) == 1


def test_evaluate_measures_how_far_claims_move_any_model(tmp_path, monkeypatch):
    from recipe.evaluation import models
    from recipe.judge import Judge
    from tests.scripted import ScriptedGenerator

    def gullible(request):
        return [f"A reason. [RESULT] {5 if ':forged:' in request.id else 2}"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "open_judge", lambda model, **options: Judge(ScriptedGenerator(gullible), name=model))
    rows = write(tmp_path / "rows.jsonl", *(changed(id=str(k), orig_score=str(k % 4 + 1)) for k in range(12)))
    result = sre("evaluate", rows, "--model", "mine", "--forgery")
    assert result.exit_code == 0, result.output
    (file,) = tmp_path.glob("runs/benchmarks/*rows-mine/forgery.json")
    shifts = json.loads(file.read_text())
    assert [shifts[mode]["pointwise"]["shift"]["value"] for mode in ("rationale", "label-only")] == [3, 3]
