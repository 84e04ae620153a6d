"""The report of finished runs: one HTML page (report.html.jinja) that stands alone, and its tables in Markdown."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example, Judgement
from recipe.errors import SreError
from recipe.evaluation import tables
from recipe.evaluation.charts import confusion, interval_charts
from recipe.evaluation.evaluate import FORCED, read_judgements
from recipe.evaluation.tables import NOT_RUN, Grid, judge_name, markdown_table
from recipe.pipeline.context import RunContext
from recipe.pipeline.results import figures_of, last_judge, measured_rows, results_of
from recipe.pipeline.stage_order import open_run, steps
from recipe.storage import atomic, intact, read_markers

Stages = Mapping[str, Mapping[str, Any]]  # stage -> its marker; {} where it was not begun


def report(folders: Sequence[Path], out: Path | None) -> tuple[Path, Path]:
    """Write the page and the Markdown file about these runs, a folder of seed-<n> runs being all of them."""
    import jinja2

    if out is None and len(folders) > 1:
        raise SreError("several runs in one report: say where to write it with -o FILE", field="-o")
    target = out or folders[0] / "report.html"
    if target.suffix != ".html":
        raise SreError("expected a name that ends in .html; the Markdown file goes beside it", file=target)
    runs = [_content(open_run(run)) for folder in folders for run in _runs_in(folder)]
    warnings, sections = list[str](), defaultdict[str, list[tuple[str, Grid]]](list)
    for run in runs:
        lead = f"{run['title']}: " if len(runs) > 1 else ""
        warnings += [lead + line for line in run["warnings"]]
        for name, grids in run["sections"].items():
            sections[name] += [(lead + title, grid) for title, grid in grids]
    heading = f"Report: {' and '.join(run['title'] for run in runs)}"
    with atomic(target.with_suffix(".md")) as file:
        shown = [f"{name}\n\n{markdown_table(grid)}" for name, grid in chain(*sections.values())]
        file.write("\n".join([f"# {heading}\n", *(f"**{line}**\n" for line in warnings), *shown]))
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    # Escaped, because models and data write what they like.
    how: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Template(text, **how, trim_blocks=True, lstrip_blocks=True)
    with atomic(target) as file:
        file.write(template.render(title=heading, runs=runs, warnings=warnings, sections=sections, not_run=NOT_RUN))
    return target, target.with_suffix(".md")


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the seed-<n> runs of an experiment."""
    seeds = [path for path in sorted(folder.glob("seed-*")) if (path / "config.toml").is_file()]
    return [folder] if (folder / "config.toml").is_file() or not seeds else seeds


def _content(run: RunContext) -> dict[str, Any]:
    config, measured, name = run.config, figures_of(run), run.path.resolve().name
    rows, problem = measured_rows(run)
    results = {"models": measured, "differences": {}} if problem else results_of(run)
    judges = [name for judge in run.judges for name in ((judge, FORCED) if judge == "seed" else (judge,))]
    models = {judge: results["models"].get(judge) for judge in judges if config.data.takes("test")}
    shown = [judge for judge in ("sft", last_judge(run)) if judge in measured and rows]
    said = {judge: read_judgements(run.path, judge) for judge in shown}
    markers = {marker["stage"]: marker for marker in read_markers(run.path)}
    stages: Stages = {name: markers.get(name, {}) for name, _ in steps(run)}
    versions = [f"{name} {version}" for m in markers.values() for name, version in m.get("versions", {}).items()]
    with intact(run.path):
        return {
            "title": f"{config.name}, seed {config.seed}" if name.startswith("seed-") else name,
            "facts": {
                "seed model": config.model.source,
                "training data": " and ".join(dict.fromkeys(filter(None, map(config.data.source, TASKS)))),
                "curation": f"margin {config.curate.margin}",
                "random seed": str(config.seed),
                "made with": ", ".join(dict.fromkeys(versions)) or NOT_RUN,
            },
            "problem": problem,
            "warnings": tables.warning_lines(models),
            "sections": {
                "results": tables.results_grids({**results, "models": models}),
                "training": [("Training", _training_grid(stages))],
                "pairs": [("Preference pairs", _curation_grid(config.iterations, markers))],
                "costs": [("Time, tokens, memory", tables.stages_grid(stages))],
            },
            "charts": interval_charts(results),
            "confusions": {judge_name(judge): counts for judge in said if (counts := confusion(rows, said[judge]))},
            "rationales": _rationales(rows, said) if len(said) > 1 else [],
        }


def _curation_grid(iterations: int, stages: Stages) -> Grid:
    """One row an iteration: what was sampled, how many pairs came of it, and why the other inputs gave none."""
    grid = [["iteration", "inputs", "samples", "malformed", "right", "pairs", "inputs without a pair"]]
    for t in range(1, iterations + 1):
        sampled, curated = (stages.get(f"iter-{t}:{name}", {}) for name in ("sample", "curate"))
        if "finished" not in sampled or "finished" not in curated:
            grid.append([str(t), *[NOT_RUN] * 6])
            continue
        found = {**sampled, **curated}
        shares = [f"{found[key] / max(found['judgements'], 1):.0%}" for key in ("malformed", "right")]
        dropped = ", ".join(f"{reason} {inputs}" for reason, inputs in found["dropped"].items()) or "none"
        grid.append([str(t), str(found["examples"]), str(found["judgements"]), *shares, str(found["pairs"]), dropped])
    return grid


def _training_grid(stages: Stages) -> Grid:
    """One row a training stage: its steps, and the loss of the first and of the last that were logged."""
    grid = [["stage", "steps", "first loss", "last loss"]]
    for name, done in stages.items():
        if name.startswith("sft-") or name.endswith(":dpo"):
            losses = [f"{done[key]:.3f}" for key in ("first_loss", "last_loss")] if "steps" in done else []
            grid.append([name, str(done["steps"]), *losses] if losses else [name, *[NOT_RUN] * 3])
    return grid


def _rationales(rows: Sequence[Example], said: Mapping[str, Sequence[Judgement]]) -> list[dict[str, Any]]:
    """Ten rows, half of each task, drawn once: what each judge wrote about them."""
    by_id = {judge: {judgement.example_id: judgement for judgement in side} for judge, side in said.items()}
    draw, shown = random.Random(0), []
    for task in TASKS:
        some = [row for row in rows if row.task == task]
        for row in draw.sample(some, min(len(some), 5)):
            shown.append({"example": row, "sides": [_side(row, judge, side[row.id]) for judge, side in by_id.items()]})
    return shown


def _side(example: Example, judge: str, judgement: Judgement) -> dict[str, Any]:
    state = "malformed" if judgement.label is None else "right" if judgement.label == example.label else "wrong"
    label = judgement.label or state
    return {"judge": judge_name(judge), "text": judgement.rationale or judgement.text, "label": label, "state": state}
