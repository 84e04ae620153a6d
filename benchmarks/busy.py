"""How much other work on the machine slows judging, sampling and training.

    python -m benchmarks.busy --model judge.gguf

Every measurement runs in a fresh process, alone and then beside one and two processes that never rest. The ways of
waiting take turns in every repeat, so that a slow minute of the machine hits all of them. Each share is the quiet time
of that way by its time beside others: two threads on two cores that share them fairly with one process reach 50 to 67%.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.table import Table

from benchmarks.measure import Job, measure
from benchmarks.run import make_tasks
from benchmarks.workloads import Workload
from recipe.cli import options as opt
from recipe.errors import SreError
from recipe.progress import bar
from recipe.storage import write_json
from recipe.system import usable_cores

TASKS = {"judge": "b", "sample": "a", "train": ""}
"""What is measured -> the workload it runs. Training takes steps of a small random model, and needs no workload."""

WAITING: dict[str, Mapping[str, str]] = {
    "ours": {},
    "libraries'": {"GOMP_SPINCOUNT": "300000"},  # what GCC's OpenMP does where nothing is set
    "passive": {"GOMP_SPINCOUNT": "0"},
}
"""Ways of waiting: the environment of the measured process."""

Seconds = dict[str, dict[str, dict[int, list[float]]]]
"""Task -> way of waiting -> busy processes -> seconds of each repeat."""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` processes busy during the block."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run_busy(
    model: Path | None,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    waiting: Sequence[str] = ("ours",),
    others: Sequence[int] = (0, 1, 2),
    rows: int = 8,
    repeats: int = 3,
    threads: int | None = None,
) -> Seconds:
    """Measure each task beside other work.

    Args:
        model: a GGUF file, for judging and sampling.
        tasks: some of TASKS.
        waiting: some of WAITING.
        others: numbers of busy processes.
        rows: prompts that are judged; an eighth of them is sampled.
        repeats: measurements of each kind.
        threads: of the measured process. [default: all cores]

    Raises:
        SreError: for an unknown task or way of waiting, a missing model, or a measurement that fails.
    """
    for given, known, field in ((tasks, TASKS, "tasks"), (waiting, WAITING, "waiting")):
        if unknown := sorted(set(given) - set(known)):
            raise SreError(f"no {unknown[0]!r}; expected some of {', '.join(known)}", field=field)
    jobs = {task: _job(task, model, rows, threads or usable_cores()) for task in tasks}
    found: Seconds = {task: {way: {count: [] for count in others} for way in waiting} for task in tasks}
    total = repeats * len(jobs) * len(waiting) * len(others)
    with bar("busy", total, "measurements") as advance:
        for _ in range(repeats):
            for count in others:
                for task, job in jobs.items():
                    for way in waiting:
                        with busy(count):
                            seconds = measure(job, environment=WAITING[way])["seconds"]
                        found[task][way][count].append(round(seconds, 3))
                        advance(note=f"{task} beside {count}: {seconds:.1f} s")
    return found


def _job(task: str, model: Path | None, rows: int, threads: int) -> Job:
    if task == "train":
        return Job("train", Path(), Workload("train", "steps of training", ()), threads, parallel=1)
    if model is None:
        raise SreError(f"to {task} takes a model; give one with --model", field="model")
    workload = make_tasks(model, [TASKS[task]], rows if task == "judge" else max(1, rows // 8))[TASKS[task]]
    return Job("ours", model, workload, threads, parallel=16)


def table(found: Seconds) -> Table:
    """Median seconds, and beside other work the share of the quiet speed."""
    counts = list(next(iter(next(iter(found.values())).values())))
    shown = Table(title="Median seconds; in brackets, the share of the speed alone")
    for column in ("task", "waiting", *("alone" if not count else f"beside {count}" for count in counts)):
        shown.add_column(column, justify="left" if column in ("task", "waiting") else "right")
    for task, ways in found.items():
        for way, seconds in ways.items():
            middle = {count: median(values) for count, values in seconds.items()}
            quiet = middle.get(0)
            cells = [
                f"{value:.2f}" + (f" ({quiet / value:.0%})" if count and quiet else "")
                for count, value in middle.items()
            ]
            shown.add_row(task, way, *cells)
    return shown


@opt.program("python -m benchmarks.busy --model judge.gguf --json busy.json")
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file, e.g. judge.gguf. Training needs none.")
@click.option("--tasks", default=",".join(TASKS), show_default=True, help="What to measure.")
@click.option("--waiting", default="ours", show_default=True, help=f"Some of {','.join(WAITING)}.")
@click.option("--others", default="0,1,2", show_default=True, help="Numbers of busy processes.")
@click.option("--rows", type=click.IntRange(min=1), default=8, show_default=True, help="Rows to judge.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="The median of so many runs.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the seconds to this file, too.")
def main(tasks: str, waiting: str, others: str, json_file: Path | None, **options: Any) -> None:
    """Measure judging, sampling and training alone and beside busy processes."""
    counts = [int(count) for count in others.split(",")]
    found = run_busy(tasks=tasks.split(","), waiting=waiting.split(","), others=counts, **options)
    if json_file:
        write_json(json_file, found)
    opt.console().print(table(found))


if __name__ == "__main__":
    main()
