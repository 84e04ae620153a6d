"""What results.json is made of: the judges' figures, and the rows that they were measured on."""

import json
import shutil

from recipe.evaluation.evaluate import read_judgements
from recipe.pipeline.results import figures_of, last_judge, measured_rows, results_of
from recipe.pipeline.stage_order import open_run

from ..run_folders import write_run


def test_a_finished_run_has_every_judge_and_the_figures_evaluation_wrote(finished_run):
    run = open_run(finished_run)
    found = figures_of(run)
    assert tuple(found) == ("seed", "seed-constrained", "sft", "j1", "j2")
    assert last_judge(run) == "j2"
    assert found["seed"]["pointwise"]["malformed"] == 24
    assert found["seed-constrained"]["pointwise"]["malformed"] == 0
    assert found["sft"] == json.loads((finished_run / "evaluation" / "sft" / "figures.json").read_text())
    rows, problem = measured_rows(run)
    assert [row.id for row in rows] == [said.example_id for said in read_judgements(finished_run, "j1")]
    assert not problem


def test_what_was_not_run_has_no_figures(begun_run):
    run = open_run(begun_run)
    assert list(figures_of(run)) == ["sft"]
    assert last_judge(run) is None


def test_a_measurement_that_was_interrupted_is_not_read(tiny_data, tmp_path):
    folder = write_run(tmp_path / "run", tiny_data, judges=("sft",), iterations=())
    marker = folder / "evaluation" / "sft" / "done.json"
    content = json.loads(marker.read_text())
    del content["finished"]
    (marker.parent / "started.json").write_text(json.dumps(content))
    marker.unlink()
    assert figures_of(open_run(folder)) == {}


def test_figures_that_an_earlier_version_did_not_write_are_computed(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    file = folder / "evaluation" / "sft" / "figures.json"
    figures = json.loads(file.read_text())
    whole = figures["pairwise"].pop("both_orders")
    file.write_text(json.dumps(figures))
    assert results_of(open_run(folder))["models"]["sft"]["pairwise"]["both_orders"] == whole
