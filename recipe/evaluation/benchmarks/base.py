"""What a benchmark is, how its rows are read, and the figures that several share. Runs no model.

`figures` of a benchmark returns {"headline": {name: {"value", "low", "high", "n"}, ...}, "details": {...}}: the
headline is what a table shows, the details are what figures.json keeps.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from recipe.data.examples import read_examples
from recipe.data.records import Example, Task, in_both_orders
from recipe.errors import SreError
from recipe.evaluation.audit import FIGURES, figures_by_task
from recipe.evaluation.metrics import calibration_figures, correlation, rate_figure
from recipe.evaluation.trivial import RowVerdict

Figures = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """Rows of a benchmark, and the verdicts by the ids of what was judged."""

    rows: Sequence[Example]
    verdicts: Mapping[str, RowVerdict]
    resamples: int

    @property
    def prompts(self) -> list[str]:
        """The rows' prompt ids: what the bootstrap draws."""
        return [row.prompt_id for row in self.rows]

    def rate(self, outcomes: Sequence[float]) -> Figures:
        return rate_figure(outcomes, self.prompts, self.resamples)

    def rates_by(self, parts: Sequence[str], outcomes: Sequence[float]) -> dict[str, Figures]:
        """The mean outcome of the rows of each part, by its name."""
        found = {}
        for name in sorted(set(parts)):
            kept = [k for k, part in enumerate(parts) if part == name]
            found[name] = replace(self, rows=[self.rows[k] for k in kept]).rate([outcomes[k] for k in kept])
        return found


def figures_by(part: Callable[[Example], str], judged: Judged) -> Figures:
    """Figures of each part of the rows, their names led by the part where there are several."""
    parts = {}
    for name in dict.fromkeys(map(part, judged.rows)):
        parts[name] = labelled_figures(replace(judged, rows=[row for row in judged.rows if part(row) == name]))
    if len(parts) == 1:
        return next(iter(parts.values()))
    headline = {f"{name}: {key}": value for name, found in parts.items() for key, value in found["headline"].items()}
    return {"headline": headline, "details": {name: found["details"] for name, found in parts.items()}}


by_task = partial(figures_by, attrgetter("task"))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    hub: the published name, with the configuration after a colon. splits: read one after the other; in a local
    folder "a_b" may be the folder a/b. task: of its rows. prepare: rows -> the examples that are judged; their ids
    differ. aspects: those that its rows may have (none: any). audited: the rows' own verdicts for the shortcut audit,
    where what was judged are not the rows.
    """

    name: str
    hub: str
    splits: tuple[str, ...]
    task: Task | None
    figures: Callable[[Judged], Figures] = by_task
    prepare: Callable[[Sequence[Example]], list[Example]] = list
    aspects: Collection[str] = ()
    audited: Callable[[Sequence[Example], Mapping[str, RowVerdict]], list[RowVerdict]] | None = None


def load_rows(
    benchmark: Benchmark, data: str | Path | None = None, limit: int | None = None, **reading: Any
) -> list[Example]:
    """The labelled rows of a benchmark; with several splits, a row's id begins with its split.

    The split is a row's `aspect` where it has none. data: a folder in the published layout, or one file with all rows
    [default: the hub]. limit: so many rows, evenly spread over all. reading: see `read_examples`; its skip_bad_rows is
    a folder, with a file for each split. Raises SreError for rows of something else.
    """
    source = str(data or benchmark.hub)
    splits = ("",) if Path(source).is_file() else benchmark.splits
    rows: list[Example] = []
    folder = reading.pop("skip_bad_rows", None)
    for split in splits:
        place = split.replace("_", "/") if (Path(source) / split.replace("_", "/")).is_dir() else split
        rejects = folder / f"rejects-{split or 'rows'}.jsonl" if folder else None
        found = read_examples(source, task=benchmark.task, split=place, skip_bad_rows=rejects, **reading)
        if len(splits) > 1:
            found = [replace(row, id=f"{split}:{row.id}", aspect=row.aspect or split) for row in found]
        rows += found
    for row in rows:
        if benchmark.aspects and row.aspect not in benchmark.aspects:
            expected = f"the columns of {benchmark.hub}, with a subset of {', '.join(sorted(benchmark.aspects))}"
            raise SreError(f"{row.origin}: expected {expected}; not {row.aspect!r}", field="subset")
    return take_evenly(rows, limit)


def take_evenly(rows: Sequence[Example], limit: int | None) -> list[Example]:
    """`limit` of the rows, evenly spread, in order; all where there are no more."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[k * len(rows) // limit] for k in range(limit)]


def own_rows(name: str) -> Benchmark:
    """The benchmark that any labelled file of one's own is: both tasks' figures, pairs in both orders."""

    def figures(judged: Judged) -> Figures:
        return by_task(replace(judged, rows=in_both_orders(judged.rows)))

    return Benchmark(name, name, ("test",), None, figures, in_both_orders)


def labelled_figures(judged: Judged) -> Figures:
    """Of labelled rows of one task: agreement with the truth, calibration, and of pairs, as in the paper, Pearson."""
    rows, task = judged.rows, judged.rows[0].task
    said = [judged.verdicts[row.id] for row in rows]
    truth, labels = [row.label or 0 for row in rows], [verdict.label for verdict in said]
    details = figures_by_task(rows, said, judged.resamples)[task]
    details["calibration"] = calibration_figures([verdict.label_probabilities for verdict in said], truth)
    if task == "pairwise":
        details["pearson"] = correlation(truth, labels, judged.prompts, resamples=judged.resamples)
    headline = {FIGURES["labels"][name]: details[name] for name in FIGURES["benchmark"][task] if details[name]["n"]}
    return {"headline": headline, "details": details}
