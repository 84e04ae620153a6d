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
from recipe.evaluation.forgery import read_forgery
from recipe.storage import read_json, read_markers

NO_ROWS = "rows missing"
"""In the place of a figure that was measured, but takes rows that can't be read."""


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

    @property
    def forgery(self) -> dict[str, Any]:
        """The forgery shift of each judge of which it was measured; see forgery.py."""
        return read_forgery(self.path)

    def history(self, stage: str) -> list[dict[str, Any]] | None:
        """The training log of sft-pointwise, sft-pairwise or iter-<t>; None where it has not been trained."""
        path = self.path / stage / "training.json"
        return read_json(path)["history"] if path.is_file() else None

    @property
    def trained(self) -> tuple[str, ...]:
        """The folders of the plan's training stages."""
        return tuple(s.partition(":")[0] for s in self.plan if s.startswith("sft-") or s.endswith((":dpo", ":sft")))

    def curation(self, t: int) -> dict[str, Any] | None:
        """What became of iteration t's inputs; None where it isn't curated.

        {"inputs", "samples", "malformed", "right", "pairs", "pairs_per_input": {n pairs: n inputs}, "dropped":
        {reason: n inputs}, "labels": {task: {"chosen>rejected": n}}}; right counts the samples with the true label.
        """
        sampled, curated = (self.stages.get(f"iter-{t}:{name}", {}) for name in ("sample", "curate"))
        if "finished" not in sampled or "finished" not in curated:
            return None
        return {
            "inputs": sampled["examples"],
            "samples": sampled["judgements"],
            "malformed": sampled["malformed"],
            "right": sampled["right"],
            "pairs": curated["pairs"],
            # Markers from before it was counted lack it.
            "pairs_per_input": {int(pairs): inputs for pairs, inputs in curated.get("pairs_per_input", {}).items()},
            "dropped": curated["dropped"],
            "labels": curated["labels"],
        }


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their random seed. With one run its own figures; with several, their rows pooled."""

    title: str
    runs: tuple[RunData, ...]

    @property
    def judges(self) -> tuple[str, ...]:
        return self.runs[0].judges

    @property
    def last(self) -> str | None:
        """The last judge of the recipe that was measured: j2, j1, or None."""
        rounds = [judge for judge in self.judges if judge.startswith("j") and self.measured(judge)]
        return rounds[-1] if rounds else None

    def measured(self, judge: str) -> tuple[RunData, ...]:
        """The runs in which a judge has been measured."""
        return tuple(run for run in self.runs if run.figures(judge) is not None)

    def verdicts(self, judge: str) -> list[Judgement]:
        """The judgements of all seeds, one after the other."""
        return [row for run in self.measured(judge) for row in run.verdicts(judge) or ()]

    @property
    def rows(self) -> tuple[Example, ...] | None:
        """The rows that all runs were measured on; None where they can't be read, or differ."""
        first = self.runs[0].examples
        return first if all(run.examples == first for run in self.runs) else None

    def compared(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """`compare` over all seeds, and {"models"} alone without the rows: what one run's evaluation wrote.

        A judge that no run has measured is None.
        """
        if self.rows is None:
            found = {judge: self.measured(judge) for judge in self.judges}
            alone = {judge: runs[0].figures(judge) if runs else None for judge, runs in found.items()}
            many = len(self.runs) > 1
            return {"models": {judge: NO_ROWS if many and found[judge] else alone[judge] for judge in self.judges}}
        measured = {
            judge: {run.config.seed: run.verdicts(judge) or () for run in self.measured(judge)} for judge in self.judges
        }
        first = self.runs[0]
        return compare(self.rows, measured, pairs, first.train, resamples=first.config.evaluate.resamples)


def grouped(runs: Sequence[RunData]) -> list[Group]:
    """Runs with the same settings but for the seed together, in the order in which they were named."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.config.model_dump_json(exclude={"seed", "threads"}), []).append(run)
    return [Group(_title(found), tuple(found)) for found in groups.values()]


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) == 1:
        return runs[0].title
    return f"{runs[0].config.name}, seeds {', '.join(str(run.config.seed) for run in runs)}"
