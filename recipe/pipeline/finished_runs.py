"""Finished runs and the rows their judges were measured on: for the report and the side-by-side of rationales."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.data.records import SWAPPED
from recipe.errors import SreError
from recipe.evaluation.report.html import RunData, write_page
from recipe.pipeline.results import figures_of, results_of, rounds, write_results
from recipe.pipeline.steps import open_run, steps
from recipe.storage import read_markers


def read_status(folder: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The marker of each stage of a run, {} for one that hasn't begun; and its rounds (`results.rounds`).

    Raises SreError where there is no run, and for a marker that is damaged.
    """
    run = open_run(folder)
    planned: dict[str, dict[str, Any]] = {name: {} for name, _ in steps(run)}
    return planned | {marker["stage"]: marker for marker in read_markers(folder)}, rounds(run)


def report(folders: Sequence[Path], out: Path | None) -> tuple[Path, Path]:
    """Write the page and the Markdown file about these runs, a folder of seed-<n> runs being all of them.

    Returns their paths. Raises SreError for a folder that is no run, and without `out` for several.
    """
    if out is None and len(folders) > 1:
        raise SreError("several runs in one report: say where to write it with -o FILE", field="-o")
    target = out or folders[0] / "report.html"
    if target.suffix != ".html":
        raise SreError("expected a name that ends in .html; the Markdown file goes beside it", file=target)
    runs = [read_run(run) for folder in folders for run in _runs_in(folder)]
    pairs = [
        (run, {"models": run.models, "differences": {}} if run.examples is None else results_of(open_run(run.path)))
        for run in runs
    ]
    return target, write_page(pairs, target)


def export_annotations(folder: Path, out: Path, *, first: str, second: str | None, n: int, seed: int) -> dict[str, int]:
    """Write the blind side-by-side of two of a run's judges; returns the counts (evaluation/annotation.py).

    second: None is the last judge that was measured. Raises SreError when one of the judges was not.
    """
    from recipe.evaluation.annotation import export_tasks

    run = read_run(folder)
    other = second or run.last
    if other is None:
        raise SreError("no judge after SFT has been measured; run `sre evaluate` first", file=folder)
    verdicts = [run.verdicts(judge) if judge in run.judges else None for judge in (first, other)]
    if first == other or None in verdicts:
        raise SreError(f"expected two different judges that were measured, of {', '.join(run.judges)}", file=folder)
    if run.examples is None:
        raise SreError(f"the rows can't be read: {run.problem}", file=folder)
    one, two = (found or [] for found in verdicts)
    return export_tasks(out, examples=run.examples, first=one, second=two, names=(first, other), n=n, seed=seed)


def read_run(folder: Path) -> RunData:
    """The run in a folder, with the rows its judges were measured on. Raises SreError where there is no run."""
    context = open_run(folder)
    known = (folder, context.config, tuple(dict(steps(context))), figures_of(context))
    try:
        examples = tuple(context.test_rows)
    except SreError as error:  # a run folder may have travelled without its data
        return RunData(*known, None, str(error))
    run = RunData(*known, examples)
    ids = [row.id for row in examples]
    for judge in run.models:
        if [row.example_id for row in run.verdicts(judge) or ()] != ids:
            return RunData(*known, None, f"they have changed since {judge} was measured on them")
    return run


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the seed-<n> runs of an experiment."""
    seeds = [path for path in sorted(folder.glob("seed-*")) if (path / "config.toml").is_file()]
    return [folder] if (folder / "config.toml").is_file() or not seeds else seeds


def forgery_of(folder: Path, name: str, *, limit: int | None) -> dict[str, Any]:
    """Measure the forgery shift of a run's judge on `limit` of its test rows, and write it into the run's results.

    Raises SreError where there is no such run, judge or test rows.
    """
    from recipe.evaluation.benchmarks.base import spread
    from recipe.evaluation.forgery import measure_forgery
    from recipe.judge.judge import Judge

    run = open_run(folder)
    if run.cache.marker(run.stage_of(name)) is None or not run.config.data.has_test():
        raise SreError(f"this run has no judge {name!r} yet, or no test rows", file=folder)
    model, settings = run.judge_model(name), run.config.evaluate
    given = [row for row in run.test_rows if not row.id.endswith(SWAPPED)]
    how: dict[str, Any] = {"max_tokens": settings.max_tokens, "resamples": settings.resamples}
    with Judge(model.open(), model.prompts, name=name) as judge:
        place = folder / "evaluation" / name
        found = measure_forgery(judge, spread(given, limit), place, **how)
    write_results(run)
    return found
