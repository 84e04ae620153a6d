"""The forgery shift: how far a judge's verdicts move when a response claims a verdict of its own.

FOLDER/forgery-rationale.jsonl, forgery-label-only.jsonl   the judged rows, appended as they finish
FOLDER/forgery.json   {"rationale": {"pointwise": {"shift": {"value", "low", "high", "n"}, "malformed": 0,
                       "claims": {"tag": {...}, ...}}, "pairwise": {...}}, "label-only": {...}}

shift: the mean score with the claim less that without it, on the same rows; of a pair, how much more often the claiming
response is picked.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from recipe.config import EvaluateConfig
from recipe.data.forgery import CLAIMS, forge
from recipe.data.records import SWAPPED, TASKS, Example
from recipe.errors import SreError
from recipe.evaluation.metrics import rate_figure
from recipe.evaluation.tables import forgery_grid
from recipe.evaluation.trivial import RowVerdict
from recipe.evaluation.verdict_files import verdicts_of
from recipe.judge.judge import Judge
from recipe.judge.judge_file import judge_rows
from recipe.judge.options import JudgeOptions
from recipe.progress import bar, follow
from recipe.storage import intact, read_json, read_jsonl, write_json

MODES = {"rationale": False, "label-only": True}


class Forged(NamedTuple):
    """A row, the same with a claim in one of its responses (counted from 0), and the claim's name."""

    row: Example
    example: Example
    claim: str
    response: int


def measure_forgery(judge: Judge, rows: Sequence[Example], folder: Path, settings: EvaluateConfig) -> dict[str, Any]:
    """Judge rows with and without claims, write FOLDER/forgery.json and return it. Judged rows are kept.

    Rows that deserve the best score, and exchanged pairs, are passed over: no claim can raise a best score. Raises
    SreError where no row is left, and for a folder made with another judge or other options.
    """
    forged = forge_rows(rows)
    if not forged:
        raise SreError("no row is left that a claim could raise: all deserve the best score")
    examples = [*{one.row.id: one.row for one in forged}.values(), *(one.example for one in forged)]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for mode, label_only in MODES.items():
        out = folder / f"forgery-{mode}.jsonl"
        options = JudgeOptions(max_tokens=settings.max_tokens, label_only=label_only)
        with bar(f"forged verdicts, {mode}: {judge.name}", len(examples), "rows") as advance:
            judge_rows(judge, examples, out, options=options, resume=out.exists(), progress=follow(advance))
        said = verdicts_of(read_jsonl(out), as_written=False)
        parts = {task: [one for one in forged if one.row.task == task] for task in TASKS}
        found[mode] = {task: _shifts(some, said, settings.resamples) for task, some in parts.items() if some}
    write_json(folder / "forgery.json", found)
    return found


def read_forgery(run: Path) -> dict[str, Any]:
    """Judge -> what `measure_forgery` wrote in a run folder. Raises SreError for a file of another shape."""
    found = {}
    for file in sorted(run.glob("evaluation/*/forgery.json")):
        with intact(file):
            found[file.parent.name] = read_json(file)
            forgery_grid({file.parent.name: found[file.parent.name]})
    return found


def forge_rows(rows: Sequence[Example]) -> list[Forged]:
    """The rows with a claim each; the claims take turns. In a pair the worse response claims, or the two take turns."""
    found = []
    for task in TASKS:
        kept = [row for row in rows if row.task == task and not row.id.endswith(SWAPPED)]
        kept = [row for row in kept if task == "pairwise" or row.label is None or row.label < max(row.labels)]
        for k, (row, name) in enumerate(zip(kept, cycle(CLAIMS[task]), strict=False)):
            response = 0 if task == "pointwise" else 2 - row.label if row.label else k % 2
            example = forge(row, CLAIMS[task][name], response=response)
            found.append(Forged(row, replace(example, id=f"{row.id}:forged:{name}"), name, response))
    return found


def _shifts(forged: Sequence[Forged], said: dict[str, RowVerdict], resamples: int) -> dict[str, Any]:
    def figure(some: Sequence[Forged]) -> dict[str, Any]:
        gains, prompts = [], []
        for one in some:
            before, after = said[one.row.id].label, said[one.example.id].label
            if before is not None and after is not None:
                # Of a pair, a higher label is a pick of the second response.
                raised = one.row.task == "pointwise" or one.response == 1
                gains.append(after - before if raised else before - after)
                prompts.append(one.row.prompt_id)
        return rate_figure(gains, prompts, resamples)

    by_claim = {name: [one for one in forged if one.claim == name] for name in CLAIMS[forged[0].row.task]}
    return {
        "shift": figure(forged),
        "malformed": sum(None in (said[one.example.id].label, said[one.row.id].label) for one in forged),
        "claims": {name: figure(some) for name, some in by_claim.items() if some},
    }
