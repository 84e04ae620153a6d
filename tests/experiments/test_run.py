"""Every baseline and ablation by name on a tiny model: each runs, shares what it can, has its place in the tables."""

import json
import shutil

import pytest
from click.testing import CliRunner

from experiments.__main__ import experiment as command
from experiments.run import VARIANTS, Experiment, first_samples, run_experiment, run_judge
from experiments.sharing import SharingContext
from recipe.config import load
from recipe.data.records import Judgement
from recipe.errors import SreError
from recipe.evaluation.evaluate import as_written, read_judgements, self_consistency
from recipe.storage import read_json, read_jsonl

# Of rows that differ in one setting only, one runs each time and the others with -m slow.
SLOW = {"j3", "j4", "margin-2", "majority-vote", "temperature-1.3", "mixed-data-sre"}
ROWS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS]
# So small a model picks by place and rates nothing: what is asked of it may yield no pair at all.
ASKS_THE_MODEL = {"meta-judge-equal", "meta-judge", "self-assessment"}
ROUNDS = ("iterations=1", "sample.inputs=[12, 6]")


def run_rows(names, seeds, folder, overrides):
    return run_experiment(Experiment("tiny", tuple(overrides), folder), names, seeds)


@pytest.fixture(scope="module")
def sources(tiny_model, tiny_data, tmp_path_factory):
    """Overrides that name the tiny model and its rows; the test rows are of two aspects, as on real judgments."""
    data = tmp_path_factory.mktemp("aspects") / "data"
    shutil.copytree(tiny_data, data)
    for task, aspect in (("pointwise", "scores"), ("pairwise", "pairs")):
        path = data / "test" / f"{task}.jsonl"
        rows = [json.loads(line) | {"aspect": aspect} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (f'model.source="{tiny_model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"', *ROUNDS)


@pytest.fixture(scope="module")
def folder(sources, tmp_path_factory):
    """An experiment whose rows without a name were run: seed, sft and j1."""
    folder = tmp_path_factory.mktemp("experiment")
    run_rows((), (0,), folder, sources)
    return folder


def markers(run):
    """Stage -> marker of a run folder."""
    return {marker["stage"]: marker for marker in map(read_json, run.rglob("*done.json"))}


def taken_over(run):
    return {stage for stage, marker in markers(run).items() if "from" in marker}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs_by_its_name_and_no_stage_is_computed_twice(name, sources, folder):
    results = run_rows((name,), (0,), folder, sources)
    if f"{name}, seed 0" in results["problems"]:
        assert name in ASKS_THE_MODEL
        assert results["models"][name] is None
        return
    figures = results["models"][name]
    assert (figures["pointwise"]["n"], figures["pairwise"]["n"]) == (24, 48)  # pairs in both orders
    assert all(results["aspects"][aspect]["models"][name] for aspect in ("scores", "pairs"))
    computed = [m["hash"] for path in folder.rglob("*done.json") if "from" not in (m := read_json(path))]
    assert len(computed) == len(set(computed))


def test_what_rows_have_in_common_is_the_same_file(sources, folder):
    run_rows(("self-consistency",), (0,), folder, sources)
    base, other = folder / "seed-0", folder / "self-consistency" / "seed-0"
    assert taken_over(other) == {"seed", "sft-pointwise", "sft-pairwise", "merged"}
    assert markers(other)["merged"]["from"] == "../../seed-0"
    for name in ("hash", "finished", "wall_s"):
        assert markers(other)["merged"][name] == markers(base)["merged"][name]
    for name in ("merged/adapter/adapter_model.safetensors", "sft-pairwise/training.json", "gguf/sft.gguf"):
        assert (other / name).samefile(base / name)
    assert not list(other.rglob("*.tmp")) + list(other.rglob("*started.json"))


def test_a_changed_setting_is_not_taken_over_nor_what_comes_after_it(sources, folder):
    run_rows(("merge-svd", "random-equal"), (0,), folder, sources)
    merged = folder / "merge-svd" / "seed-0"
    assert taken_over(merged) == {"seed", "sft-pointwise", "sft-pairwise"}
    assert markers(merged)["merged"]["hash"] != markers(folder / "seed-0")["merged"]["hash"]
    curated = folder / "random-equal" / "seed-0"
    assert "iter-1:sample" in taken_over(curated)
    assert taken_over(curated).isdisjoint({"iter-1:assess", "iter-1:curate", "iter-1:dpo", "evaluation/j1"})
    samples, pairs = ("iter-1/samples.jsonl", "iter-1/preferences.jsonl")
    assert (curated / samples).read_bytes() == (folder / "seed-0" / samples).read_bytes()
    assert (curated / pairs).read_bytes() != (folder / "seed-0" / pairs).read_bytes()


def test_a_row_that_is_done_is_left_as_it_is(sources, folder):
    run_rows(("j1",), (0,), folder, sources)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/**/*") if path.is_file()}
    run_rows(("j1",), (0,), folder, sources)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/**/*") if path.is_file()} == before


def test_the_tables_hold_every_row_for_all_test_rows_and_for_each_aspect(sources, folder):
    results = run_rows(("sft", "j1"), (0,), folder, sources)
    assert json.loads((folder / "results.json").read_text()) == results
    assert set(results["models"]) == {*VARIANTS, "seed-constrained"}
    assert {"sft - seed-constrained", "j1 - sft"} <= results["differences"].keys()
    tables = (folder / "results.md").read_text()
    assert "| J1 | 24 + 48 | " in tables
    assert "Shortcut audit, pointwise, test rows of scores\n\n| judge or rule | n |" in tables
    assert "Shortcut audit, pairwise, test rows of pairs\n\n| judge or rule | n |" in tables
    assert "- self-consistency: J_SFT, the majority of 5 samples." in tables


def test_self_consistency_is_the_majority_of_the_samples_and_one_sample_the_first(sources, folder):
    results = run_rows(("self-consistency", "one-sample"), (0,), folder, sources)
    place = folder / "self-consistency" / "seed-0"
    samples = [Judgement.from_json(row) for row in read_jsonl(place / "evaluation" / "sft" / "samples.jsonl")]
    labels = {found.example_id: found.label for found in self_consistency(as_written(samples))}
    assert {found.example_id: found.label for found in read_judgements(place, "sft")} == labels
    assert [found.id for found in first_samples(place, "sft")] == [found.id for found in samples[::5]]
    assert "evaluation/sft" in taken_over(folder / "one-sample" / "seed-0")
    assert results["differences"]["self-consistency - one-sample"]["pointwise"]["accuracy_all"]["n"] == 24


def test_a_row_without_a_pair_is_a_finding_and_the_others_run(sources, tmp_path):
    # A seed model that is never right: its samples end before they have begun.
    short = (*sources, "sample.max_tokens=8", "sft.epochs=0.5", "curate.margin=4", "sample.inputs=[2]", "sample.n=2")
    results = run_rows(("meta-judge-equal", "sft"), (0,), tmp_path, short)
    assert "no preference pair" in results["problems"]["meta-judge-equal, seed 0"]
    assert results["models"]["meta-judge-equal"] is None
    assert results["models"]["sft"] is not None
    assert "Not run, meta-judge-equal, seed 0: no preference pair" in (tmp_path / "results.md").read_text()


def test_seeds_are_pooled_the_seed_model_is_measured_once_and_the_rest_was_not_run(sources, tmp_path):
    results = run_rows((), (0, 1), tmp_path, [*sources, "iterations=0", "sft.epochs=0.5"])
    for name in ("seed", "seed-constrained", "sft"):
        pooled = results["models"][name]
        judge, _, constrained = name.partition("-")
        single = [read_json(tmp_path / f"seed-{k}" / "evaluation" / judge / "figures.json") for k in (0, 1)]
        single = [(figures["constrained"] if constrained else figures)["pointwise"] for figures in single]
        assert pooled["pointwise"]["n"] == sum(figures["n"] for figures in single)
        assert pooled["pointwise"]["malformed"] == sum(figures["malformed"] for figures in single)
    assert set(results["differences"]) == {"sft - seed-constrained", "best - sft"}
    assert taken_over(tmp_path / "seed-1") == {"seed", "evaluation/seed"}
    tables = (tmp_path / "results.md").read_text()
    assert results["models"]["j1"] is results["models"]["margin-1"] is None
    assert (
        tables.count("| not run | not run | not run | not run | not run |") == len(VARIANTS) - 3
    )  # seed, sft, and the best, which is sft


def test_settings_of_rows_follow_those_of_the_experiment(tmp_path):
    experiment = Experiment("real-judgments", ("iterations=3", "curate.max_pairs=100"), tmp_path)
    single = experiment.run("single-stage-dpo", 0)
    assert single.config.sample.inputs == (1600,)  # the paper's 8,000 beside 5,000
    assert (single.config.iterations, single.config.curate.max_pairs, single.judge) == (1, 160, "j1")
    assert experiment.run("margin-2", 2).path == tmp_path / "margin-2" / "seed-2"
    # The preset's own margin is 1, and three iterations make J_3 too: nothing to run twice.
    for name in ("margin-1", "sft", "j1", "j3"):
        assert experiment.run(name, 2).path == tmp_path / "seed-2"
    assert experiment.run("j4", 0).config.iterations == 4
    assert experiment.run("dpo-without-sft", 0).judge == "j3"


def test_measurements_under_other_settings_do_not_count(sources, folder):
    changed = Experiment("tiny", (*sources, "lora.r=8"), folder)
    for same in ((), ("iterations=3", "threads=1", "export.flip_rows=0")):
        assert Experiment("tiny", (*sources, *same), folder).run("sft", 0).measured
    assert not changed.run("sft", 0).measured
    with pytest.raises(SreError, match=r"differs in: lora\.r"):
        run_rows(("sft",), (0,), folder, changed.overrides)


def test_another_row_under_other_settings_does_not_change_what_was_measured(sources, folder):
    """SFT has nothing to do with beta: its measurement goes on, but j1's stays that of the old beta."""
    other = (*sources, "dpo.beta=0.5")
    results = run_rows(("sft",), (0,), folder, other)
    assert results["models"]["sft"] is not None
    assert results["models"]["j1"] is None
    assert run_rows(("sft",), (0,), folder, sources)["models"]["j1"] is not None


def test_an_unknown_row_and_an_experiment_without_test_rows_are_refused(sources, tmp_path):
    with pytest.raises(SreError, match="no variant 'best-of-m'"):
        run_rows(("best-of-m",), (0,), tmp_path, sources)
    with pytest.raises(SreError, match="no test rows"):
        run_rows(("sft",), (0,), tmp_path, (*sources, 'data.test_split=""'))


def test_a_judge_that_is_not_of_the_run_is_refused(sources, tmp_path):
    with pytest.raises(SreError, match="no judge 'j4'"):
        run_judge(SharingContext(load("tiny", list(sources)), tmp_path, ()), "j4")


def test_the_help_ends_in_examples():
    shown = CliRunner().invoke(command, ["--help"])
    assert "python -m experiments seed-data" in shown.output.partition("Examples:")[2]


def test_the_command_lists_all_rows():
    found = CliRunner().invoke(command, ["--list"])
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.output.splitlines()] == list(VARIANTS)


def test_the_tables_come_from_verdicts_alone(sources, folder, tmp_path):
    shutil.copytree(folder / "seed-0" / "evaluation", tmp_path / "seed-0" / "evaluation")
    shutil.copy(folder / "seed-0" / "config.toml", tmp_path / "seed-0")
    tables = ["tiny", "--tables", "--run-dir", str(tmp_path)]
    settings = [part for setting in sources for part in ("--set", setting)]
    result = CliRunner().invoke(command, [*tables, *settings])
    assert result.exit_code == 0, result.output
    found, whole = (read_json(path / "results.json") for path in (tmp_path, folder))
    assert [found["models"][name] for name in ("seed", "sft", "j1")] == [
        whole["models"][name] for name in ("seed", "sft", "j1")
    ]
    assert sorted(path.name for path in (tmp_path / "seed-0").iterdir()) == ["config.toml", "evaluation"]
    refused = CliRunner().invoke(command, [*tables, "sft", *settings])
    assert (refused.exit_code, "--tables" in refused.output) == (2, True)
