"""The report of finished runs: one HTML page that needs nothing beside it, and its tables in Markdown.

What wasn't run says "not run". The page's words and style are in report.html.jinja.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.data.records import TASKS, Example, Judgement
from recipe.evaluation.evaluate import FORCED, read_judgements
from recipe.evaluation.report.tables import (
    NOT_RUN,
    Grid,
    judge_name,
    markdown_table,
    results_grids,
    stages_grid,
    warning_lines,
)
from recipe.storage import atomic, intact, read_markers


@dataclass(frozen=True, eq=False)
class RunData:
    """One run folder.

    plan: its stages in order. models: the figures of each judge that was measured. examples: the rows that they were
    measured on, or None with `problem` saying why they can't be read.
    """

    path: Path
    config: Config
    plan: tuple[str, ...]
    models: Mapping[str, Any]
    examples: tuple[Example, ...] | None
    problem: str = ""

    @property
    def title(self) -> str:
        """The folder's name; of an experiment's seed-<n>, the row's too."""
        name = self.path.resolve().name
        return f"{self.config.name}, seed {self.config.seed}" if name.startswith("seed-") else name

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The marker of each stage that was begun; unfinished ones lack "finished"."""
        return {marker["stage"]: marker for marker in read_markers(self.path)}

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that the plan measures, and "seed-constrained" after the seed."""
        planned = [stage.removeprefix("evaluation/") for stage in self.plan if stage.startswith("evaluation/")]
        return tuple(name for judge in planned for name in ((judge, FORCED) if judge == "seed" else (judge,)))

    @property
    def last(self) -> str | None:
        """The last judge of the recipe that was measured: j2, j1, or None."""
        return next((judge for judge in reversed(self.judges) if judge[0] == "j" and judge in self.models), None)

    def verdicts(self, judge: str) -> list[Judgement] | None:
        """The judgements of a judge in the rows' order; None where it has not been measured."""
        return read_judgements(self.path, judge) if judge in self.models else None

    def curation(self, t: int) -> dict[str, Any] | None:
        """The markers of iteration t's sampling and curation as one; None where it isn't curated."""
        found = [self.stages.get(f"iter-{t}:{name}", {}) for name in ("sample", "curate")]
        return {**found[0], **found[1]} if all("finished" in marker for marker in found) else None


def write_page(runs: Sequence[tuple[RunData, Mapping[str, Any]]], out: Path) -> Path:
    """Write the page to `out` and its tables to the Markdown file beside it, whose path is returned.

    Several runs stand side by side. Each comes with its results as results.json has them; without its rows they are
    {"models", "differences"} alone.
    """
    import jinja2

    sections: dict[str, list[tuple[str, Grid]]] = defaultdict(list)
    warnings: list[str] = []
    about = []
    for run, results in runs:
        lead = f"{run.title}: " if len(runs) > 1 else ""
        models = {judge: results["models"].get(judge) for judge in run.judges}
        with intact(run.path):
            warnings += [lead + line for line in warning_lines(models)]
            about.append(_about(run))
            tables = {
                "results": results_grids({**results, "models": models}),
                "training": [("Training", _training_grid(run))],
                "pairs": [("Preference pairs", _curation_grid(run))],
                "costs": [("Time, tokens, memory", stages_grid({name: run.stages.get(name, {}) for name in run.plan}))],
            }
        for name, found in tables.items():
            sections[name] += [(lead + title, grid) for title, grid in found]
    heading = f"Report: {' and '.join(run.title for run, _ in runs)}"
    with atomic(out.with_suffix(".md")) as file:
        shown = [f"{name}\n\n{markdown_table(grid)}" for name, grid in chain(*sections.values())]
        file.write("\n".join([f"# {heading}\n", *(f"**{line}**\n" for line in warnings), *shown]))
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    # Escaped, because models and data write what they like.
    how: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Template(text, **how, trim_blocks=True, lstrip_blocks=True)
    content = {"title": heading, "about": about, "warnings": warnings, "sections": sections, "not_run": NOT_RUN}
    with atomic(out) as file:
        file.write(template.render(content, rationales=[_rationales(run) for run, _ in runs]))
    return out.with_suffix(".md")


def _curation_grid(run: RunData) -> Grid:
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


def _training_grid(run: RunData) -> Grid:
    """One row a training stage: its steps, and the loss of the first and of the last that were logged."""
    grid = [["stage", "steps", "first loss", "last loss"]]
    for name in run.plan:
        if name.startswith("sft-") or name.endswith((":dpo", ":sft")):
            done = run.stages.get(name, {})
            losses = [f"{done[key]:.3f}" for key in ("first_loss", "last_loss")] if "steps" in done else []
            grid.append([name, str(done["steps"]), *losses] if losses else [name, *[NOT_RUN] * 3])
    return grid


def _about(run: RunData) -> dict[str, Any]:
    config = run.config
    versions = [f"{name} {version}" for m in run.stages.values() for name, version in m.get("versions", {}).items()]
    facts = {
        "seed model": config.model.source,
        "training data": " and ".join(dict.fromkeys(filter(None, map(config.data.source, TASKS)))),
        "curation": f"{config.curate.method}, margin {config.curate.margin}",
        "random seed": str(config.seed),
        "made with": ", ".join(dict.fromkeys(versions)) or NOT_RUN,
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
        for row in draw.sample(rows, min(len(rows), 5)):
            views = [_side(row, judge, verdicts[row.id]) for judge, verdicts in by_id.items()]
            shown["rows"].append({"example": row, "sides": views})
    return shown


def _side(example: Example, judge: str, judgement: Judgement) -> dict[str, Any]:
    state = "malformed" if judgement.label is None else "right" if judgement.label == example.label else "wrong"
    label = judgement.label or state
    return {"judge": judge_name(judge), "text": judgement.rationale or judgement.text, "label": label, "state": state}
