"""The figures in README and docs are those of the files in data/results/."""

from pathlib import Path
from statistics import median

import pytest

from recipe.data.forgery import CLAIMS
from recipe.data.records import Judgement
from recipe.evaluation.evaluate import as_written
from recipe.evaluation.metrics import pairwise_figures, pointwise_figures
from recipe.evaluation.tables import audit_grids, markdown_table, results_markdown
from recipe.storage import read_json, read_jsonl

ROOT = Path(__file__).parents[1]
BUSY = ROOT / "data" / "results" / "busy.json"
REAL = ROOT / "data" / "results" / "real-judgments"


def test_the_readme_shows_the_quickstarts_table() -> None:
    tables = results_markdown(read_json(ROOT / "data" / "results" / "quickstart.json")).split("\n\n")
    readme = (ROOT / "README.md").read_text()
    assert tables[0].strip() in readme
    results = (ROOT / "docs" / "results.md").read_text()
    for table in tables:
        assert table.strip() in results


@pytest.mark.parametrize("mode", ["rationale", "label-only"])
def test_claims_hardly_move_the_quickstarts_judge(mode: str) -> None:
    found = read_json(ROOT / "data" / "results" / "quickstart-forgery.json")[mode]["pointwise"]
    assert found["shift"]["n"] >= 200
    assert abs(found["shift"]["value"]) < 0.1
    assert found["shift"]["low"] <= 0 <= found["shift"]["high"]
    assert set(found["claims"]) == set(CLAIMS["pointwise"])


@pytest.mark.parametrize("task", ["pointwise", "pairwise"])
def test_the_docs_show_the_shortcut_audit_of_the_first_experiment(task: str) -> None:
    docs = (ROOT / "docs" / "results.md").read_text()
    ((_, grid),) = audit_grids(read_json(REAL / "audit.json")["parts"][task])
    assert markdown_table(grid).strip() in docs


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data" / "results" / "bench").glob("*.json")), ids=lambda path: path.stem
)
def test_the_docs_show_the_speeds_of_the_file(path: Path) -> None:
    docs = (ROOT / "docs" / "performance.md").read_text()
    for workload, peers in read_json(path).items():
        ours = peers["ours"]
        if "bound_s" not in ours:
            continue  # a cold start
        shown = [
            f"{peers[name]['ratio']:.2f}x" if name in peers else "not run"
            for name in ("loop", "transformers", "llama-server")
        ]
        figures = [
            path.stem.split("-")[0].upper(),
            f"{ours['tokens_per_s']:.1f}",
            *shown,
            f"{ours['share_of_bound']:.0%}",
        ]
        row = " | ".join(figures)
        assert any(line.startswith(f"| {workload}: ") and row in line for line in docs.splitlines())


@pytest.mark.parametrize("task", ["judge", "sample", "train"])
def test_the_docs_show_the_speed_beside_other_work(task: str) -> None:
    docs = (ROOT / "docs" / "performance.md").read_text()
    seconds = {int(count): median(found) for count, found in read_json(BUSY)[task]["ours"].items()}
    beside = " | ".join(f"{seconds[count]:.2f} ({seconds[0] / seconds[count]:.0%})" for count in (1, 2))
    figures = f"| {seconds[0]:.2f} | {beside} |"
    assert any(line.startswith(f"| {task} ") and line.endswith(figures) for line in docs.splitlines())
    assert seconds[0] / seconds[1] >= 0.45


@pytest.mark.parametrize("judge", ["seed", "sft", "j1", "j2"])
def test_the_figures_of_real_judgments_are_those_of_the_verdicts(judge: str) -> None:
    results = read_json(REAL / "results.json")
    files = sorted(REAL.glob(f"seed-*/evaluation/{judge}/judgements.jsonl"))
    assert len(files) == (1 if judge == "seed" else 3)
    verdicts = [verdict for file in files for verdict in as_written(list(map(Judgement.from_json, read_jsonl(file))))]
    for aspect, ids in read_json(REAL / "test-rows.json").items():
        of_aspect = set(ids)
        told = [verdict for verdict in verdicts if verdict.example_id in of_aspect]
        truth = [verdict.truth for verdict in told if verdict.truth is not None]
        labels = [verdict.label for verdict in told]
        of_task = pointwise_figures if told[0].task == "pointwise" else pairwise_figures
        found = of_task(truth, labels, [verdict.example_id for verdict in told], resamples=100)
        shown = results["aspects"][aspect]["models"][judge][told[0].task]
        assert (found["n"], found["malformed"]) == (len(files) * len(ids), shown["malformed"])
        for name in {"pearson", "accuracy"} & found.keys():
            assert found[name]["value"] == pytest.approx(shown[name]["value"])


def test_the_gpus_losses_are_as_near_the_cpus_as_the_docs_say() -> None:
    folder = REAL / "seed-0" / "sft-pointwise"
    cpu, gpu = (
        [step["loss"] for step in read_json(folder / name)["history"]]
        for name in ("training.json", "training-on-a-gpu.json")
    )
    gaps = [abs(one - other) for one, other in zip(cpu, gpu, strict=True)]
    said = (ROOT / "docs" / "gpu.md").read_text()
    assert f"the SFT losses of {len(gaps)} steps agree with the CPU's within {max(gaps):.3f}" in said


@pytest.mark.parametrize("judge", ["sft", "j1"])
def test_the_plan_shows_the_judge_of_pairs_alone(judge: str) -> None:
    verdicts = read_jsonl(REAL / "pairs-alone" / f"{judge}.jsonl")
    forced = sum(verdict["finish"] == "forced" for verdict in verdicts)  # malformed as written
    right = [verdict["label"] == verdict["truth"] for verdict in verdicts if verdict["finish"] != "forced"]
    accuracy = f"{sum(right) / len(verdicts):.2f}".removeprefix("0")
    name = "J_SFT (G1 alone)" if judge == "sft" else "J1"
    row = f"| {name} | {len(verdicts)} | {forced} | {accuracy} ["
    assert row in (ROOT / "data" / "results" / "PLAN.md").read_text()
