"""What a report reads of a run folder. Reads files; runs no model. Whatever isn't there is None or empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.data.records import Example, Judgement
from recipe.evaluation.evaluate import FORCED, read_judgements
from recipe.storage import read_json, read_markers


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
