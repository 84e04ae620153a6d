"""The figures in the README are those of the files in data/results/."""

import json
from pathlib import Path

import pytest

from recipe.evaluation.picture import results_picture
from recipe.evaluation.report import results_markdown

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_readme_shows_the_tables_of_the_file(path: Path) -> None:
    tables = results_markdown(json.loads(path.read_text())).split("\n\n")
    readme = (ROOT / "README.md").read_text()
    for table in tables:
        assert table in readme


def test_the_picture_is_that_of_the_file() -> None:
    folder = ROOT / "data" / "results"
    assert (folder / "seed-data.svg").read_text() == results_picture(
        json.loads((folder / "seed-data.json").read_text())
    )
    assert "data/results/seed-data.svg" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data" / "results" / "bench").glob("*.json")), ids=lambda path: path.stem
)
def test_the_readme_shows_the_speeds_of_the_file(path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    for workload, peers in json.loads(path.read_text()).items():
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
        assert any(line.startswith(f"| {workload}: ") and row in line for line in readme.splitlines())


def test_the_gpus_losses_are_as_near_the_cpus_as_the_readme_says() -> None:
    folder = ROOT / "data" / "results" / "real-judgments" / "seed-0" / "sft-pointwise"
    cpu, gpu = (
        [step["loss"] for step in json.loads((folder / name).read_text())["history"]]
        for name in ("training.json", "training-on-a-gpu.json")
    )
    gaps = [abs(one - other) for one, other in zip(cpu, gpu, strict=True)]
    said = f"over {len(gaps)} steps, the CPU's losses within\n{max(gaps):.3f} ({sum(gaps) / len(gaps):.3f} on average)"
    assert said in (ROOT / "README.md").read_text()


def test_there_are_results() -> None:
    assert {path.stem for path in RESULTS} >= {"quickstart", "seed-data"}
