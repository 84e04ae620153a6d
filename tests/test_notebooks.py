"""The notebooks run top to bottom, define nothing, hold no output, and install what this version is tested with."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# What stands for the work of a person, or of Colab alone.
NOT_HERE = {"install", "colab"}


def cells(name: str) -> list[Any]:
    return list(nbformat.read(NOTEBOOKS[name], as_version=4).cells)


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def code(name: str, *, without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """The sources of the code cells, without those of these tags, and without %magics."""
    found = [cell.source for cell in cells(name) if cell.cell_type == "code" and not tags(cell) & without]
    return [re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE) for source in found]


def execute(name: str, folder: Path, limit: float = 60, **parameters: Any) -> str:
    """Run a notebook in `folder` with these parameters in place of its own, in less than `limit` seconds; the text of
    all outputs. `-s` prints how long it took."""
    start = time.monotonic()
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not tags(cell) & NOT_HERE]
    (place,) = [k for k, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
    known = {target.id for node in ast.parse(notebook.cells[place].source).body for target in node.targets}  # type: ignore[attr-defined]
    assert set(parameters) <= known
    chosen = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(chosen))
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    print(f"\n{name}: {time.monotonic() - start:.0f} s")
    assert time.monotonic() - start < limit
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or str(output.get("data", {})) for output in outputs)


# --- lint ---


def test_the_three_notebooks_are_there() -> None:
    assert set(NOTEBOOKS) == {"judge_on_cpu", "quickstart_colab", "your_own_rubric"}


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def defined(source: str) -> list[str]:
    return [type(node).__name__ for node in ast.walk(ast.parse(source)) if isinstance(node, DEFINITIONS)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_defines_nothing(name: str) -> None:
    assert [found for source in code(name) for found in defined(source)] == []


@pytest.mark.parametrize("source", ["def f(): pass", "class A: pass", "x = lambda: 1", "async def f(): pass"])
def test_the_lint_finds_definitions(source: str) -> None:
    assert defined(source)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_outputs_are_left_in(name: str) -> None:
    for cell in cells(name):
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def stale(source: str) -> list[str]:
    """Names imported from this package that it does not have."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "recipe":
            try:
                module = importlib.import_module(str(node.module))
            except ModuleNotFoundError:
                missing.append(str(node.module))
                continue
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    return missing


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_stale_names_of_the_api(name: str) -> None:
    assert [found for source in code(name) for found in stale(source)] == []


def test_the_lint_finds_stale_names() -> None:
    assert stale("from recipe.judge import Judge, Jury\nfrom recipe.gone import x") == [
        "recipe.judge.Jury",
        "recipe.gone",
    ]


def installation(name: str) -> tuple[str, dict[str, Any]]:
    """(what the first cell hands to pip, the names that the cell defines), as run beside the notebook."""
    (source,) = [cell.source for cell in cells(name) if "install" in tags(cell)]
    names: dict[str, Any] = {}
    exec(re.sub(r"^%.*$", "", source, flags=re.MULTILINE), names)
    (asked,) = re.findall(r'^%pip install -q "(.*)"$', source, flags=re.MULTILINE)
    return asked, names


def dry_run(requirement: str) -> subprocess.CompletedProcess[str]:
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--force-reinstall", requirement]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_installs_the_checkout_that_the_notebook_lies_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    asked, names = installation(name)
    assert names["PROJECT"] == f"@ {ROOT.resolve().as_uri()}"
    extras = re.findall(r"\[([a-z,]+)\]", asked)[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_the_first_cell_works_with_a_checkout_and_with_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    asked, names = installation("judge_on_cpu")
    from_checkout = dry_run(asked.format(**names))
    assert f"Would install {PROJECT['name']}" in from_checkout.stdout, from_checkout.stderr
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path]
    subprocess.run([*command, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    from_wheel = dry_run(asked.format(PROJECT=f"@ {wheel.as_uri()}"))
    assert f"Would install {PROJECT['name']}" in from_wheel.stdout, from_wheel.stderr


def test_the_first_cell_takes_git_where_there_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert installation("judge_on_cpu")[1]["PROJECT"].startswith("@ git+https://")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_badge_opens_this_notebook_in_colab(name: str) -> None:
    owner = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{name}.ipynb"
    assert link in cells(name)[0].source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_is_valid_and_has_an_id(name: str) -> None:
    nbformat.validate(nbformat.read(NOTEBOOKS[name], as_version=4))
    ids = [cell["id"] for cell in cells(name)]
    assert len(ids) == len(set(ids))


def test_the_settings_of_the_colab_notebook_fit_its_preset() -> None:
    from recipe.config import load
    from recipe.planning.plan import make_plan

    values: dict[str, Any] = {}
    exec(next(cell.source for cell in cells("quickstart_colab") if "parameters" in tags(cell)), values)
    plan = make_plan(load(values["PRESET"], values["SETTINGS"]), values["GPU"])
    assert plan.fits
    assert plan.seconds < 2 * 3600, "a session of Colab's free plan"


# --- top to bottom ---


def tiny(model: Path, data: Path) -> list[str]:
    return [f'model.source="{model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"', "evaluate.resamples=100"]


@pytest.mark.real
def test_quickstart_colab_runs(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    said = execute(
        "quickstart_colab", tmp_path, PRESET="tiny", GPU="cpu", RUN="run", SETTINGS=tiny(tiny_model, tiny_data)
    )
    assert (tmp_path / "run" / "judge.gguf").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    assert "Fits this CPU" in said
    assert "image/png" in said
    assert "# tiny: a self-rationalizing judge" in said


@pytest.fixture
def tiny_judge(tiny_model: Path, tmp_path: Path) -> Path:
    """The untrained tiny model as a GGUF file."""
    from recipe.gguf.export import write_gguf
    from recipe.prompts import Prompts
    from recipe.training.card import Base
    from recipe.training.export import judge_metadata

    path = tmp_path / "judge.gguf"
    metadata = judge_metadata("tiny", Base("tiny", "apache-2.0"), Prompts())
    write_gguf(tiny_model, path, adapter=None, type_name="F16", metadata=metadata)
    return path


def test_judge_on_cpu_runs(tiny_judge: Path, tiny_data: Path, tmp_path: Path) -> None:
    said = execute(
        "judge_on_cpu", tmp_path, MODEL=str(tiny_judge), ROWS=str(tiny_data), OUT="out.jsonl", LIMIT=12, MAX_TOKENS=24
    )
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 12
    assert "expected score" in said
    assert "ECE" in said
    assert "image/png" in said


@pytest.mark.real
def test_your_own_rubric_runs(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    said = execute(
        "your_own_rubric",
        tmp_path,
        POINTWISE=str(tiny_data),
        PAIRWISE=str(tiny_data),
        PRESET="tiny",
        RUN="run",
        SETTINGS=[f'model.source="{tiny_model}"', "evaluate.resamples=100"],
    )
    assert "{'pointwise': 24, 'pairwise': 24}" in said
    assert "<BEGIN SCORING CRITERIA>" in said
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.slow
def test_the_notebooks_run_on_smollm2(tmp_path: Path) -> None:
    small = ["data.train_pointwise=8", "data.train_pairwise=8", "data.test_pointwise=4", "data.test_pairwise=4"]
    small += ["sample.inputs=[4]", "sample.n=4", "sample.max_tokens=64", "iterations=1", "export.flip_rows=0"]
    small += ["evaluate.max_tokens=64", "curate.max_pairs=4"]
    execute("quickstart_colab", tmp_path, 240, PRESET="cpu-smollm2-135m", GPU="cpu", RUN="run", SETTINGS=small)
    judge = str(tmp_path / "run" / "judge.gguf")
    assert "ECE" in execute("judge_on_cpu", tmp_path, 240, MODEL=judge, LIMIT=8, MAX_TOKENS=64)
    execute("your_own_rubric", tmp_path, 240, RUN="mine", SETTINGS=small)
    assert (tmp_path / "mine" / "report.html").is_file()
