"""What is asked of a run folder afterwards: its status, the forgery shift."""

from pathlib import Path
from typing import Any

from recipe.config import load
from recipe.data.records import SWAPPED
from recipe.errors import SreError
from recipe.pipeline.results import rounds, write_results
from recipe.pipeline.stage_order import open_run, steps
from recipe.storage import read_markers


def run_folder(path: Path) -> Path:
    """The folder of a run, which may be named by its config or by the project of `sre init`: it is then runs/<name>."""
    file = path / "config.toml" if path.is_dir() else path
    if not file.is_file() or (path.is_dir() and read_markers(path)):
        return path
    made = Path("runs") / load(file).name
    if (made / "config.toml").is_file():
        return made
    if path.is_dir():
        return path
    raise SreError(f"its run has not begun here: there is no {made}; `sre run {path}` starts it", file=path)


def read_status(folder: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The marker of each stage of a run, {} for one that hasn't begun; and its rounds (`results.rounds`)."""
    run = open_run(folder)
    planned: dict[str, dict[str, Any]] = {name: {} for name, _ in steps(run)}
    return planned | {marker["stage"]: marker for marker in read_markers(folder)}, rounds(run)


def forgery_of(folder: Path, name: str, *, limit: int | None) -> dict[str, Any]:
    """Measure the forgery shift of a run's judge on `limit` of its test rows, and write it into the run's results."""
    from recipe.evaluation.benchmarks.base import take_evenly
    from recipe.evaluation.forgery import measure_forgery
    from recipe.judge.judge import Judge

    run = open_run(folder)
    if run.cache.marker(run.stage_of(name)) is None or not run.config.data.takes("test"):
        raise SreError(f"this run has no judge {name!r} yet, or no test rows", file=folder)
    model, given = run.judge_model(name), [row for row in run.test_rows if not row.id.endswith(SWAPPED)]
    with Judge(model.open(), model.prompts, name=name) as judge:
        found = measure_forgery(judge, take_evenly(given, limit), folder / "evaluation" / name, run.config.evaluate)
    write_results(run)
    return found
