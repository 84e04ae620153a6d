"""The rows of `sre experiment` by name: baselines and ablations, each as changed settings. Runs nothing.

A row is the recipe under other settings, and the judge of it that is measured. It shares the stages that its settings
leave as they are with the other rows (stage_cache.py), so it costs what it changes. For other seed models set
`model.source`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.config import Config

LAST = ""
BEST = "best"


@dataclass(frozen=True)
class Variant:
    """A row of variants.toml.

    settings: `key=value` overrides. judge: "sft", "j1", …; LAST is J_T, BEST the one that the dev rows say is best.
    times_inputs: so many times the inputs and pairs of round 1. first_sample: the row is the first of the judge's
    samples, not their majority. beside: a row to compare it with, besides J_SFT.
    """

    name: str
    description: str
    settings: Sequence[str] = ()
    judge: str = LAST
    times_inputs: float = 1
    first_sample: bool = False
    beside: str = ""

    def changes(self, config: Config) -> list[str]:
        """The overrides that make the row of an experiment with these settings."""
        changes = list(self.settings)
        if self.judge.startswith("j"):
            changes.append(f"iterations={max(int(self.judge[1:]), config.iterations)}")
        if self.times_inputs != 1:
            changes.append(f"sample.inputs=[{round(self.times_inputs * config.sample.inputs_of(1))}]")
            if config.curate.max_pairs:
                changes.append(f"curate.max_pairs={round(self.times_inputs * config.curate.max_pairs)}")
        return changes


_ROWS = tomllib.loads(Path(__file__).with_name("variants.toml").read_text(encoding="utf-8"))
VARIANTS = {name: Variant(name, **row) for name, row in _ROWS.items()}

# (first, second) of the differences reported beside every row's from `sft`.
COMPARED = tuple((row.beside, name) for name, row in VARIANTS.items() if row.beside)
