"""What is read of run folders: what is there as it is, what isn't as None, several seeds as one."""

import json
import shutil

import pytest

from recipe.evaluation.report.collect import Group, grouped
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
    assert run.figures("j1") is run.verdicts("j1") is run.history("iter-2") is run.curation(2) is None
    assert Group("", (run,)).last is None
    compared = Group("", (run,)).compared([("sft", "j1")])
    assert compared["models"]["j1"] is None
    assert compared["differences"] == {}


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
    assert (found["inputs"], found["samples"], found["malformed"]) == (8, 32, 8)
    assert found["right"] >= 8
    assert sum(found["pairs_per_input"].values()) == found["inputs"]
    assert sum(pairs * inputs for pairs, inputs in found["pairs_per_input"].items()) == found["pairs"]
    assert sum(found["dropped"].values()) == found["pairs_per_input"].get(0, 0)


def test_markers_that_lack_a_count_or_a_stage_are_no_error(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    marker = folder / "iter-1" / "curate.done.json"
    old = {key: value for key, value in json.loads(marker.read_text()).items() if key != "pairs_per_input"}
    marker.write_text(json.dumps(old))
    assert read_run(folder).curation(1) == {**read_run(finished_run).curation(1), "pairs_per_input": {}}
    (folder / "iter-1" / "sample.done.json").unlink()
    assert read_run(folder).curation(1) is None


def test_runs_that_differ_in_their_seed_alone_are_pooled(tiny_data, tmp_path):
    seeds = [write_run(tmp_path / f"s{k}", tiny_data, judges=("sft", "j1"), iterations=(), seed=k) for k in (0, 1)]
    other = write_run(tmp_path / "other", tiny_data, judges=("sft",), iterations=(), **{"curate.margin": 2})
    groups = grouped([read_run(folder) for folder in (*seeds, other)])
    assert [len(group.runs) for group in groups] == [2, 1]
    assert [group.title for group in groups] == ["tiny, seeds 0, 1", "other"]
    one, found = groups[0].runs[0].figures("sft"), groups[0].compared([("sft", "j1")])
    pooled = found["models"]["sft"]["pointwise"]
    assert pooled["n"] == 2 * one["pointwise"]["n"]
    assert pooled["accuracy"]["value"] == pytest.approx(one["pointwise"]["accuracy"]["value"])
    assert found["differences"]["j1 - sft"]["pairwise"]["accuracy"]["value"] > 0
    assert found["baselines"]["criterion mean (train)"]["pointwise"]["n"] == one["pointwise"]["n"]


def test_a_seed_that_lacks_a_judge_is_left_out_of_its_pool(tiny_data, tmp_path):
    whole = write_run(tmp_path / "a", tiny_data, judges=("sft", "j1"), iterations=())
    part = write_run(tmp_path / "b", tiny_data, judges=("sft",), iterations=(), seed=1)
    (group,) = grouped([read_run(whole), read_run(part)])
    assert len(group.measured("sft")) == 2
    assert group.measured("j1") == (group.runs[0],)
    found = group.compared([("sft", "j1")])
    written = group.runs[0].figures("j1")
    for task in ("pointwise", "pairwise"):
        assert found["models"]["j1"][task]["accuracy"]["value"] == written[task]["accuracy"]["value"]
    assert found["differences"]["j1 - sft"]["pointwise"]["accuracy"]["n"] <= 24
