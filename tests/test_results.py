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


def test_there_are_results() -> None:
    assert {path.stem for path in RESULTS} >= {"quickstart", "seed-data"}
