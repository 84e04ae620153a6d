"""What a benchmark is, how its rows are read, and the figures that several share. Runs no model.

`figures` of a benchmark returns {"headline": {name: {"value", "low", "high", "n"}, ...}, "details": {...}}: the
headline is what a table shows, the details are what figures.json keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, Task
from recipe.errors import SreError
from recipe.evaluation.calibration import calibration_figures, error_histogram
from recipe.evaluation.metrics import pairwise_figures, pearson_figure, pointwise_figures
from recipe.evaluation.rationales import rationale_figures


class Verdict(NamedTuple):
    """What a judge said about one example: a label, or None where it is malformed or was not judged."""

    label: int | None
    expected: float | None
    probabilities: dict[int, float]
    rationale: str


Verdicts = Mapping[str, Verdict]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    hub: the published name, with the configuration after a colon. splits: read one after the other; in a local
    folder "a_b" may be the folder a/b. task: of its rows. prepare: rows -> the examples that are judged; their ids
    differ. figures: (rows, verdicts by the ids of what was judged, resamples) -> see this module's docstring.
    truth: a second truth, read from (source, split): row id -> value. check: raises SreError for foreign rows.
    """

    name: str
    about: str
    hub: str
    splits: tuple[str, ...]
    task: Task | None
    prepare: Callable[[Sequence[Example]], list[Example]]
    figures: Callable[[Sequence[Example], Verdicts, Mapping[str, float], int], Figures]
    truth: Callable[[str, str], dict[str, float]] | None = None
    check: Callable[[Sequence[Example]], None] | None = None


def as_they_are(rows: Sequence[Example]) -> list[Example]:
    return list(rows)


def load_rows(
    benchmark: Benchmark, data: str | Path | None, limit: int | None
) -> tuple[list[Example], dict[str, float]]:
    """The rows, with the second truths by id (empty without any). limit: so many rows, evenly spread over all.

    data: a folder in the published layout, or one file with all rows; None is the hub. With several splits a row's
    `aspect` is its split, unless it has one, and its id begins with it. Raises SreError for what can't be read.
    """
    source = str(data or benchmark.hub)
    splits = ("",) if Path(source).is_file() else benchmark.splits
    rows: list[Example] = []
    truths: dict[str, float] = {}
    for split in splits:
        place = split.replace("_", "/") if (Path(source) / split.replace("_", "/")).is_dir() else split
        # A second truth is a label too: then the first may be missing.
        found = read_examples(source, task=benchmark.task, split=place, need_label=benchmark.truth is None)
        if len(splits) > 1:
            found = [replace(row, id=f"{split}:{row.id}", aspect=row.aspect or split) for row in found]
        rows += found
        if benchmark.truth:
            truths |= benchmark.truth(source, place)
    if benchmark.check:
        benchmark.check(rows)
    return spread(rows, limit), truths


def spread(rows: Sequence[Example], limit: int | None) -> list[Example]:
    """`limit` of the rows, evenly spread, in order; all where there are no more."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[k * len(rows) // limit] for k in range(limit)]


def own_rows(name: str) -> Benchmark:
    """The benchmark that any labelled file of one's own is: both tasks' figures."""
    return Benchmark(name, "your own rows", name, ("test",), None, as_they_are, both_tasks)


def both_tasks(rows: Sequence[Example], verdicts: Verdicts, _: Mapping[str, float], resamples: int) -> Figures:
    """Figures of each task that has rows, their names led by the task where both have."""
    parts: dict[Task, Figures] = {}
    for task in TASKS:
        chosen = [row for row in rows if row.task == task]
        if chosen:
            measure = score_figures if task == "pointwise" else preference_figures
            parts[task] = measure(chosen, verdicts, resamples)
    if len(parts) == 1:
        return next(iter(parts.values()))
    headline = {f"{task}: {name}": value for task, part in parts.items() for name, value in part["headline"].items()}
    return {"headline": headline, "details": {task: part["details"] for task, part in parts.items()}}


def score_figures(rows: Sequence[Example], verdicts: Verdicts, resamples: int) -> Figures:
    """Of scored rows with labels: correlations, agreement, calibration, errors, rationales."""
    truth, labels, groups = columns(rows, verdicts)
    expected = [verdicts[row.id].expected for row in rows]
    found = pointwise_figures(truth, labels, groups, resamples=resamples, expected=expected)
    low, high = min(row.labels[0] for row in rows), max(row.labels[-1] for row in rows)
    details = {
        **found,
        "calibration": calibration_figures(distributions(rows, verdicts), truth),
        "errors": error_histogram(truth, labels, high - low),
        "rationales": written(rows, verdicts),
    }
    names = {
        "Pearson": "pearson",
        "Pearson, expected score": "pearson_expected",
        "Spearman": "spearman",
        "Kendall": "kendall",
        "quadratic kappa": "qwk",
        "accuracy": "accuracy",
    }
    return {"headline": {name: found[key] for name, key in names.items()}, "details": details}


def preference_figures(rows: Sequence[Example], verdicts: Verdicts, resamples: int) -> Figures:
    """Of labelled pairs: accuracy, and Pearson of the preference as the paper prints it."""
    truth, labels, groups = columns(rows, verdicts)
    found = pairwise_figures(truth, labels, groups, resamples=resamples)
    pearson = pearson_figure(truth, labels, groups, resamples=resamples)
    details = {
        **found,
        "pearson": pearson,
        "calibration": calibration_figures(distributions(rows, verdicts), truth),
        "rationales": written(rows, verdicts),
    }
    return {"headline": {"accuracy": found["accuracy"], "Pearson": pearson}, "details": details}


def columns(rows: Sequence[Example], verdicts: Verdicts) -> tuple[list[int], list[int | None], list[str]]:
    """Truths, labels and prompt ids of rows that have a label."""
    truth = [row.label for row in rows if row.label is not None]
    if len(truth) < len(rows):
        raise SreError("rows without a label can't be measured")
    return truth, [verdicts[row.id].label for row in rows], [row.prompt_id for row in rows]


def distributions(rows: Sequence[Example], verdicts: Verdicts) -> list[dict[int, float]]:
    return [verdicts[row.id].probabilities for row in rows]


def written(rows: Sequence[Example], verdicts: Verdicts) -> dict[str, Any]:
    """`rationale_figures` of what was written about the rows."""
    return rationale_figures([verdicts[row.id].rationale for row in rows], [row.rubric.criteria for row in rows])
