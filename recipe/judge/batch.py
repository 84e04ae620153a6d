"""A file of rows -> a file of judgements: `sre judge`. Knows nothing of figures of agreement (evaluation/).

result_rows.py says what a row holds, journal.py how it is kept, workers.py how several processes share the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

from recipe.data.examples import BadRow, read_rows
from recipe.data.records import TASKS, Example, Rubric, Task
from recipe.errors import SreError
from recipe.inference.openai import OpenAIGenerator
from recipe.judge.journal import STDOUT, Journal
from recipe.judge.judge import DEFAULT, Judge, to_bytes
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import JudgedRow, bad_row, input_hash, result_rows
from recipe.judge.ray_pool import RayPool
from recipe.judge.rubrics import NamedRubric
from recipe.judge.summary import Summary
from recipe.judge.workers import Pool, Workers, identity
from recipe.system import peak_rss_mb, usable_cores

BLOCK = 16
"""Rows written and synced at once, if they come within FLUSH_S: what a kill can lose."""
FLUSH_S = 2.0

Engine = Literal["llamacpp", "openai", "ray"]
Progress = Callable[[int, int], None]


def judge_file(
    judge: Judge | Pool,
    source: str | Path,
    out: str | Path,
    *,
    options: JudgeOptions = DEFAULT,
    resume: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    task: Task | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    rubric: NamedRubric | None = None,
    override_rubric: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Judge every row of `source` (see `sources.read_rows`; labels may be missing) once, into `out`.

    out: a .jsonl, .csv or .parquet file, or "-" for standard output. resume: keep the rows that `out` has and judge
    the others, and those that ended in an error. overwrite: begin it anew. rubric: for rows that bring none; with
    override_rubric for all, whose own labels are then no truth and left out. progress: called with (rows done, rows
    in all) after each row. Rows are on disk soon after they finish; an interrupt loses none of them.

    A row that can't be read or judged is written with its error and counted. Raises SreError: no row can be read;
    `out` exists and neither flag is given; a resume with another model, other prompts, settings or rows; no space.
    """
    if override_rubric and rubric is None:
        raise SreError("override-rubric needs a rubric")
    rubrics = _by_task(rubric)
    rows = list(
        read_rows(source, task=task, split=split, need_label=False, limit=limit, columns=columns, rubrics=rubrics)
    )
    first_bad = next((row for row in rows if isinstance(row, BadRow)), None)
    if not any(isinstance(row, Example) for row in rows):
        raise first_bad.error if first_bad else SreError("no rows; expected one or more", file=source)
    if override_rubric:
        rows = [_overridden(row, rubrics) for row in rows]
    return judge_rows(judge, rows, out, options=options, resume=resume, overwrite=overwrite, progress=progress)


def judge_rows(
    judge: Judge | Pool,
    rows: Sequence[Example | BadRow],
    out: str | Path,
    *,
    options: JudgeOptions = DEFAULT,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """`judge_file` for rows that have been read: Examples of different ids, and what could not be read."""
    if resume and (overwrite or str(out) == STDOUT):
        raise SreError(f"resume can't be combined with {'overwrite' if overwrite else 'standard output'}")
    if options.swap and not any(isinstance(row, Example) and row.task == "pairwise" for row in rows):
        raise SreError("swap judges pairs in both orders, and no row is a pair")
    summary = Summary()
    who = identity(judge) if isinstance(judge, Judge) else judge.identity
    with Journal(out) as journal:
        inputs = {row.id: input_hash(row) for row in rows}
        kept = journal.begin({**who, "settings": asdict(options)}, inputs, resume=resume, overwrite=overwrite)
        for row in kept:
            summary.count(row)
        summary.resumed = summary.rows
        done = {row["id"] for row in kept}
        _judge(judge, [row for row in rows if row.id not in done], journal, options, summary, progress)
        journal.finish()
    return summary


def _judge(
    judge: Judge | Pool,
    rows: Sequence[Example | BadRow],
    journal: Journal,
    options: JudgeOptions,
    summary: Summary,
    progress: Progress | None,
) -> None:
    """Judge the rows and append what comes back, in blocks."""
    examples = [row for row in rows if isinstance(row, Example)]
    total = summary.rows + len(rows)
    block: list[JudgedRow] = [bad_row(row) for row in rows if isinstance(row, BadRow)]
    for row in block:
        summary.count(row)
    make = partial(result_rows, judge) if isinstance(judge, Judge) else judge.rows
    start = written = time.monotonic()
    try:
        for row in make(examples, options, summary.usage) if examples else ():
            block.append(row)
            summary.count(row)
            if len(block) >= BLOCK or time.monotonic() - written > FLUSH_S:
                journal.append(block)
                block, written = [], time.monotonic()
            if progress:
                progress(summary.rows, total)
    finally:
        journal.append(block)
    summary.seconds = time.monotonic() - start
    summary.usage.peak_mb += peak_rss_mb()


def _by_task(rubric: NamedRubric | None) -> dict[Task, Rubric]:
    return {task: rubric.rubric for task in TASKS if rubric and rubric.task in (None, task)}


def _overridden(row: Example | BadRow, rubrics: Mapping[Task, Rubric]) -> Example | BadRow:
    if isinstance(row, BadRow) or row.task not in rubrics:
        return row
    return replace(row, rubric=rubrics[row.task], label=None)


def open_judges(
    model: Path | None,
    *,
    engine: Engine = "llamacpp",
    base_url: str = "",
    workers: int = 1,
    threads: int | None = None,
    memory: str | None = None,
    context: int = 4096,
    parallel: int = 16,
    calibrated: bool = True,
) -> Judge | Workers | RayPool:
    """A judge, or several of one kind; use as a context manager. Raises SreError where it can't be opened.

    model: a GGUF file; for "openai" the name of a model at `base_url`, None for its only one. workers: processes. Each
    has an equal part of `threads` and `memory`; under "ray", where they may be on several machines, as much as is
    given. The other options are those of `Judge.from_gguf`.
    """
    if engine == "openai":
        return Judge(OpenAIGenerator(base_url, model=None if model is None else str(model), parallel=parallel))
    if model is None:
        raise SreError("expected a GGUF file", field="model")
    limit = None if memory is None else to_bytes(memory)
    # Absolute, because Ray's workers may have another working directory.
    path = model.absolute() if engine == "ray" else model
    opened = partial(Judge.from_gguf, path, context=context, parallel=parallel, calibrated=calibrated)
    if engine == "ray":
        cores = threads or max(usable_cores() // workers, 1)
        return RayPool(partial(opened, threads=cores, memory=limit), workers, threads=cores)
    if workers == 1:
        return opened(threads=threads, memory=limit)
    cores = max((threads or usable_cores()) // workers, 1)
    return Workers(partial(opened, threads=cores, memory=limit and limit // workers), workers)
