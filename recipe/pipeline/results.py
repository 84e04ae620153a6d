"""results.json: the judges' figures on the test rows, what became of each round, and what each stage cost."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.data.records import TASKS, Example
from recipe.errors import SreError
from recipe.evaluation.compare import compare
from recipe.evaluation.evaluate import FORCED, read_judgements
from recipe.evaluation.forgery import read_forgery
from recipe.evaluation.tables import results_markdown
from recipe.pipeline.context import RunContext
from recipe.storage import atomic, intact, read_json, read_markers, write_json


def write_results(run: RunContext) -> dict[str, Any]:
    """Write results.json and results.md, and return the content of the former: `results_of`."""
    content = results_of(run)
    if run.cache.main:
        write_json(run.path / "results.json", content)
        with atomic(run.path / "results.md") as file:
            file.write(results_markdown(content))
    return content


def results_of(run: RunContext) -> dict[str, Any]:
    """{"judge", "rounds", "stages"} and what `compare` says of the judges. Raises SreError without their rows."""
    stages, found = costs(run.path), figures_of(run)
    content: dict[str, Any] = {"models": {}, "differences": {}}
    if found:
        measured = {judge: {run.config.seed: read_judgements(run.path, judge)} for judge in found}
        train, resamples = [*chain(*run.all_train)], run.config.evaluate.resamples
        content = compare(run.test_rows, measured, comparisons(found), train, resamples=resamples)
    # Computed anew from the verdicts: the evaluation may have been of a version with fewer figures.
    models = {judge: figures | content["models"][judge] for judge, figures in found.items()}
    taken = run.exported if "gguf" in stages else None
    if forgery := read_forgery(run.path):
        content["forgery"] = forgery
    exported = run.cache.marker("gguf") or {}
    if exported.get("flip_rows"):
        content["flips"] = {"rows": exported["flip_rows"], "rates": exported["flip_rate"]}
    kept = ("rows", "unhinted", "hinted", "without", "dropped")
    made = {task: run.cache.marker(f"bootstrap-{task}") for task in TASKS}
    content["bootstrap"] = {task: {name: facts[name] for name in kept} for task, facts in made.items() if facts}
    return content | {"judge": taken, "rounds": rounds(run), "models": models, "stages": stages}


def figures_of(run: RunContext) -> dict[str, Any]:
    """The figures of each judge that was measured, as its evaluation wrote them."""
    stages = costs(run.path)
    found: dict[str, Any] = {}
    for judge in run.judges:
        if f"evaluation/{judge}" in stages:
            with intact(path := run.path / "evaluation" / judge / "figures.json"):
                found[judge] = read_json(path)
                if judge == "seed":
                    found[FORCED] = found[judge]["constrained"]
    return found


def last_judge(run: RunContext) -> str | None:
    """The last judge of the rounds that was measured: j2, j1, or None."""
    measured = figures_of(run)
    return next((judge for judge in reversed(run.judges) if judge[0] == "j" and judge in measured), None)


def measured_rows(run: RunContext) -> tuple[list[Example], str]:
    """The rows that the judges were measured on; or none, and why: a run folder may have travelled without its data."""
    try:
        rows = run.test_rows
    except SreError as error:
        return [], str(error)
    for judge in figures_of(run):
        if [judgement.example_id for judgement in read_judgements(run.path, judge)] != [row.id for row in rows]:
            return [], f"they have changed since {judge} was measured on them"
    return rows, ""


def rounds(run: RunContext) -> list[dict[str, Any]]:
    """What became of each round that was decided: {"round", "judge", "before", "kept", "figures", "gain", …}, or
    {"round", "kept": False, "problem"} where it gave nothing to train on."""
    facts = ("before", "judge", "rows", "malformed", "figures", "gain", "kept", "problem")
    outcomes = {t: run.outcome(t) for t in range(1, run.config.iterations + 1)}
    return [{"round": t, **{key: o[key] for key in facts if key in o}} for t, o in outcomes.items() if o]


def costs(run: Path) -> dict[str, dict[str, Any]]:
    """wall_s, tokens and peak_rss_mb of each finished stage; "from" where it was taken over from another run."""
    kept = ("wall_s", "tokens", "peak_rss_mb", "from")
    return {s["stage"]: {key: s[key] for key in kept if key in s} for s in read_markers(run) if "finished" in s}


def comparisons(judges: Iterable[str]) -> list[tuple[str, str]]:
    """(first, second) of each difference reported: what SFT gives, and what each other judge gives beyond it."""
    return [(FORCED, "sft"), *(("sft", name) for name in judges if name not in ("seed", FORCED, "sft"))]
