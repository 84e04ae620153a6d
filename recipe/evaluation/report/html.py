"""The report of finished runs: one HTML page that needs nothing beside it, and its tables in Markdown.

What wasn't run says "not run". The page's words and style are in report.html.jinja.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement, Task
from recipe.evaluation.calibration import calibration_figures, error_histogram, histogram
from recipe.evaluation.evaluate import FORCED
from recipe.evaluation.report.charts import Bars, Line, Lines, bar_panels, line_panels
from recipe.evaluation.report.collect import NO_ROWS, Group, RunData, grouped
from recipe.evaluation.report.tables import (
    FORGERY,
    NOT_RUN,
    Grid,
    audit_grids,
    differences_grid,
    forgery_grid,
    judge_name,
    judges_grid,
    markdown_table,
    stages_grid,
    warning_lines,
)
from recipe.storage import atomic

_SIDE_BY_SIDE = 10


def write_page(runs: Sequence[RunData], comparisons: Sequence[tuple[str, str]], out: Path) -> Path:
    """Write the page to `out` and its tables to the Markdown file beside it, whose path is returned.

    Runs that differ only in their seed are pooled, others stand side by side. comparisons: (first, second) judges of
    the differences to report.
    """
    groups = grouped(runs)
    compared = {group.title: group.compared(comparisons) for group in groups}
    results = _joined({group.title: _judges(group, compared[group.title]) for group in groups})
    gains = _joined({group.title: _gains(group, compared[group.title], comparisons) for group in groups})
    audits = [(title, *table) for title, found in compared.items() for table in audit_grids(found)]
    forged = {name: found for run in runs for name, found in run.forgery.items()}
    warnings = {title: warning_lines(_measured(found)) for title, found in compared.items()}
    curation = _joined({run.path.resolve().name: curation_grid(run) for run in runs})
    costs = {
        run.path.resolve().name: stages_grid({stage: run.stages.get(stage, {}) for stage in run.plan}) for run in runs
    }
    title = f"Report: {' and '.join(group.title for group in groups)}"
    with atomic(out.with_suffix(".md")) as file:
        parts = [f"# {title}\n", *(f"**{line}**\n" for lines in warnings.values() for line in lines)]
        parts += [markdown_table(grid) for grid in (results, gains)]
        parts += [f"{about}, {name}\n\n{markdown_table(grid)}" for name, about, grid in audits]
        parts += [f"{FORGERY}\n\n{markdown_table(forgery_grid(forged))}"] if forged else []
        parts += [markdown_table(curation), *(f"{name}\n\n{markdown_table(grid)}" for name, grid in costs.items())]
        file.write("\n".join(parts))
    page = _template().render(
        title=title,
        about=[_about(group) for group in groups],
        warnings={name: lines for name, lines in warnings.items() if lines},
        results=results,
        differences=gains,
        audits=audits,
        forgery=forgery_grid(forged) if forged else [],
        curves=[(group.title, training_charts(group, k)) for k, group in enumerate(groups)],
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


def _joined(grids: Mapping[str, Grid]) -> Grid:
    """Grids of one head below each other, each row led by its grid's name where there are several."""
    head, *_ = [grid[0] for grid in grids.values()]
    if len(grids) == 1:
        return [head, *(row for grid in grids.values() for row in grid[1:])]
    return [["run", *head], *([name, *row] for name, grid in grids.items() for row in grid[1:])]


def _judges(group: Group, compared: Mapping[str, Any]) -> Grid:
    grid = judges_grid(compared["models"], ranks=True)
    for row, judge in zip(grid[1:], group.judges, strict=True):
        measured = len(group.measured(judge))
        if 0 < measured < len(group.runs):
            row[0] += f" ({measured} of {len(group.runs)} seeds)"
    return grid


def _gains(group: Group, compared: Mapping[str, Any], comparisons: Sequence[tuple[str, str]]) -> Grid:
    found: dict[str, Any] = {}
    for first, second in comparisons:
        both = set(group.measured(first)) & set(group.measured(second))
        gain = compared.get("differences", {}).get(f"{second} - {first}") or (NO_ROWS if both else NOT_RUN)
        found[f"{judge_name(second)} − {judge_name(first)}"] = gain
    return differences_grid(found)


def _measured(compared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in compared["models"].items() if isinstance(found, Mapping)}


def curation_grid(run: RunData) -> Grid:
    """One row an iteration: what was sampled, and how many pairs came of it."""
    grid = [["iteration", "inputs", "samples", "malformed", "right", "pairs", "inputs with 0, 1, 2 … pairs"]]
    for t in range(1, run.config.iterations + 1):
        found = run.curation(t)
        if not found:
            grid.append([str(t), *[NOT_RUN] * 6])
            continue
        samples, spread = max(found["samples"], 1), found["pairs_per_input"]
        shares = [f"{found[key] / samples:.0%}" for key in ("malformed", "right")]
        counts = ", ".join(str(spread.get(k, 0)) for k in range(max(spread, default=0) + 1))
        grid.append([str(t), str(found["inputs"]), str(found["samples"]), *shares, str(found["pairs"]), counts])
    return grid


# --- charts ---


def training_charts(group: Group, number: int) -> list[str]:
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


def label_chart(group: Group, task: Task, name: str) -> str:
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


def error_chart(group: Group, name: str) -> str:
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


def reliability_chart(group: Group, task: Task, name: str) -> str:
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
            "training data": " and ".join(dict.fromkeys(filter(None, map(config.data.source, TASKS)))),
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
        "labels": {task: label_chart(group, task, f"labels-{task}-{number}") for task in TASKS},
        "errors": error_chart(group, f"errors-{number}"),
        "reliability": {task: reliability_chart(group, task, f"reliability-{task}-{number}") for task in TASKS},
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
