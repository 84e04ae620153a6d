"""What a report reads of run folders, and several seeds of one run taken together. Reads files; runs no model.

Whatever isn't there is None, so that a page can say "not run".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.data.records import Example, Judgement
from recipe.evaluation.compare import compare
from recipe.evaluation.evaluate import FORCED, read_judgements
from recipe.storage import read_json, read_markers


@dataclass(frozen=True, eq=False)
class RunData:
    """One run folder.

    plan: its stages in order. examples: the rows that its judges were measured on, or None with `problem` saying why
    they can't be read. train: all training rows.
    """

    path: Path
    config: Config
    plan: tuple[str, ...]
    examples: tuple[Example, ...] | None
    problem: str = ""
    train: tuple[Example, ...] = ()

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
        rounds = [judge for judge in self.judges if judge.startswith("j") and self.figures(judge)]
        return rounds[-1] if rounds else None

    def figures(self, judge: str) -> dict[str, Any] | None:
        """The figures of a judge, as evaluation wrote them; None where it has not been measured."""
        name = judge.partition("-")[0]
        if "finished" not in self.stages.get(f"evaluation/{name}", {}):
            return None
        found = read_json(self.path / "evaluation" / name / "figures.json")
        constrained: dict[str, Any] = found["constrained"]
        return constrained if judge == FORCED else found

    def verdicts(self, judge: str) -> list[Judgement] | None:
        """The judgements of a judge in the rows' order; None where it has not been measured."""
        return read_judgements(self.path, judge) if self.figures(judge) is not None else None

    def history(self, stage: str) -> list[dict[str, Any]]:
        """The training log of sft-pointwise, sft-pairwise or iter-<t>; empty where it has not been trained."""
        path = self.path / stage / "training.json"
        return list(read_json(path)["history"]) if path.is_file() else []

    @property
    def trained(self) -> tuple[str, ...]:
        """The folders of the plan's training stages."""
        return tuple(s.partition(":")[0] for s in self.plan if s.startswith("sft-") or s.endswith((":dpo", ":sft")))

    def curation(self, t: int) -> dict[str, Any] | None:
        """The markers of iteration t's sampling and curation as one; None where it isn't curated."""
        found = [self.stages.get(f"iter-{t}:{name}", {}) for name in ("sample", "curate")]
        return {**found[0], **found[1]} if all("finished" in marker for marker in found) else None


def grouped(runs: Sequence[RunData]) -> list[tuple[str, list[RunData]]]:
    """(title, runs) that differ in their seed alone and were measured on the same rows; others stand alone."""
    groups: dict[Any, list[RunData]] = {}
    for run in runs:
        settings = run.config.model_dump_json(exclude={"seed", "threads"})
        ids = tuple(row.id for row in run.examples or ())
        groups.setdefault((settings, ids) if ids else run.path, []).append(run)
    return [(_title(found), found) for found in groups.values()]


def compared(runs: Sequence[RunData], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """`compare` over the seeds of a group; without its rows {"models"} alone, what evaluation wrote.

    A judge that no run has measured is None.
    """
    first = runs[0]
    if first.examples is None:
        return {"models": {judge: first.figures(judge) for judge in first.judges}, "differences": {}}
    measured = {
        judge: {run.config.seed: verdicts for run in runs if (verdicts := run.verdicts(judge)) is not None}
        for judge in first.judges
    }
    return compare(first.examples, measured, pairs, first.train, resamples=first.config.evaluate.resamples)


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) == 1:
        return runs[0].title
    return f"{runs[0].config.name}, seeds {', '.join(str(run.config.seed) for run in runs)}"
