"""The whole of `python -m experiments`: the rows of variants.toml over random seeds, measured on the same test rows.

A row is the recipe under other settings, and the judge of it that is measured. It shares the stages that its settings
leave as they are with the other rows (sharing.py), so it costs what it changes.
The recipe as the preset has it runs in seed-0/, a variant with settings of its own in margin-1/seed-0/.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from experiments.best_of_n import BestOfNContext
from experiments.curation import METHODS, CurationContext
from experiments.sharing import SharingContext
from experiments.tables import experiment_markdown
from recipe.config import Config, dump, load
from recipe.data.records import Example, Judgement, pools_of
from recipe.errors import NothingToTrainError, SreError
from recipe.evaluation.compare import Measured, compare
from recipe.evaluation.evaluate import FORCED, as_written, read_judgements
from recipe.pipeline import stage_inputs
from recipe.pipeline.context import RunContext, judges_of
from recipe.pipeline.results import comparisons, costs
from recipe.pipeline.stage_order import steps
from recipe.storage import atomic, read_json, read_jsonl, write_json
from recipe.system import read_table


@dataclass(frozen=True)
class Variant:
    """A row of variants.toml.

    settings: `key=value` overrides. judge: "sft", "j1", …; "" is J_T, "best" the one that the dev rows say is best.
    times_inputs: so many times the inputs and pairs of round 1. first_sample: the row is the first of the judge's
    samples, not their majority. instead: what takes the place of the recipe's own stages: best-of-n, or a method
    of curation.py. beside: a row to compare it with, besides J_SFT.
    """

    name: str
    description: str
    settings: Sequence[str] = ()
    judge: str = ""
    times_inputs: float = 1
    first_sample: bool = False
    instead: str = ""
    beside: str = ""

    def context(self, config: Config, path: Path, lenders: Sequence[Path]) -> SharingContext:
        """The run of this row in a folder."""
        if self.instead in METHODS:
            return CurationContext(config, path, lenders, self.instead)
        kinds = {"": SharingContext, "best-of-n": BestOfNContext}
        return kinds[self.instead](config, path, lenders)

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
        if config == base and not variant.instead:
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
        raise SreError(f"no variant {unknown!r}; `python -m experiments --list` shows all", field="VARIANT")
    chosen = names or [name for name in judges_of(load(experiment.preset, experiment.overrides)) if name in VARIANTS]
    problems = {}
    for run in [experiment.run(name, seed) for seed in seeds for name in chosen]:
        try:
            judge = run.variant.judge or run.judge
            run_judge(run.variant.context(run.config, run.path, experiment.folders()), judge)
        except NothingToTrainError as error:
            problems[f"{run.variant.name}, seed {run.config.seed}"] = str(error)
    return write_results(experiment, problems)


def run_judge(run: SharingContext, judge: str) -> None:
    """Run what a judge needs and no more, and measure it on the test rows.

    "best" is the judge that the dev rows say is best. Raises SreError as `run_pipeline` does, for a judge that is not
    of this run, and where there are no test rows.
    """
    best, config = judge == "best", run.config
    if not config.data.takes("test"):
        raise SreError("this run takes no test rows, so no judge of it can be measured", field="data.test_split")
    if not (best or judge in judges_of(config)):
        raise SreError(f"this run has no judge {judge!r}; it has {', '.join(judges_of(config))}")
    with run.working():
        for name, step in run.replaced(steps(run, every=not best)):
            if name.startswith("evaluation/"):
                break
            if best or not (name.startswith("dev/") or name.endswith(":decide")):  # else no proof is asked for
                step()
            if not best and name == run.stage_of(judge):
                break
        measured = run.best if best else judge
        stage_inputs.measure(run, f"evaluation/{measured}")
        # The run's own config.toml is that of the last call, which may have measured another judge.
        kept, settings = run.path / "evaluation" / measured / "config.toml", dump(config)
        if run.cache.main and not (kept.exists() and kept.read_text(encoding="utf-8") == settings):
            with atomic(kept) as file:
                file.write(settings)


def write_results(experiment: Experiment, problems: Mapping[str, str]) -> dict[str, Any]:
    """results.json and results.md of all rows measured in the folder.

    {"seeds", "rows": {row: what it is}, "problems": {"row, seed n": why it could not be run}, what `compare` returns,
    "aspects": {aspect: the same}, "costs": {run folder: {stage: …}}}. "aspects" is empty where there is but one. The
    figures of a row that wasn't run are None.
    """
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


def first_samples(run: Path, judge: str) -> list[Judgement]:
    """The first of the samples that a judge was measured with, as written, in the examples' order."""
    samples = read_jsonl(run / "evaluation" / judge / "samples.jsonl", Judgement.from_json)
    return as_written([pool[0] for pool in pools_of(samples).values()])


def by_aspect(rows: Sequence[Example], measured: Measured) -> Iterator[tuple[str, list[Example], Measured]]:
    """The rows of each aspect with their judgements, where there are several aspects."""
    aspects = list(dict.fromkeys(row.aspect for row in rows))
    for aspect in aspects if len(aspects) > 1 else ():
        places = [k for k, row in enumerate(rows) if row.aspect == aspect]
        part = {
            name: {seed: [judgements[k] for k in places] for seed, judgements in by_seed.items()}
            for name, by_seed in measured.items()
        }
        yield aspect, [rows[k] for k in places], part
