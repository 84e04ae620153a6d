"""A file of rows -> a file of judgements: `sre judge`.

output_rows.py says what a row holds, journal.py how it is kept, workers.py how several processes share the rows. Rows
are read as they are needed, so memory doesn't grow with the file.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from recipe.data.benchmark_formats import GENERAL
from recipe.data.columns import LABEL, ReadRow, Row
from recipe.data.examples import read_rows
from recipe.data.files import Source
from recipe.data.notices import FIRST_ROWS, notices
from recipe.data.records import Example, Rubric, Task
from recipe.data.rubrics import NamedRubric, by_task, ready_rubrics
from recipe.data.values import unclear, unwritable
from recipe.errors import SreError, plural, printable
from recipe.inference.openai import OpenAIGenerator
from recipe.judge.journal import Journal
from recipe.judge.judge import DEFAULT, Judge, to_bytes
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import (
    WINDOW,
    JudgedRow,
    bad_row,
    in_windows,
    input_hash,
    result_rows,
    with_columns,
)
from recipe.judge.workers import Pool, RayPool, Workers
from recipe.system import usable_cores

STDOUT_WINDOW = 128
"""Examples given to the engine at once where their rows are printed in order: how many a row may wait for."""

Engine = Literal["llamacpp", "openai", "ray"]
Judges = Judge | Pool
Opener = Callable[[], AbstractContextManager[Judges]]
Progress = Callable[[int, int | None], None]


@dataclass
class Summary:
    """Counts of the rows in an output."""

    rows: int = 0
    resumed: int = 0  # kept from an earlier run
    malformed: int = 0  # the model wrote no label
    errors: int = 0  # could not be read or judged
    inconsistent: int = 0  # pairs whose two orders disagree
    ties: int = 0  # those of them that got no label by the tie rule
    tied_truths: int = 0  # given labels that are ties
    odd_truths: int = 0  # given labels that can't be read
    empty: int = 0  # of those judged in this run, with an empty response
    not_utf8: int = 0  # of those judged in this run, with bytes that the output can't have
    examples: dict[str, str] = field(default_factory=dict)  # the first row that counts as an error, or has an odd label
    seconds: float = 0.0  # wall time of this run
    labels: Counter[int] = field(default_factory=Counter)  # how often each was given
    won: Counter[str] = field(default_factory=Counter)  # how often the response of each column was the better one
    unclear: Counter[Task] = field(default_factory=Counter)  # by task, given numbers that are no labels
    truths: Counter[str] = field(default_factory=Counter)  # by task, the rows with a given label
    given: set[tuple[str, int]] = field(default_factory=set)  # the tasks and given labels of rows judged in one order
    agreed: Counter[str] = field(default_factory=Counter)  # by task, those of them where the judge gave the same

    def count(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        inconsistent = row.get("consistent") is False
        self.inconsistent += inconsistent
        if row["label"] is not None:
            self.labels[int(row["label"])] += 1
            self.won.update([row["won"]] if row.get("won") else [])
        elif row["finish"] == "error":
            self.errors += 1
            self.examples.setdefault("errors", f"{row['id']}: {row['error']}")
        elif inconsistent:
            self.ties += 1
        else:
            self.malformed += 1
        if note := row.get("truth_note"):
            if unclear(note):
                self.unclear[row["task"]] += 1
            else:
                self.tied_truths += note == "tie"
                self.odd_truths += note != "tie"
            about = f"agreement, {row['task']}" if unclear(note) else "labels left out"
            self.examples.setdefault(about, f"{row['id']}: {note}")
        if row.get("truth") is not None and row["finish"] != "error":
            self.truths[row["task"]] += 1
            self.agreed[row["task"]] += row["label"] == row["truth"]
            if "consistent" not in row:
                self.given.add((row["task"], row["truth"]))

    @property
    def rows_per_second(self) -> float:
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """One line for each fact; what doesn't apply is left out."""
        kept = f" ({self.resumed:,} kept from before)" if self.resumed else ""
        found = {"rows": f"{self.rows:,}{kept}", "malformed": f"{self.malformed:,}", "errors": f"{self.errors:,}"}
        if self.inconsistent:
            found["inconsistent"] = f"{self.inconsistent:,} (orders disagree), {self.ties:,} of them ties"
        for task, count in sorted(self.truths.items(), reverse=True):
            agreed = self.agreed[task]
            found[f"agreement, {task}"] = f"{agreed:,} of {plural(count, 'given label')} ({agreed / count:.0%})"
            alike = [label for of, label in self.given if of == task]
            if count > 1 == len(alike):
                swap = " (try --swap)" if task == "pairwise" else ""
                always = f"so a judge that always says {alike[0]} agrees with all{swap}"
                found[f"agreement, {task}"] += f"; every given label is {alike[0]}, {always}"
        for task, count in self.unclear.items():
            why = f"{plural(count, 'given label')} may mean something else"
            found[f"agreement, {task}"] = f"not counted, as {why} (--map {LABEL[task]}=COLUMN names another column)"
        if left_out := self.tied_truths + self.odd_truths:
            kinds = f"{plural(self.tied_truths, 'tie')}, {self.odd_truths:,} unreadable"
            found["labels left out"] = f"{plural(left_out, 'given label')}: {kinds}"
        if self.empty:
            found["empty responses"] = f"in {plural(self.empty, 'row')}, judged like the others"
        if self.not_utf8:
            changed = "with bytes that aren't UTF-8, written as ?; save the file as UTF-8"
            found["changed"] = f"{plural(self.not_utf8, 'row')} {changed}"
        found |= {name: printable(f"{found[name]}; the first is {first}") for name, first in self.examples.items()}
        found["speed"] = f"{self.rows_per_second:,.1f} rows/s"
        found["labels"] = ", ".join(f"{label}: {count:,}" for label, count in sorted(self.labels.items())) or "none"
        if self.won:
            found["won"] = printable(", ".join(f"{name}: {count:,}" for name, count in sorted(self.won.items())))
        return "\n".join(f"{name:22}{text}" for name, text in found.items())


def judge_file(
    judge: Judges | Opener,
    source: str | Path,
    out: str | Path,
    *,
    options: JudgeOptions = DEFAULT,
    resume: bool = False,
    overwrite: bool = False,
    rubric: NamedRubric | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
    **reading: Any,
) -> Summary:
    """Judge every row of `source` once, into `out`. Labels may be missing.

    Rows are on disk soon after they finish, and an interrupt loses none of them. A row that can't be read or judged is
    written with its error and counted. `Journal` explains `resume` and `overwrite`, `read_rows` what `reading` is.

    judge: one judge, or several that share the rows; or what opens them, once the first rows have been read. rubric:
    for rows that bring none. progress: called with (rows done, rows in all or None) after each row. tell: called with a
    line for each thing to know about how the rows are read. Raises SreError where no row can be read or nothing can be
    written, and for a resume with another model, other prompts, options or rows.
    """
    rubrics = by_task(rubric)
    limit = reading.pop("limit", None)
    seen = max(limit, FIRST_ROWS) if limit and limit > 0 else limit  # what a limit hides may tell what the labels mean
    rows = read_rows(source, rubrics=rubrics, limit=seen, **reading)
    place = Source(str(source), reading.get("task"), reading.get("split", "train"))
    journal = Journal(out, resume=resume, overwrite=overwrite, sources=place.files())
    incomparable: dict[Task, str] = {}
    begun, total = _begun(rows, source, options, rubrics, tell, limit, incomparable)
    if total is None:
        total = place.count() if progress and limit is None else limit
    given = [*rubrics.values(), *GENERAL.values(), *(ready.rubric for ready in ready_rubrics().values())]
    with judge() if callable(judge) else nullcontext(judge) as judges:
        summary = _judge_all(judges, begun, journal, options, given, progress, total)
    firsts = {f"agreement, {task}": first for task, first in incomparable.items()}  # of the file; rows end in any order
    summary.examples |= {name: first for name, first in firsts.items() if name in summary.examples}
    return summary


def judge_rows(
    judge: Judges,
    examples: Sequence[Example],
    out: str | Path,
    *,
    options: JudgeOptions = DEFAULT,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """`judge_file` for examples of different ids; the output holds the judgements alone."""
    rows = (ReadRow(example.id, Row("", "", 0, {}), example) for example in examples)
    journal = Journal(out, resume=resume, overwrite=overwrite)
    return _judge_all(judge, rows, journal, options, (), progress, len(examples))


def _begun(
    rows: Iterable[ReadRow],
    source: str | Path,
    options: JudgeOptions,
    rubrics: Mapping[Task, Rubric],
    tell: Callable[[str], None],
    limit: int | None,
    incomparable: dict[Task, str],
) -> tuple[Iterator[ReadRow], int | None]:
    """The rows up to the limit, and their number if they are few. Raises SreError where none can be judged.

    incomparable: see `_comparable`. Rows beyond the limit that were read count there.
    """
    stream = iter(rows)
    first: list[ReadRow] = []
    while not any(row.example for row in first[:limit]):
        more = list(itertools.islice(stream, FIRST_ROWS))
        if not more:
            no_rows = SreError("no rows; expected one or more", file=source)
            raise next((row.error for row in first if row.error), no_rows)
        first += more
    list(_comparable(first, incomparable))  # what the labels mean is known once all of the first are seen
    first = list(_comparable(first[:limit], incomparable))
    ended = len(first) % FIRST_ROWS > 0
    if options.swap and ended and not any(row.example and row.example.task == "pairwise" for row in first):
        raise SreError("swap judges pairs in both orders, and no row is a pair")
    no_agreement = [f"agreement with the given labels is not counted, {why}" for why in incomparable.values()]
    for line in (*notices(first, rubrics), *no_agreement):
        tell(printable(line))
    return itertools.chain(first, _comparable(stream, incomparable)), len(first) if ended else None


def _comparable(rows: Iterable[ReadRow], incomparable: dict[Task, str]) -> Iterator[ReadRow]:
    """The rows, without the labels of a task once one of them is unclear: the others may be read wrongly then.

    incomparable: of each task with an unclear label, the first one. What the rows show is added to it.
    """
    for row in rows:
        if example := row.example:
            if unclear(example.label_note):
                incomparable.setdefault(example.task, f"{row.id}: {example.label_note}")
            label = None if example.task in incomparable else example.label
            row = replace(row, example=replace(example, label=label))
        yield row


def _judge_all(
    judge: Judges,
    rows: Iterable[ReadRow],
    journal: Journal,
    options: JudgeOptions,
    given: Sequence[Rubric],
    progress: Progress | None,
    total: int | None,
) -> Summary:
    summary = Summary()
    waiting: dict[str, tuple[int, ReadRow]] = {}

    def keep(place: int, read: ReadRow, row: JudgedRow) -> None:
        written = with_columns(row, read, options, given)
        journal.add(place, written)
        summary.count(written)
        if read.example and not all(text.strip() for text in read.example.responses):
            summary.empty += 1
            summary.examples.setdefault("empty responses", row["id"])
        if unwritable(read.raw.cells):
            summary.not_utf8 += 1
            summary.examples.setdefault("changed", row["id"])
        if progress:
            progress(summary.rows, total)

    def examples() -> Iterator[Example]:
        for place, row in enumerate(rows):
            if journal.has(row.id, place, input_hash(row), row.example.rubric if row.example else None):
                continue
            if row.example is None:
                keep(place, row, bad_row(row))
            else:
                waiting[row.id] = place, row
                yield row.example

    with journal:
        journal.begin({**judge.identity, **asdict(options)}, summary.count)
        summary.resumed = summary.rows
        start = time.monotonic()
        try:
            results: Iterator[JudgedRow]
            if isinstance(judge, Judge):
                windows = in_windows(examples(), STDOUT_WINDOW if journal.stdout else WINDOW)
                results = (row for window in windows for row in result_rows(judge, window, options))
            else:
                results = judge.rows(examples(), options)
            for result in results:
                keep(*waiting.pop(result["id"]), result)
        finally:
            journal.flush()
            summary.seconds = time.monotonic() - start
        journal.finish()
    return summary


def open_judges(
    model: Path | None,
    *,
    engine: Engine = "llamacpp",
    base_url: str = "",
    workers: int = 1,
    threads: int | None = None,
    memory: str | None = None,
    **options: Any,
) -> Judge | Workers | RayPool:
    """A judge, or several of one kind; use as a context manager. Raises SreError where it can't be opened.

    model: a GGUF file; for "openai" the name of a model at `base_url`, None for its only one. workers: processes. Each
    has an equal part of `threads` and `memory`; under "ray", where they may be on several machines, as much as is
    given. The other options are those of `Judge.from_gguf`.
    """
    if engine == "openai":
        parallel = options.get("parallel", 16)
        return Judge(OpenAIGenerator(base_url, model=None if model is None else str(model), parallel=parallel))
    if model is None:
        raise SreError("expected a GGUF file", field="model")
    # Absolute, because Ray's workers may have another working directory.
    opened = partial(Judge.from_gguf, model.absolute() if engine == "ray" else model, **options)
    limit = None if memory is None else to_bytes(memory)
    if engine == "ray":
        cores = threads or max(usable_cores() // workers, 1)
        return RayPool(partial(opened, threads=cores, memory=limit), workers, threads=cores)
    if workers == 1:
        return opened(threads=threads, memory=limit)
    cores = max((threads or usable_cores()) // workers, 1)
    return Workers(partial(opened, threads=cores, memory=limit and limit // workers), workers)
