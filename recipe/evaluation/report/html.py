"""The report of finished runs: one HTML page that needs nothing beside it, and its tables in Markdown.

What wasn't run says "not run". The page's words and style are in report.html.jinja.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement, Task
from recipe.evaluation.calibration import calibration_figures, error_histogram
from recipe.evaluation.forgery import read_forgery
from recipe.evaluation.report.charts import Panel, training_chart
from recipe.evaluation.report.collect import RunData, compared, grouped
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
    sections: dict[str, list[tuple[str, Grid]]] = {
        name: [] for name in ("results", "audit", "pairs", "labels", "costs")
    }
    warnings, charts = [], []
    for number, (title, group) in enumerate(groups):
        lead = f"{title}: " if len(groups) > 1 else ""
        found = compared(group, comparisons)
        warnings += [lead + line for line in warning_lines(found["models"])]
        sections["results"].append((f"{lead}Judges", judges_grid(found["models"], ranks=True)))
        if found["differences"]:
            sections["results"].append((f"{lead}Differences", differences_grid(found["differences"])))
        sections["audit"] += [(lead + name, grid) for name, grid in audit_grids(found)]
        charts += training_charts(title, group, number)
        sections["labels"] += [(lead + name, grid) for name, grid in judgement_grids(group)]
        for run in group:
            name = f"{run.title}: " if len(runs) > 1 else ""
            if forged := read_forgery(run.path):
                sections["audit"].append((name + FORGERY, forgery_grid(forged)))
            sections["pairs"].append((f"{name}Preference pairs", curation_grid(run)))
            stages = {stage: run.stages.get(stage, {}) for stage in run.plan}
            sections["costs"].append((f"{name}Time, tokens, memory", stages_grid(stages)))
    heading = f"Report: {' and '.join(title for title, _ in groups)}"
    with atomic(out.with_suffix(".md")) as file:
        tables = [f"{name}\n\n{markdown_table(grid)}" for name, grid in chain(*sections.values())]
        file.write("\n".join([f"# {heading}\n", *(f"**{line}**\n" for line in warnings), *tables]))
    page = _template().render(
        title=heading,
        about=[_about(title, group) for title, group in groups],
        warnings=warnings,
        sections=sections,
        charts=charts,
        rationales=[_rationales(title, group[0]) for title, group in groups],
        not_run=NOT_RUN,
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


def curation_grid(run: RunData) -> Grid:
    """One row an iteration: what was sampled, how many pairs came of it, and why the other inputs gave none."""
    grid = [["iteration", "inputs", "samples", "malformed", "right", "pairs", "inputs without a pair"]]
    for t in range(1, run.config.iterations + 1):
        found = run.curation(t)
        if not found:
            grid.append([str(t), *[NOT_RUN] * 6])
            continue
        shares = [f"{found[key] / max(found['judgements'], 1):.0%}" for key in ("malformed", "right")]
        dropped = ", ".join(f"{reason} {inputs}" for reason, inputs in found["dropped"].items()) or "none"
        grid.append([str(t), str(found["examples"]), str(found["judgements"]), *shares, str(found["pairs"]), dropped])
    return grid


def training_charts(title: str, runs: Sequence[RunData], number: int) -> list[str]:
    """Loss per optimiser step of each training stage, dots for the dev loss; DPO's reward accuracy."""
    losses, rewards = [], []
    for stage in runs[0].trained:
        logs = [run.history(stage) for run in runs]
        dpo = stage.startswith("iter-")
        name = f"J{stage.removeprefix('iter-')}, DPO" if dpo else stage.replace("sft-", "SFT ")
        losses.append(Panel(name, _curves(logs, "loss"), _curves(logs, "eval_loss")))
        if dpo:
            rewards.append(Panel(name, _curves(logs, "rewards/accuracies")))
    found = []
    for y, panels in (("loss", losses), ("reward accuracy", rewards)):
        if panels:
            about = f"Training of {title}: {y} per step"
            found.append(training_chart(panels, name=f"{y.partition(' ')[0]}-{number}", title=about, y=y))
    return found


def _curves(logs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[list[tuple[float, float]]]:
    curves = [[(entry["step"], entry[key]) for entry in log if key in entry] for log in logs]
    return [curve for curve in curves if curve]


def judgement_grids(runs: Sequence[RunData]) -> list[tuple[str, Grid]]:
    """(title, table) of each task: the labels given, the errors of scores, and the calibration, over all seeds."""
    found = []
    for task in TASKS:
        said = {judge_name(judge): _said(runs, judge, task) for judge in runs[0].judges}
        said = {name: verdicts for name, verdicts in said.items() if verdicts}
        if not said:
            continue
        truths = [j.truth for j in next(iter(said.values()))]
        given = {"truth": truths, **{name: [j.label for j in verdicts] for name, verdicts in said.items()}}
        labels: list[Any] = sorted({label for side in given.values() for label in side if label is not None})
        grid = [["judge", *map(str, labels), "malformed"]]
        for name, side in given.items():
            grid.append([name, *_shares([Counter(side)[label] for label in (*labels, None)])])
        found.append((f"Labels given, {task}", grid))
        calibration = [["judge", "n", "ECE", "Brier score"]]
        errors = [["judge", *(str(k) for k in range(-4, 5)), "malformed"]]
        for name, verdicts in said.items():
            rated = [j for j in verdicts if j.truth is not None]
            truth = [j.truth or 0 for j in rated]
            errors.append([name, *_shares([*error_histogram(truth, [j.label for j in rated]).values()])])
            measured = calibration_figures([j.label_probabilities for j in rated], truth)
            figures = ["-" if measured[key] is None else f"{measured[key]:.2f}" for key in ("ece", "brier")]
            calibration.append([name, str(measured["n"]), *figures])
        if task == "pointwise":
            found.append(("Errors: truth minus label", errors))
        found.append((f"Calibration, {task}", calibration))
    return found


def _said(runs: Sequence[RunData], judge: str, task: Task) -> list[Judgement]:
    return [judgement for run in runs for judgement in run.verdicts(judge) or () if judgement.task == task]


def _shares(counts: Sequence[int]) -> list[str]:
    return [f"{count / max(sum(counts), 1):.0%}" for count in counts]


def _about(title: str, runs: Sequence[RunData]) -> dict[str, Any]:
    run = runs[0]
    config = run.config
    versions: dict[str, dict[str, None]] = {}  # of several machines' stages all, in order
    for marker in run.stages.values():
        for name, version in marker.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    return {
        "title": title,
        "facts": {
            "seed model": config.model.source,
            "training data": " and ".join(dict.fromkeys(filter(None, map(config.data.source, TASKS)))),
            "curation": f"{config.curate.method}, margin {config.curate.margin}",
            "random seeds": ", ".join(str(run.config.seed) for run in runs),
            "made with": ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items()) or NOT_RUN,
        },
        "problem": run.problem,
    }


def _rationales(title: str, run: RunData) -> dict[str, Any]:
    """Ten rows, half of each task, drawn once: what SFT and the last judge wrote about them."""
    shown: dict[str, Any] = {"title": title, "rows": [], "why": ""}
    sides = {judge: run.verdicts(judge) for judge in ("sft", run.last) if judge}
    if run.examples is None or len(sides) < 2 or None in sides.values():
        shown["why"] = run.problem or f"{NOT_RUN}: it takes the evaluation of SFT and of a later judge"
        return shown
    by_id = {judge: {j.example_id: j for j in verdicts or ()} for judge, verdicts in sides.items()}
    draw = random.Random(0)
    for task in TASKS:
        rows = [row for row in run.examples if row.task == task]
        for row in draw.sample(rows, min(len(rows), _SIDE_BY_SIDE // 2)):
            views = [_side(row, judge, verdicts[row.id]) for judge, verdicts in by_id.items()]
            shown["rows"].append({"example": row, "sides": views})
    return shown


def _side(example: Example, judge: str, judgement: Judgement) -> dict[str, Any]:
    right = "right" if judgement.label == example.label else "wrong"
    return {
        "judge": judge_name(judge),
        "text": judgement.rationale or judgement.text,
        "label": "malformed" if judgement.label is None else str(judgement.label),
        "state": "malformed" if judgement.label is None else right if example.label is not None else "unknown",
    }
