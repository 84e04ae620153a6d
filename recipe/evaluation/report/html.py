"""The report of finished runs: one HTML page that needs nothing beside it, and its tables in Markdown.

What wasn't run says "not run". The page's words and style are in report.html.jinja.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement
from recipe.evaluation.calibration import calibration_figures, error_histogram
from recipe.evaluation.report.collect import RunData
from recipe.evaluation.report.tables import (
    NOT_RUN,
    Grid,
    judge_name,
    markdown_table,
    results_grids,
    stages_grid,
    warning_lines,
)
from recipe.storage import atomic

_SIDE_BY_SIDE = 10


def write_page(runs: Sequence[tuple[RunData, Mapping[str, Any]]], out: Path) -> Path:
    """Write the page to `out` and its tables to the Markdown file beside it, whose path is returned.

    Several runs stand side by side. Each comes with its results as results.json has them; without its rows they are
    {"models", "differences"} alone.
    """
    sections: dict[str, list[tuple[str, Grid]]] = defaultdict(list)
    warnings = []
    for run, results in runs:
        lead = f"{run.title}: " if len(runs) > 1 else ""
        models = {judge: results["models"].get(judge) for judge in run.judges}
        warnings += [lead + line for line in warning_lines(models)]
        tables = {
            "results": results_grids({**results, "models": models}),
            "training": [("Training", training_grid(run))],
            "pairs": [("Preference pairs", curation_grid(run))],
            "labels": judgement_grids(run),
            "costs": [("Time, tokens, memory", stages_grid({name: run.stages.get(name, {}) for name in run.plan}))],
        }
        for name, found in tables.items():
            sections[name] += [(lead + title, grid) for title, grid in found]
    heading = f"Report: {' and '.join(run.title for run, _ in runs)}"
    with atomic(out.with_suffix(".md")) as file:
        shown = [f"{name}\n\n{markdown_table(grid)}" for name, grid in chain(*sections.values())]
        file.write("\n".join([f"# {heading}\n", *(f"**{line}**\n" for line in warnings), *shown]))
    page = _template().render(
        title=heading,
        about=[_about(run) for run, _ in runs],
        warnings=warnings,
        sections=sections,
        rationales=[_rationales(run) for run, _ in runs],
        not_run=NOT_RUN,
    )
    with atomic(out) as file:
        file.write(page)
    return out.with_suffix(".md")


def _template() -> Any:
    import jinja2

    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    # Escaped, because models and data write what they like.
    return jinja2.Template(
        text, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


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


def training_grid(run: RunData) -> Grid:
    """One row a training stage: its loss over the first and the last tenth of the steps, and what else was logged."""
    grid = [["stage", "steps", "loss, first tenth", "loss, last tenth", "last dev loss", "reward accuracy, last tenth"]]
    for stage in run.trained:
        log = run.history(stage)
        if not log:
            grid.append([stage, *[NOT_RUN] * 5])
            continue
        losses, dev, rewards = (
            [entry[key] for entry in log if key in entry] for key in ("loss", "eval_loss", "rewards/accuracies")
        )
        part = max(1, len(losses) // 10)
        cells = [losses[:part], losses[-part:], dev[-1:], rewards[-part:]]
        means = [f"{sum(cell) / len(cell):.3f}" if cell else "-" for cell in cells]
        grid.append([stage, str(max(entry["step"] for entry in log)), *means])
    return grid


def judgement_grids(run: RunData) -> list[tuple[str, Grid]]:
    """(title, table) of each task: the labels given, the errors of scores, and the calibration."""
    found = []
    for task in TASKS:
        said = {judge_name(judge): [j for j in run.verdicts(judge) or () if j.task == task] for judge in run.judges}
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


def _shares(counts: Sequence[int]) -> list[str]:
    return [f"{count / max(sum(counts), 1):.0%}" for count in counts]


def _about(run: RunData) -> dict[str, Any]:
    config = run.config
    versions: dict[str, dict[str, None]] = {}  # of several machines' stages all, in order
    for marker in run.stages.values():
        for name, version in marker.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    facts = {
        "seed model": config.model.source,
        "training data": " and ".join(dict.fromkeys(filter(None, map(config.data.source, TASKS)))),
        "curation": f"{config.curate.method}, margin {config.curate.margin}",
        "random seed": str(config.seed),
        "made with": ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items()) or NOT_RUN,
    }
    return {"title": run.title, "facts": facts, "problem": run.problem}


def _rationales(run: RunData) -> dict[str, Any]:
    """Ten rows, half of each task, drawn once: what SFT and the last judge wrote about them."""
    shown: dict[str, Any] = {"title": run.title, "rows": [], "why": ""}
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
    label = "malformed" if judgement.label is None else str(judgement.label)
    state = "malformed" if judgement.label is None else "right" if judgement.label == example.label else "wrong"
    if judgement.label is not None and example.label is None:
        state = "unknown"
    return {"judge": judge_name(judge), "text": judgement.rationale or judgement.text, "label": label, "state": state}
