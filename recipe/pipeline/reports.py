"""What a user asks of finished runs: the report, and the side-by-side of rationales. Brings runs and rows together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from recipe.config import load
from recipe.errors import SreError
from recipe.evaluation.report.collect import RunData
from recipe.pipeline.context import Job
from recipe.pipeline.steps import comparisons, steps


def report(folders: Sequence[Path], out: Path | None) -> tuple[Path, Path]:
    """Write the page and the Markdown file of these runs; returns their paths. A folder of seed-<n> runs is all of
    them.

    out: None is RUN/report.html, for one folder only. Raises SreError for a folder that is no run, and without `out`
    for several.
    """
    from recipe.evaluation.report.html import write_page

    if out is None and len(folders) > 1:
        raise SreError("several runs in one report: say where to write it with -o FILE", field="-o")
    target = out or folders[0] / "report.html"
    if target.suffix != ".html":
        raise SreError("expected a name that ends in .html; the Markdown file goes beside it", file=target)
    runs = [read_run(run) for folder in folders for run in _runs_in(folder)]
    judges = list(dict.fromkeys(judge for run in runs for judge in run.judges))
    return target, write_page(runs, comparisons(judges), target)


def export_annotations(folder: Path, out: Path, *, first: str, second: str | None, n: int, seed: int) -> dict[str, int]:
    """Write the blind side-by-side of two of a run's judges to `out`; returns the counts (evaluation/annotate.py).

    second: None is the last judge that was measured. Raises SreError when one of the judges has not been.
    """
    from recipe.evaluation.annotation.label_studio import export_tasks
    from recipe.evaluation.report.collect import Group

    run = read_run(folder)
    other = second or Group("", (run,)).last
    if other is None:
        raise SreError("no judge after SFT has been measured; run `sre evaluate` first", file=folder)
    sides = {judge: run.verdicts(judge) for judge in (first, other) if judge in run.judges}
    missing = [judge for judge in (first, other) if sides.get(judge) is None]
    if missing or first == other:
        raise SreError(f"expected two different judges that were measured, of {', '.join(run.judges)}", file=folder)
    if run.examples is None:
        raise SreError(f"the rows can't be read: {run.problem}", file=folder)
    one, two = sides[first] or [], sides[other] or []
    return export_tasks(out, examples=run.examples, first=one, second=two, names=(first, other), n=n, seed=seed)


def read_run(folder: Path) -> RunData:
    """The run in a folder, with the rows its judges were measured on. Raises SreError where there is no run."""
    if not (folder / "config.toml").is_file():
        raise SreError("not a run folder (no config.toml)", file=folder)
    config = load(folder / "config.toml")
    job = Job(config, folder)
    plan = tuple(steps(job))
    try:
        examples = tuple(job.test_rows)
    except SreError as error:  # a run folder may have travelled without its data
        return RunData(folder, config, plan, None, str(error))
    run = RunData(folder, config, plan, examples, train=tuple(chain(*job.all_train)))
    ids = [row.id for row in examples]
    for judge in run.judges:
        verdicts = run.verdicts(judge)
        if verdicts is not None and [row.example_id for row in verdicts] != ids:
            return RunData(folder, config, plan, None, f"they have changed since {judge} was measured on them")
    return run


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the seed-<n> runs of an experiment."""
    seeds = [path for path in sorted(folder.glob("seed-*")) if (path / "config.toml").is_file()]
    return [folder] if (folder / "config.toml").is_file() or not seeds else seeds
