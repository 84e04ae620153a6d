"""What is read of run folders: what is there as it is, what isn't as None, several seeds as one."""

import json
import shutil

import pytest

from recipe.evaluation.report.collect import compared, grouped
from recipe.pipeline.finished_runs import read_run

from ..conftest import write_run


def test_a_finished_run_has_every_judge_and_the_figures_evaluation_wrote(finished_run):
    run = read_run(finished_run)
    assert run.judges == ("seed", "seed-constrained", "sft", "j1", "j2")
    assert run.figures("j2")["pointwise"]["accuracy"]["value"] == 1
    assert run.figures("seed")["pointwise"]["malformed"] == 24
    assert run.figures("seed-constrained")["pointwise"]["malformed"] == 0
    written = json.loads((finished_run / "evaluation" / "sft" / "figures.json").read_text())
    assert run.figures("sft") == written
    assert [row.example_id for row in run.verdicts("j1")] == [row.id for row in run.examples]


def test_what_was_not_run_is_none(begun_run):
    run = read_run(begun_run)
    assert run.figures("sft") is not None
    assert run.figures("j1") is run.verdicts("j1") is run.curation(2) is run.last is None
    assert run.history("iter-2") == []
    found = compared([run], [("sft", "j1")])
    assert found["models"]["j1"] is None
    assert found["differences"] == {}


def test_a_measurement_that_was_interrupted_is_not_read(tiny_data, tmp_path):
    folder = write_run(tmp_path / "run", tiny_data, judges=("sft",), iterations=())
    marker = folder / "evaluation" / "sft" / "done.json"
    content = json.loads(marker.read_text())
    del content["finished"]
    (marker.parent / "started.json").write_text(json.dumps(content))
    marker.unlink()
    run = read_run(folder)
    assert run.figures("sft") is None
    assert "finished" not in run.stages["evaluation/sft"]


def test_curation_counts_add_up(finished_run):
    found = read_run(finished_run).curation(1)
    assert (found["examples"], found["judgements"], found["malformed"]) == (8, 32, 8)
    assert found["right"] >= 8
    assert found["pairs"] > 0
    assert sum(found["dropped"].values()) < found["examples"]


def test_an_iteration_that_lacks_a_stage_is_not_curated(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "iter-1" / "sample.done.json").unlink()
    assert read_run(folder).curation(1) is None


def test_runs_that_differ_in_their_seed_alone_are_pooled(tiny_data, tmp_path):
    seeds = [write_run(tmp_path / f"s{k}", tiny_data, judges=("sft", "j1"), iterations=(), seed=k) for k in (0, 1)]
    other = write_run(tmp_path / "other", tiny_data, judges=("sft",), iterations=(), **{"curate.margin": 2})
    groups = grouped([read_run(folder) for folder in (*seeds, other)])
    assert {title: len(runs) for title, runs in groups} == {"tiny, seeds 0, 1": 2, "other": 1}
    pool = groups[0][1]
    one, found = pool[0].figures("sft"), compared(pool, [("sft", "j1")])
    pooled = found["models"]["sft"]["pointwise"]
    assert pooled["n"] == 2 * one["pointwise"]["n"]
    assert pooled["accuracy"]["value"] == pytest.approx(one["pointwise"]["accuracy"]["value"])
    assert found["differences"]["j1 - sft"]["pairwise"]["accuracy"]["value"] > 0
    assert found["baselines"]["criterion mean (train)"]["pointwise"]["n"] == one["pointwise"]["n"]


def test_a_seed_that_lacks_a_judge_is_left_out_of_its_pool(tiny_data, tmp_path):
    whole = write_run(tmp_path / "a", tiny_data, judges=("sft", "j1"), iterations=())
    part = write_run(tmp_path / "b", tiny_data, judges=("sft",), iterations=(), seed=1)
    ((_, group),) = grouped([read_run(whole), read_run(part)])
    found = compared(group, [("sft", "j1")])
    written = group[0].figures("j1")
    for task in ("pointwise", "pairwise"):
        assert found["models"]["j1"][task]["accuracy"]["value"] == written[task]["accuracy"]["value"]
    assert found["differences"]["j1 - sft"]["pointwise"]["accuracy"]["n"] <= 24
