"""Baselines and ablations, the rows of variants.toml: run over random seeds, measured on the same rows, side by side.

A row is the recipe under other settings, and the judge of it that is measured. It shares the stages that its settings
leave as they are with the other rows (stage_cache.py), so it costs what it changes.
The recipe as the preset has it runs in seed-0/, a variant with settings of its own in margin-1/seed-0/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.config import Config, load
from recipe.data.records import Example, Judgement
from recipe.errors import NothingToTrainError, SreError
from recipe.evaluation.evaluate import FORCED
from recipe.pipeline.context import RunContext, judges_of
from recipe.pipeline.results import comparisons, costs
from recipe.pipeline.stage_order import run_judge
from recipe.storage import atomic, read_json, write_json
from recipe.system import read_table


@dataclass(frozen=True)
class Variant:
    """A row of variants.toml.

    settings: `key=value` overrides. judge: "sft", "j1", …; "" is J_T, "best" the one that the dev rows say is best.
    times_inputs: so many times the inputs and pairs of round 1. first_sample: the row is the first of the judge's
    samples, not their majority. beside: a row to compare it with, besides J_SFT.
    """

    name: str
    description: str
    settings: Sequence[str] = ()
    judge: str = ""
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


_ROWS = read_table(__file__, "variants.toml")
VARIANTS = {name: Variant(name, **row) for name, row in _ROWS.items()}

# Settings that change no measurement of the judges that were made.
IMMATERIAL: dict[str, Any] = {"name": True, "threads": True, "iterations": True, "rounds": True, "report_to": True}
IMMATERIAL["export"] = {"types", "type", "source", "flip_rows"}


@dataclass(frozen=True)
class RowRun:
    """A row under one random seed: its settings, its run folder and the judge that is measured."""

    variant: Variant
    config: Config
    path: Path

    @property
    def judge(self) -> str:
        if self.variant.judge == "best":
            return RunContext(self.config, self.path).best
        return self.variant.judge or f"j{self.config.iterations}"

    @property
    def measured(self) -> bool:
        """Whether the folder holds the measurement, made with these settings."""
        folder = self.path / "evaluation" / self.judge
        if not all((folder / name).is_file() for name in ("done.json", "config.toml")):
            return False
        theirs = load(folder / "config.toml")
        return theirs.model_dump(exclude=IMMATERIAL) == self.config.model_dump(exclude=IMMATERIAL)


@dataclass(frozen=True)
class Experiment:
    """A preset's name or a TOML file, with settings as `key=value`, in a folder."""

    preset: str
    overrides: tuple[str, ...]
    folder: Path

    def run(self, name: str, seed: int) -> RowRun:
        """Raises SreError for settings that don't go together."""
        variant, overrides = VARIANTS[name], [*self.overrides, f"seed={seed}"]
        base = load(self.preset, overrides)
        config = load(self.preset, [*overrides, *variant.changes(base)])
        if config == base:
            return RowRun(variant, base, self.folder / f"seed-{seed}")
        config = config.model_copy(update={"name": f"{base.name}-{name}"})
        return RowRun(variant, config, self.folder / name / f"seed-{seed}")

    def folders(self) -> list[Path]:
        found = [*sorted(self.folder.glob("seed-*")), *sorted(self.folder.glob("*/seed-*"))]
        return [path for path in found if (path / "config.toml").is_file()]


def run_experiment(experiment: Experiment, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Run and measure the named rows, or go on with them; write results.json and results.md, return the former.

    No names: seed, sft and j1 to J_T. A row that is left without anything to train on is a finding: it is told in
    "problems", and the others run. Raises SreError for an unknown row and as `run_judge` does.
    """
    unknown = next((name for name in names if name not in VARIANTS), None)
    if unknown is not None:
        raise SreError(f"no variant {unknown!r}; `sre experiment --list` shows all", field="VARIANT")
    chosen = names or [name for name in judges_of(load(experiment.preset, experiment.overrides)) if name in VARIANTS]
    problems = {}
    for run in [experiment.run(name, seed) for seed in seeds for name in chosen]:
        try:
            run_judge(run.config, run.path, run.variant.judge or run.judge, experiment.folders())
        except NothingToTrainError as error:
            problems[f"{run.variant.name}, seed {run.config.seed}"] = str(error)
    return write_results(experiment, problems)


def write_results(experiment: Experiment, problems: Mapping[str, str]) -> dict[str, Any]:
    """results.json and results.md of all rows measured in the folder.

    {"seeds", "rows": {row: what it is}, "problems": {"row, seed n": why it could not be run}, what `compare` returns,
    "aspects": {aspect: the same}, "costs": {run folder: {stage: …}}}. "aspects" is empty where there is but one. The
    figures of a row that wasn't run are None.
    """
    from recipe.evaluation.compare import by_aspect, compare
    from recipe.evaluation.tables import experiment_markdown

    seeds = sorted({load(path / "config.toml").seed for path in experiment.folders()})
    runs = [run for name in VARIANTS for seed in seeds if (run := experiment.run(name, seed)).measured]
    if not runs:
        why = "; ".join(problems.values()) or "nothing was measured here with these settings"
        raise SreError(f"no row to tell of: {why}", file=experiment.folder)
    base = load(experiment.preset, experiment.overrides)
    context = RunContext(runs[0].config, runs[0].path)
    rows, train = context.test_rows, [*chain(*context.all_train)]
    measured = _verdicts(runs, rows)
    pairs = [*comparisons(measured), *((row.beside, name) for name, row in VARIANTS.items() if row.beside)]
    tables = partial(compare, pairs=pairs, train=train, resamples=base.evaluate.resamples)
    path = experiment.folder / "results.json"
    known = {**(read_json(path).get("problems", {}) if path.exists() else {}), **problems}
    solved = {f"{name}, seed {seed}" for name, by_seed in measured.items() for seed in by_seed}
    results = {
        "seeds": sorted({run.config.seed for run in runs}),
        "rows": {name: variant.description for name, variant in VARIANTS.items()},
        "problems": {row: why for row, why in known.items() if row not in solved},
        **tables(rows, measured),
        "aspects": {aspect: tables(some, part) for aspect, some, part in by_aspect(rows, measured)},
        "costs": {str(run.path.relative_to(experiment.folder)): costs(run.path) for run in runs},
    }
    write_json(path, results)
    with atomic(experiment.folder / "results.md") as file:
        file.write(experiment_markdown(results))
    return results


def _verdicts(runs: Sequence[RowRun], rows: Sequence[Example]) -> dict[str, dict[int, list[Judgement]]]:
    """Row -> random seed -> its judgements of `rows`; {} for a row that was not run on these."""
    from recipe.evaluation.evaluate import first_samples, read_judgements

    found: dict[str, dict[int, list[Judgement]]] = {"seed": {}, FORCED: {}, **{name: {} for name in VARIANTS}}
    ids = [row.id for row in rows]
    for run in runs:
        name = run.variant.name
        read = first_samples if run.variant.first_sample else read_judgements
        judged = {name: read(run.path, run.judge)}
        if name == "seed":
            judged[FORCED] = read_judgements(run.path, FORCED)
        for key, verdicts in judged.items():
            if [verdict.example_id for verdict in verdicts] == ids:
                found[key][run.config.seed] = verdicts
    return found
