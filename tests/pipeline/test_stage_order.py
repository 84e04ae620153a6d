"""The whole recipe on a tiny model: every stage leaves what it should, twice is once, killed is uninterrupted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from recipe import prompts
from recipe.cli.main import main
from recipe.config import load
from recipe.errors import SreError
from recipe.gguf.header import read_header
from recipe.pipeline.context import RunContext
from recipe.pipeline.stage_order import open_run, run_pipeline, run_stage
from recipe.storage import read_jsonl


def settings(model: Path, data: Path) -> list[str]:
    return [f'model.source="{model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"']


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_data, tmp_path_factory):
    """The run folder of an uninterrupted run of the tiny preset, made by the command, and how long it took (s)."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    started = time.monotonic()
    _start(folder, tiny_model, tiny_data).wait()
    assert (folder / "results.json").exists(), (folder.parent / "log").read_text()[-3000:]
    return folder, time.monotonic() - started


def _start(folder: Path, model: Path, data: Path) -> subprocess.Popen[bytes]:
    overrides = [part for item in settings(model, data) for part in ("--set", item)]
    command = [sys.executable, "-m", "recipe.cli", "run", "tiny", "--run-dir", str(folder), *overrides]
    with (folder.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def largest_difference(ours: Path, theirs: Path) -> float:
    """The largest difference between two weights of two stages' adapters."""
    from safetensors.torch import load_file

    found, wanted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (ours, theirs))
    return max(float((found[key] - value).abs().max()) for key, value in wanted.items())


def test_every_stage_leaves_its_files_and_no_half_written_ones(finished):
    found = listing(finished[0])
    for name in (
        "config.toml",
        "results.json",
        "judge.gguf",
        "seed/done.json",
        "sft-pointwise/adapter/adapter_model.safetensors",
        "sft-pairwise/training.json",
        "merged/merge.json",
        "iter-1/samples.jsonl",
        "iter-1/preferences.jsonl",
        "iter-1/dropped.jsonl",
        "iter-2/adapter/adapter_config.json",
        "gguf/judge-Q8_0.gguf",
        "gguf/Modelfile",
        "gguf/README.md",
        "evaluation/j2/judgements.jsonl",
        "evaluation/seed/figures.json",
    ):
        assert name in found
    assert not [name for name in found if ".tmp" in name or "started" in name or "checkpoint" in name]


def test_what_people_take_from_a_run_names_no_folder_of_this_machine(finished, tiny_model):
    run = finished[0]
    adapters = sorted(run.rglob("adapter_config.json"))
    assert len(adapters) == 5
    for path in adapters:
        base = json.loads(path.read_text())["base_model_name_or_path"]
        assert (path.parent / base).resolve() == run / "seed" / "model"
    taken = [*adapters, *run.rglob("README.md"), *run.rglob("Modelfile*"), *run.glob("seed/model/*.json")]
    texts = {path: path.read_text() for path in taken}
    texts |= {path: str(read_header(path).strings) for path in run.rglob("*.gguf")}
    for path, text in texts.items():
        assert not [part for part in (run, tiny_model) if str(part.parent) in text], path


def test_results_hold_every_judge_and_the_cost_of_every_stage(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert list(results["models"]) == ["seed", "seed-constrained", "sft", "j1", "j2"]
    pointwise = results["models"]["j2"]["pointwise"]
    assert {"n", "malformed", "pearson", "accuracy"} <= pointwise.keys()
    assert {"value", "low", "high"} <= pointwise["accuracy"].keys()
    assert results["models"]["seed-constrained"]["pointwise"]["malformed"] == 0
    assert {"sft - seed-constrained", "j2 - sft", "j1 - sft"} == results["differences"].keys()
    for cost in results["stages"].values():
        assert {"wall_s", "tokens", "peak_rss_mb"} == cost.keys()
        assert cost["peak_rss_mb"] > 0


def test_samples_and_pairs_keep_the_promises_of_the_recipe(finished):
    config = load("tiny")
    for t, inputs in ((1, 8), (2, 8)):
        samples = read_jsonl(finished[0] / f"iter-{t}" / "samples.jsonl")
        assert len(samples) == inputs * config.sample.n
        assert {row["task"] for row in samples} == {"pointwise", "pairwise"}
        assert {row["origin"] for row in samples} == {"sft" if t == 1 else "j1"}
        by_id = {row["id"]: row for row in samples}
        pairs = read_jsonl(finished[0] / f"iter-{t}" / "preferences.jsonl")
        assert pairs
        for pair in pairs:
            assert pair["chosen"] == by_id[pair["chosen"]["id"]]
            assert pair["chosen"]["label"] == pair["chosen"]["truth"] != pair["rejected"]["label"]
        used = {pair["example_id"] for pair in pairs}
        lost = {row["example_id"] for row in read_jsonl(finished[0] / f"iter-{t}" / "dropped.jsonl")}
        assert used | lost == {row["example_id"] for row in samples}
        assert used.isdisjoint(lost)


def test_sampled_log_probabilities_are_those_of_training(finished, tmp_path):
    """Within 0.1 nat a completion: the sampler runs the model that DPO trains."""
    import torch

    from recipe.config import DpoConfig
    from recipe.inference.base import Request, Sampling
    from recipe.training.dpo import make_trainer
    from recipe.training.trainer import completion_ids, prompt_ids
    from tests.model_fixtures import open_training

    run, folder = open_run(finished[0]), finished[0]
    prompts = {row.id: run.prompts.judge(row) for row in run.inputs(1)}
    with run.judge_model("sft", sampling=True).open() as generator:
        sampling = Sampling(n=4, max_tokens=24, alternatives=0)
        drawn = list(generator.generate([Request(name, prompt) for name, prompt in prompts.items()], sampling))
    drawn = [completion for completion in drawn if completion.finish == "stop"]
    adapter = folder / "merged" / "adapter"
    training = open_training(tmp_path, folder / "seed" / "model", DpoConfig(checkpoints=0), adapter=adapter)
    model, tokenizer = training.model, training.tokenizer
    rows = []
    for completion in drawn:
        ids = completion_ids(tokenizer, completion.text)
        prompt = prompt_ids(tokenizer, prompts[completion.request_id])
        rows.append({"prompt_ids": prompt, "chosen_ids": ids, "rejected_ids": ids})
    training.put(rows)
    trainer = make_trainer(training)
    with torch.no_grad():
        logps = trainer.token_logps(model.eval(), trainer.data_collator(rows))
    gaps = [
        abs(sum(token.logprob for token in completion.tokens) - float(trained[: len(row["chosen_ids"]) - 1].sum()))
        for completion, row, trained in zip(drawn, rows, logps, strict=False)  # the second half is that of rejected_ids
        if list(completion.token_ids) == row["chosen_ids"]
    ]
    assert len(gaps) >= 0.8 * len(drawn) > 3
    assert max(gaps) < 0.1


def test_dpo_moved_the_weights_and_starts_from_the_judge_before(finished):
    from safetensors.torch import load_file

    merged, j1, j2 = (
        load_file(finished[0] / name / "adapter" / "adapter_model.safetensors")
        for name in ("merged", "iter-1", "iter-2")
    )
    assert merged.keys() == j1.keys() == j2.keys()
    assert all(merged[name].shape == j1[name].shape for name in merged)
    assert any(not merged[name].equal(j1[name]) for name in merged)
    assert any(not j1[name].equal(j2[name]) for name in merged)
    history = json.loads((finished[0] / "iter-1" / "training.json").read_text())["history"]
    # The reference is J_t itself: before the first step no side is preferred and the loss is log 2.
    assert history[0]["loss"] == pytest.approx(0.693, abs=0.02)


def test_a_second_run_changes_nothing(finished, tiny_model, tiny_data):
    folder = finished[0]
    before = {name: (folder / name).stat().st_mtime_ns for name in listing(folder) if "results" not in name}
    run_pipeline(load("tiny", settings(tiny_model, tiny_data)), folder)
    changed = {n for n in listing(folder) if "results" not in n and (folder / n).stat().st_mtime_ns != before.get(n)}
    assert changed <= {"config.toml", ".lock"}


def test_a_snapshot_of_other_weights_is_written_anew(finished):
    from recipe.gguf.header import read_metadata

    run = open_run(finished[0])
    sft, j1 = run.judge_model("sft"), run.judge_model("j1")
    path = sft.write_snapshot()
    written = path.stat().st_mtime_ns
    assert sft.write_snapshot().stat().st_mtime_ns == written
    path.write_bytes(j1.write_snapshot().read_bytes())
    assert read_metadata(sft.write_snapshot())["general.name"] == "tiny-sft"


@pytest.mark.parametrize(
    "name", ["judge.gguf", "evaluation/j1/judgements.jsonl", "iter-1/samples.jsonl", "seed/model/model.safetensors"]
)
@pytest.mark.parametrize("lose", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["gone", "empty"])
def test_what_was_lost_is_made_again_as_it_was(name, lose, finished, tiny_model, tiny_data, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    others = {path: (folder / path).stat().st_mtime_ns for path in listing(folder) if path.endswith("safetensors")}
    lose(folder / name)
    run_pipeline(load("tiny", settings(tiny_model, tiny_data)), folder)
    assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()
    assert all((folder / path).stat().st_mtime_ns == at for path, at in others.items() if path != name)


def test_prompts_edited_between_two_runs_are_told_and_not_passed_on(
    finished, tiny_model, tiny_data, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    edited = {**prompts._shipped(), "pointwise": prompts._shipped()["pointwise"] + "\nBe strict."}
    monkeypatch.setattr(prompts, "_shipped", lambda: edited)
    with pytest.raises(SreError, match=r"'sft-pointwise' was made from other settings .*differs in: prompts"):
        run_pipeline(load("tiny", settings(tiny_model, tiny_data)), folder)
    assert (folder / "judge.gguf").read_bytes() == (finished[0] / "judge.gguf").read_bytes()


def test_another_judge_than_the_last_is_taken_home(finished, tiny_model, tiny_data, tmp_path):
    from recipe.gguf.header import read_metadata

    folder = shutil.copytree(finished[0], tmp_path / "run")
    judge = folder / "judge.gguf"
    best = json.loads((folder / "results.json").read_text())["judge"]
    assert read_metadata(judge)["general.name"] == f"tiny-{best}"
    command = ["stage", "gguf", str(folder), "--set"]
    assert CliRunner().invoke(main, [*command, "export.source=j1"], catch_exceptions=False).exit_code == 0
    assert read_metadata(judge)["general.name"] == "tiny-j1"
    written = judge.stat().st_mtime_ns
    assert CliRunner().invoke(main, [*command, "export.source=j1"], catch_exceptions=False).exit_code == 0
    assert judge.stat().st_mtime_ns == written
    refused = CliRunner().invoke(main, [*command, "export.source=j3"])
    assert (refused.exit_code, "no judge 'j3' in this run; it makes seed, sft, j1, j2" in refused.output) == (2, True)
    assert read_metadata(judge)["general.name"] == "tiny-j1"
    assert load(folder / "config.toml").export.source == "j1"
    assert CliRunner().invoke(main, [*command, f"export.source={best}"], catch_exceptions=False).exit_code == 0
    run_pipeline(load("tiny", settings(tiny_model, tiny_data)), folder)  # as it was: the best, named or not
    with pytest.raises(SreError, match="no judge 'j9'"):
        run_pipeline(load("tiny", ['export.source="j9"']), tmp_path / "other")


def test_a_stage_that_cannot_run_again_stays_done(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    marker, config = folder / "iter-1" / "curate.done.json", folder / "config.toml"
    before = marker.read_bytes(), config.read_bytes()
    (folder / "iter-1" / "sample.done.json").unlink()
    refused = CliRunner().invoke(main, ["stage", "iter-1:curate", str(folder), "--set", "curate.margin=1"])
    assert (refused.exit_code, "needs stage 'iter-1:sample'" in refused.output) == (2, True)
    assert (marker.read_bytes(), config.read_bytes()) == before


def test_a_run_folder_of_another_config_is_refused(finished, tiny_model, tiny_data):
    changed = [*settings(tiny_model, tiny_data), "sft.learning_rate=1e-3"]
    with pytest.raises(SreError, match=r"differs in: sft\.learning_rate"):
        run_pipeline(load("tiny", changed), finished[0])
    assert load(finished[0] / "config.toml") == load("tiny", settings(tiny_model, tiny_data))
    with pytest.raises(SreError, match="another --run-dir"):
        run_pipeline(load("tiny", [*settings(tiny_model, tiny_data), "seed=9"]), finished[0])


def test_vllm_draws_in_a_process_of_its_own_whose_errors_come_back(tiny_model, tiny_data, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("vLLM may be at home here")
    config = load("tiny", [*settings(tiny_model, tiny_data), 'start="seed"', 'sample.engine="vllm"'])
    with pytest.raises(SreError, match="vLLM needs a GPU") as failed:
        run_pipeline(config, tmp_path / "run", until="iter-1:sample")
    assert "concurrent/futures" in str(failed.value.__cause__)  # where the other process failed
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SreError, match="can't share a launched run"):
        RunContext(config, tmp_path / "run").judge_model("seed", sampling=True)


def test_more_samples_at_once_than_llamacpp_takes_are_refused_before_training(tiny_model, tiny_data, tmp_path):
    wanted = [*settings(tiny_model, tiny_data), 'sample.engine="llamacpp"', "sample.parallel=129"]
    with pytest.raises(SreError, match="1 to 128 samples side by side, not 129") as refused:
        run_pipeline(load("tiny", wanted), tmp_path, until="seed")
    assert refused.value.field == "sample.parallel"
    run_pipeline(load("tiny", [*wanted, "sample.parallel=128"]), tmp_path, until="seed")


def test_one_stage_at_a_time(tiny_model, tiny_data, tmp_path):
    folder = tmp_path / "steps"
    with pytest.raises(SreError, match="not a run folder"):
        run_stage(folder, "seed")
    run_pipeline(load("tiny", settings(tiny_model, tiny_data)), folder, until="seed")
    with pytest.raises(SreError, match="needs stage 'sft-pointwise'"):
        run_stage(folder, "merged")
    with pytest.raises(SreError, match="the stages of this run: seed, sft-pointwise"):
        run_stage(folder, "distil")


@pytest.mark.parametrize("stage", ["sft-pointwise", "iter-1:dpo"])
def test_training_goes_on_from_its_checkpoint_as_if_never_stopped(
    stage, finished, tiny_model, tiny_data, tmp_path, monkeypatch
):
    from recipe.training import trainer as training

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    config, name = load("tiny", settings(tiny_model, tiny_data)), stage.partition(":")[0]
    if stage == "iter-1:dpo":
        run_pipeline(config, tmp_path, until="iter-1:curate")
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_adapter", stop)
        with pytest.raises(Stopped):
            run_pipeline(config, tmp_path, until=stage)
    checkpoints = tmp_path / name / "checkpoints"
    shutil.rmtree(training.last_checkpoint(checkpoints))
    assert training.last_checkpoint(checkpoints)
    run_pipeline(config, tmp_path, until=stage)
    assert largest_difference(tmp_path / name, finished[0] / name) <= 1e-6


def test_killed_five_times_and_resumed_equals_uninterrupted(finished, tiny_model, tiny_data, tmp_path):
    whole, duration = finished
    folder = tmp_path / "killed"
    _run_with_kills(folder, tiny_model, tiny_data, duration)
    found = difference(folder, whole)
    if found is None:
        return
    # On a busy machine the first bfloat16 step of a process sometimes rounds otherwise: one in some 60 was seen to,
    # in killed and in uninterrupted runs alike. A fault of resuming shows again in a second pair of runs.
    again, folder = tmp_path / "again", tmp_path / "killed-again"
    assert _start(again, tiny_model, tiny_data).wait() == 0, (tmp_path / "log").read_text()[-3000:]
    _run_with_kills(folder, tiny_model, tiny_data, duration)
    differences = [difference(folder, other) for other in (whole, again)]
    assert None in differences, (found, *differences)


def _run_with_kills(folder: Path, model: Path, data: Path, duration: float) -> None:
    """Kill a run up to five times, and then let it end. `duration` is how long an uninterrupted one took (s)."""
    draw = random.Random(11)
    kills = 0
    while kills < 5:
        process = _start(folder, model, data)
        # Early enough that five lives are not enough to finish, late enough to be inside a stage.
        try:
            process.wait(timeout=draw.uniform(0.25, 0.6) * duration)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert _start(folder, model, data).wait() == 0, (folder.parent / "log").read_text()[-3000:]
    assert kills >= 2
    assert not [name for name in listing(folder) if name.endswith("started.json")]


def difference(folder: Path, whole: Path) -> str | None:
    """The first file or stage in which two runs differ, or None."""
    for t in (1, 2):
        for name in ("samples.jsonl", "preferences.jsonl", "dropped.jsonl"):
            path = Path(f"iter-{t}") / name
            if (folder / path).read_bytes() != (whole / path).read_bytes():
                return str(path)
    for name in ("sft-pointwise", "sft-pairwise", "merged", "iter-1", "iter-2"):
        if largest_difference(folder / name, whole / name) > 1e-6:
            return name
    return None
