"""The report of finished runs: one HTML page that needs nothing beside it, and its tables in Markdown.

What wasn't run says "not run"; nothing is computed that isn't in the run folders (runs.py). The page's words and style
are in report.html.jinja, its figures in figures.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement, Task
from recipe.evaluation.calibration import calibration_figures, error_histogram
from recipe.evaluation.evaluate import FORCED
from recipe.evaluation.metrics import histogram
from recipe.evaluation.report.charts import Bars, Line, Lines, bar_panels, line_panels
from recipe.evaluation.report.collect import Group, RunData, grouped
from recipe.evaluation.report.tables import GAINS, NOT_RUN, figure_text, gain_texts, judge_name, markdown_table
from recipe.storage import atomic

NO_ROWS = "rows missing"  # measured, but the figure takes rows that can't be read
_SIDE_BY_SIDE = 10


@dataclass(frozen=True)
class Table:
    """A head and rows of texts; the first column is the rows' name."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def named_once(self) -> Table:
        """Without the first column where all rows have the same name in it."""
        if len({row[0] for row in self.rows}) > 1:
            return self
        return Table(self.head[1:], [row[1:] for row in self.rows])

    def markdown(self) -> str:
        return markdown_table([self.head, *self.rows])


def write_page(runs: Sequence[RunData], comparisons: Sequence[tuple[str, str]], out: Path) -> Path:
    """Write the page to `out` and its tables to the Markdown file beside it, whose path is returned.

    Runs that differ only in their seed are pooled, others stand side by side. comparisons: (first, second) judges of
    the differences to report.
    """
    groups = grouped(runs)
    results, gains = results_table(groups).named_once(), differences_table(groups, comparisons).named_once()
    curation = curation_table(runs).named_once()
    costs = {run.path.resolve().name: costs_table(run) for run in runs}
    title = f"Report: {' and '.join(group.title for group in groups)}"
    with atomic(out.with_suffix(".md")) as file:
        parts = [f"# {title}\n", results.markdown(), gains.markdown(), curation.markdown()]
        parts += [f"{name}\n\n{table.markdown()}" for name, table in costs.items()]
        file.write("\n".join(parts))
    page = _template().render(
        title=title,
        about=[_about(group) for group in groups],
        results=results,
        differences=gains,
        curves=[(group.title, training_figures(group, k)) for k, group in enumerate(groups)],
        curation=curation,
        dropped=[_dropped(run) for run in runs],
        judged=[_judged(group, k) for k, group in enumerate(groups)],
        costs=costs,
        rationales=[_rationales(group) for group in groups],
        not_run=NOT_RUN,
        no_rows=NO_ROWS,
    )
    with atomic(out) as file:
        file.write(page)
    return out.with_suffix(".md")


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # models and data write what they like
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


# --- tables ---


def results_table(groups: Sequence[Group]) -> Table:
    """One row a run and judge: rows, malformed, Pearson, Spearman, kappa, both accuracies, with 95% intervals."""
    head = ("run", "judge", "rows", "malformed", "Pearson", "Spearman", "kappa (quadratic)", "pointwise accuracy")
    rows = []
    for group in groups:
        for judge in group.judges:
            found = group.figures(judge)
            cells = _figure_cells(found) if found else (NO_ROWS if group.measured(judge) else NOT_RUN,) * 7
            rows.append((group.title, judge_name(judge) + _share_of_seeds(group, judge), *cells))
    return Table((*head, "pairwise accuracy"), rows)


def _figure_cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    pointwise, pairwise = found["pointwise"], found["pairwise"]
    n, malformed = pointwise["n"] + pairwise["n"], pointwise["malformed"] + pairwise["malformed"]
    return (
        f"{pointwise['n']} + {pairwise['n']}",
        f"{malformed} ({malformed / max(n, 1):.0%})",
        *(figure_text(pointwise[name]) for name in ("pearson", "spearman", "qwk", "accuracy")),
        figure_text(pairwise["accuracy"]),
    )


def _share_of_seeds(group: Group, judge: str) -> str:
    measured = len(group.measured(judge))
    return f" ({measured} of {len(group.runs)} seeds)" if 0 < measured < len(group.runs) else ""


def differences_table(groups: Sequence[Group], comparisons: Sequence[tuple[str, str]]) -> Table:
    """One row a run and comparison: the second judge minus the first, see report.GAINS."""
    head = ("run", "difference", *GAINS)
    rows = []
    for group in groups:
        for first, second in comparisons:
            found = group.difference(first, second)
            both = set(group.measured(first)) & set(group.measured(second))
            cells = gain_texts(found) if found else [NO_ROWS if both else NOT_RUN] * len(GAINS)
            rows.append((group.title, f"{judge_name(second)} − {judge_name(first)}", *cells))
    return Table(head, rows)


def curation_table(runs: Sequence[RunData]) -> Table:
    """One row a run and iteration: what was sampled, and how many pairs came of it."""
    head = ("run", "iteration", "inputs", "samples", "malformed", "right", "pairs", "inputs with 0, 1, 2 … pairs")
    rows = []
    for run in runs:
        for t in range(1, run.config.iterations + 1):
            found = run.curation(t)
            cells: tuple[str, ...] = (NOT_RUN,) * 6
            if found:
                samples, spread = max(found["samples"], 1), found["pairs_per_input"]
                cells = (
                    str(found["inputs"]),
                    str(found["samples"]),
                    f"{found['malformed'] / samples:.0%}",
                    f"{found['right'] / samples:.0%}",
                    str(found["pairs"]),
                    ", ".join(str(spread.get(k, 0)) for k in range(max(spread) + 1)),
                )
            rows.append((run.path.resolve().name, str(t), *cells))
    return Table(head, rows)


def costs_table(run: RunData) -> Table:
    """Wall time, tokens and peak memory of each stage of the plan."""
    rows = []
    for stage in run.plan:
        marker = run.stages.get(stage)
        if marker is None or "finished" not in marker:
            rows.append((stage, *((NOT_RUN if marker is None else "unfinished",) * 3)))
            continue
        tokens = f"{marker['tokens']:,}" if marker["tokens"] else "none"
        rows.append((stage, duration(marker["wall_s"]), tokens, _peak([marker])))
    finished = [marker for marker in run.stages.values() if "finished" in marker]
    total = duration(sum(marker["wall_s"] for marker in finished))
    rows.append(("all finished stages", total, f"{sum(m['tokens'] for m in finished):,}", _peak(finished)))
    return Table(("stage", "wall time", "tokens", "peak memory"), rows)


def _peak(markers: Sequence[Mapping[str, Any]]) -> str:
    """The most memory of those stages that recorded theirs."""
    recorded = [marker["peak_rss_mb"] for marker in markers if "peak_rss_mb" in marker]
    return f"{max(recorded):,} MiB" if recorded else "not recorded"


def duration(seconds: float) -> str:
    """ "7.2 s", "5 min 6 s", "2 h 3 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- figures ---


def training_figures(group: Group, number: int) -> list[str]:
    """Loss per optimiser step of each training stage, one line a seed, dots for the dev loss; DPO's reward accuracy."""
    losses, rewards = [], []
    for stage in group.runs[0].trained:
        logs = [run.history(stage) or [] for run in group.runs]
        dpo = stage.startswith("iter-")
        name = f"J{stage.removeprefix('iter-')}, DPO" if dpo else stage.replace("sft-", "SFT ")
        losses.append(Lines(name, [*_lines(logs, "loss"), *_lines(logs, "eval_loss", second=True)]))
        if dpo:
            rewards.append(Lines(name, _lines(logs, "rewards/accuracies")))
    about = f"Training of {group.title}"
    found = [line_panels(losses, name=f"loss-{number}", title=f"{about}: loss per step", x="step", y="loss")]
    if rewards:
        title = f"{about}: reward accuracy per step"
        found.append(line_panels(rewards, name=f"rewards-{number}", title=title, x="step", y="reward accuracy"))
    return found


def _lines(logs: Sequence[Sequence[Mapping[str, Any]]], key: str, *, second: bool = False) -> list[Line]:
    return [Line(points, second=second, dots=second) for log in logs if (points := _points(log, key))]


def _points(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def label_figure(group: Group, task: Task, name: str) -> str:
    """Share of each label that each judge gave, malformed last; marks are the truth's shares."""
    verdicts = _verdicts(group, task)
    seen = {label for rows in verdicts.values() for j in rows or () for label in (j.label, j.truth)} - {None}
    labels = sorted({1, 2, *seen, *(() if task == "pairwise" else (3, 4, 5))})
    panels = []
    for judge, rows in verdicts.items():
        if rows is None:
            panels.append(Bars(judge_name(judge), None))
            continue
        given, true = (histogram(side, labels) for side in ([j.label for j in rows], [j.truth for j in rows]))
        n = max(len(rows), 1)
        heights = {key.replace("malformed", "?"): count / n for key, count in given.items()}
        outline = {str(label): true[str(label)] / n for label in labels}
        panels.append(Bars(judge_name(judge), heights, outline, strong="?"))
    title = f"Labels given by each judge of {group.title}, {task}"
    return bar_panels(panels, name=name, title=title, x="label", y="share of rows")


def error_figure(group: Group, name: str) -> str:
    """Truth minus label of the pointwise rows, malformed last (the paper's Figure 5)."""
    panels = []
    for judge, rows in _verdicts(group, "pointwise").items():
        if rows is None:
            panels.append(Bars(judge_name(judge), None))
            continue
        truth = [j.truth for j in rows if j.truth is not None]
        labels = [j.label for j in rows if j.truth is not None]
        largest = max((abs(t - p) for t, p in zip(truth, labels, strict=True) if p is not None), default=0)
        counts = error_histogram(truth, labels, max(largest, 4))
        n = max(len(truth), 1)
        heights = {key.replace("malformed", "?").replace("-", "−"): count / n for key, count in counts.items()}
        panels.append(Bars(judge_name(judge), heights, strong="?"))
    title = f"Errors of each judge of {group.title}: truth minus label"
    return bar_panels(panels, name=name, title=title, x="truth − label", y="share of rows")


def reliability_figure(group: Group, task: Task, name: str) -> str:
    """How often the most probable label was right, against its probability; ECE is the mean gap."""
    panels = []
    for judge, rows in _verdicts(group, task).items():
        if judge == FORCED:  # the same probabilities as the seed's
            continue
        rated = [j for j in rows or () if j.truth is not None]
        found = calibration_figures([j.label_probabilities for j in rated], [j.truth or 0 for j in rated])
        points = [(cell["confidence"], cell["accuracy"]) for cell in found["bins"] if cell["n"]]
        missing = NOT_RUN if rows is None else "not recorded"
        note = f"ECE {found['ece']:.2f}" if points else missing
        panels.append(Lines(judge_name(judge), [Line(points)] if points else [], note))
    title = f"Reliability of each judge of {group.title}, {task}"
    return line_panels(panels, name=name, title=title, x="probability", y="right", square=True)


def _verdicts(group: Group, task: Task) -> dict[str, list[Judgement] | None]:
    """The judgements of one task by judge, all seeds; None where the judge wasn't measured."""
    return {
        judge: [j for j in group.verdicts(judge) if j.task == task] if group.measured(judge) else None
        for judge in group.judges
    }


# --- what the template shows besides ---


def _about(group: Group) -> dict[str, Any]:
    run = group.runs[0]
    config = run.config
    versions: dict[str, dict[str, None]] = {}  # of several machines' stages all, in order
    for marker in run.stages.values():
        for name, version in marker.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    return {
        "title": group.title,
        "facts": {
            "seed model": config.model.source,
            "training data": " and ".join(dict.fromkeys((config.data.pointwise, config.data.pairwise))),
            "curation": f"{config.curate.method}, margin {config.curate.margin}",
            "random seeds": ", ".join(str(run.config.seed) for run in group.runs),
            "made with": ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items()) or NOT_RUN,
        },
        "problem": next((run.problem for run in group.runs if run.problem), ""),
    }


def _dropped(run: RunData) -> dict[str, Any]:
    found = {t: run.curation(t) for t in range(1, run.config.iterations + 1)}
    return {"title": run.path.resolve().name, "iterations": found}


def _judged(group: Group, number: int) -> dict[str, Any]:
    return {
        "title": group.title,
        "labels": {task: label_figure(group, task, f"labels-{task}-{number}") for task in TASKS},
        "errors": error_figure(group, f"errors-{number}"),
        "reliability": {task: reliability_figure(group, task, f"reliability-{task}-{number}") for task in TASKS},
    }


def _rationales(group: Group) -> dict[str, Any]:
    """Ten rows, half of each task, drawn once: what SFT and the last judge wrote about them (first seed)."""
    run, last = group.runs[0], group.last
    shown: dict[str, Any] = {"title": group.title, "last": judge_name(last) if last else "", "rows": [], "why": ""}
    sides = {judge: run.verdicts(judge) for judge in ("sft", last) if judge}
    if run.examples is None or len(sides) < 2 or None in sides.values():
        shown["why"] = run.problem or f"{NOT_RUN}: it takes the evaluation of SFT and of a later judge"
        return shown
    by_id = [{j.example_id: j for j in verdicts or ()} for verdicts in sides.values()]
    draw = random.Random(0)
    halves = [[row for row in run.examples if row.task == task] for task in TASKS]
    chosen = list(chain(*(draw.sample(half, min(len(half), _SIDE_BY_SIDE // 2)) for half in halves)))
    shown["rows"] = [
        {"example": row, "sides": [_side(row, judge, found[row.id]) for judge, found in zip(sides, by_id, strict=True)]}
        for row in chosen
        if all(row.id in found for found in by_id)
    ]
    return shown


def _side(example: Example, judge: str, judgement: Judgement) -> dict[str, Any]:
    right = "right" if judgement.label == example.label else "wrong"
    return {
        "judge": judge_name(judge),
        "text": judgement.rationale or judgement.text,
        "label": "malformed" if judgement.label is None else str(judgement.label),
        "state": "malformed" if judgement.label is None else right if example.label is not None else "unknown",
        "shares": judgement.label_probabilities,
    }
