"""Rounds that must prove themselves: what the markers of decided rounds make of the plan, the judges and judge.gguf."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.config import load
from recipe.errors import SreError
from recipe.pipeline.context import RunContext
from recipe.pipeline.finished_runs import read_status
from recipe.pipeline.results import rounds
from recipe.pipeline.stage_order import steps
from recipe.storage import write_json


@pytest.fixture
def run(tiny_data, tmp_path):
    """A run of three rounds that must be better, of which nothing is done."""
    settings = ["iterations=3", "rounds.keep=better", f"data.pointwise={tiny_data}", f"data.pairwise={tiny_data}"]
    return RunContext(load("tiny", settings), tmp_path)


def mark(run, stage, **facts):
    folder, _, step = stage.partition(":")
    marker = {"stage": stage, "hash": "a", "finished": 1.0, "wall_s": 1.0, "tokens": 0, "made": {}, **facts}
    write_json(run.path / folder / f"{step}.done.json", marker)


def decide(run, t, before, after, *, kept):
    gain = {"value": after - before, "low": None, "high": None, "n": 8}
    facts = {"before": run.judge_before(t), "judge": f"j{t}", "rows": 8, "malformed": {}, "gain": gain}
    mark(run, f"iter-{t}:decide", figures={"before": before, "after": after}, kept=kept, **facts)


def test_until_something_is_decided_all_rounds_are_planned(run):
    plan = list(dict(steps(run)))
    assert "iter-3:decide" in plan
    assert plan.index("dev/sft") < plan.index("dev/j1") < plan.index("iter-1:decide") < plan.index("iter-2:sample")
    assert run.exported == "j3"


def test_a_round_that_is_not_kept_is_the_last_and_the_judge_before_is_taken(run):
    decide(run, 1, 0.3, 0.4, kept=True)
    decide(run, 2, 0.4, 0.35, kept=False)
    assert run.judges == ("seed", "sft", "j1", "j2")
    assert run.exported == "j1"
    plan = dict(steps(run))
    assert "evaluation/j2" in plan
    assert not {name for name in plan if name.startswith("iter-3") or name.endswith("/j3")}
    assert "iter-3:dpo" in dict(steps(run, every=True))
    assert [(found["judge"], found["kept"]) for found in rounds(run)] == [("j1", True), ("j2", False)]


def test_where_every_round_is_kept_the_best_one_is_taken_or_the_one_named(run):
    for t, (before, after) in enumerate([(0.3, 0.5), (0.5, 0.2), (0.2, 0.4)], 1):
        decide(run, t, before, after, kept=True)
    assert run.exported == "j1"
    for source, judge in (("last", "j3"), ("sft", "sft")):
        config = run.config.model_copy(update={"export": run.config.export.model_copy(update={"source": source})})
        assert RunContext(config, run.path).exported == judge


def test_a_judge_that_no_round_bettered_is_the_best(run):
    decide(run, 1, 0.3, 0.1, kept=False)
    assert (run.exported, run.judges[-1]) == ("sft", "j1")


def test_a_round_without_pairs_is_not_made_and_the_run_goes_on_to_its_end(run):
    mark(run, "iter-1:curate", pairs=0)
    plan = list(dict(steps(run)))
    assert "iter-1:dpo" not in plan
    assert plan[-1] == "gguf"
    assert run.exported == "sft"
    assert [found["kept"] for found in rounds(run)] == [False]
    assert "evaluation/j1" not in plan


def test_without_dev_rows_every_round_is_kept_and_nothing_is_measured_on_dev(run):
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"dev_split": ""})})
    plan = dict(steps(RunContext(config, run.path)))
    assert not [name for name in plan if name.startswith("dev/") or name.endswith(":decide")]


@pytest.mark.parametrize(("task", "other"), [("pointwise", "pairwise"), ("pairwise", "pointwise")])
def test_a_judge_of_one_task_has_one_sft_and_no_merge(task, other, tiny_data, tmp_path):
    run = RunContext(load("tiny", [f"data.{task}={tiny_data}", f"data.{other}="]), tmp_path)
    plan = list(dict(steps(run)))
    assert plan[:3] == ["seed", f"sft-{task}", "iter-1:sample"]
    assert "merged" not in plan
    assert run.stage_of("sft") == f"sft-{task}"
    assert {row.task for row in [*run.inputs(1), *run.dev_rows, *run.test_rows]} == {task}
    assert len(run.inputs(1)) == run.config.sample.inputs_of(1)


def test_status_tells_what_is_done_what_is_to_do_and_which_rounds_were_kept(run):
    run.keep_config()
    mark(run, "iter-1:sample")
    decide(run, 1, 0.3, 0.4, kept=True)
    found, _ = read_status(run.path)
    assert found["iter-1:sample"]["wall_s"] == 1
    assert found["gguf"] == {}
    shown = CliRunner().invoke(main, ["status", str(run.path)]).output
    assert "iter-1:sample" in shown
    assert "Round 1 is kept" in shown


def test_status_is_watched_until_it_is_interrupted(run, monkeypatch):
    run.keep_config()
    waits = []

    def sleep(seconds):
        mark(run, "iter-1:sample")
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    shown = CliRunner().invoke(main, ["status", str(run.path), "--watch"]).output
    assert len(waits) == 2
    assert shown.count("iter-1:dpo") == 2


def test_a_run_that_a_finished_stage_refuses_leaves_the_settings_as_they_were(run):
    def do(given, stage="merged", work=lambda folder, **given: {}):
        with given.working():
            given.cache.do(stage, work, threads=given.config.threads)

    def fail(folder, **given):
        raise RuntimeError("killed")

    do(run)
    other = RunContext(run.config.model_copy(update={"threads": 7}), run.path)
    with pytest.raises(SreError, match="differs in: threads"):
        do(other)
    assert load(run.path / "config.toml") == run.config
    with pytest.raises(RuntimeError):  # a stage that begins is made with the new ones, whatever becomes of it
        do(other, "seed", fail)
    assert load(run.path / "config.toml") == other.config
