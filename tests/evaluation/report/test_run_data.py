"""What is read of run folders: what is there as it is, what isn't as None."""

import json
import shutil

from recipe.pipeline.finished_runs import read_run

from ..conftest import write_run


def test_a_finished_run_has_every_judge_and_the_figures_evaluation_wrote(finished_run):
    run = read_run(finished_run)
    assert run.judges == tuple(run.models) == ("seed", "seed-constrained", "sft", "j1", "j2")
    assert run.last == "j2"
    assert run.models["seed"]["pointwise"]["malformed"] == 24
    assert run.models["seed-constrained"]["pointwise"]["malformed"] == 0
    written = json.loads((finished_run / "evaluation" / "sft" / "figures.json").read_text())
    assert run.models["sft"] == written
    assert [row.example_id for row in run.verdicts("j1")] == [row.id for row in run.examples]


def test_what_was_not_run_is_none(begun_run):
    run = read_run(begun_run)
    assert list(run.models) == ["sft"]
    assert run.verdicts("j1") is run.curation(2) is run.last is None


def test_a_measurement_that_was_interrupted_is_not_read(tiny_data, tmp_path):
    folder = write_run(tmp_path / "run", tiny_data, judges=("sft",), iterations=())
    marker = folder / "evaluation" / "sft" / "done.json"
    content = json.loads(marker.read_text())
    del content["finished"]
    (marker.parent / "started.json").write_text(json.dumps(content))
    marker.unlink()
    run = read_run(folder)
    assert run.models == {}
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
