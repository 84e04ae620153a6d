"""The order of the stages, and the loop over the rounds. No other file knows either.

`steps` is the recipe on one screen: the seed model, SFT for each task, the merge, rounds of (sample, curate, DPO)
that must prove themselves on held-out rows, evaluation, export. Each stage runs once per run folder: done is done,
and a changed setting is an error (stage_cache.py).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipe.config import Config, load
from recipe.data.records import Example, Judgement
from recipe.errors import SreError
from recipe.pipeline import stage_inputs
from recipe.pipeline.context import RunContext, judges_of
from recipe.pipeline.preflight import preflight
from recipe.pipeline.results import write_results
from recipe.pipeline.stage_work import Facts

Step = tuple[str, Callable[[], Facts]]


def steps(run: RunContext, *, every: bool = False) -> Iterator[Step]:
    """The stages in order. A round that gave no pairs or was not kept is the last one, unless `every` is asked for."""
    config, tasks = run.config, run.config.data.tasks
    yield "seed", partial(stage_inputs.seed, run)
    if config.start != "seed" and config.sft.bootstraps:
        for task in tasks:
            yield f"bootstrap-{task}", partial(stage_inputs.bootstrap, run, task)
    if config.start == "mixed" and len(tasks) > 1:
        yield "sft-mixed", partial(stage_inputs.sft, run, *tasks)
    elif config.start != "seed":
        for task in tasks:
            yield f"sft-{task}", partial(stage_inputs.sft, run, task)
        if len(tasks) > 1:
            yield "merged", partial(stage_inputs.merge, run)
    for t in range(1, config.iterations + 1):
        yield f"iter-{t}:sample", partial(stage_inputs.sample, run, t)
        yield f"iter-{t}:curate", partial(stage_inputs.curate, run, t)
        if "problem" in run.outcome(t) and not every:
            break
        yield f"iter-{t}:dpo", partial(stage_inputs.dpo, run, t)
        if config.data.takes("dev"):
            for judge in (run.judge_before(t), f"j{t}"):
                yield f"dev/{judge}", partial(stage_inputs.measure, run, f"dev/{judge}")
            yield f"iter-{t}:decide", partial(stage_inputs.decide, run, t)
        if not run.kept(t) and not every:
            break
    for judge in (judges_of(config) if every else run.judges) if config.data.takes("test") else ():
        yield f"evaluation/{judge}", partial(stage_inputs.measure, run, f"evaluation/{judge}")
    if config.data.takes("dev"):  # the rows that its calibration is fitted on
        yield f"dev/{run.exported}", partial(stage_inputs.measure, run, f"dev/{run.exported}")
    yield "gguf", partial(stage_inputs.export, run)


def run_pipeline(
    config: Config, folder: Path, *, until: str | None = None, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run (or go on with) all stages up to and including `until`; returns what results.json then holds.

    `say` is told first which rows the run takes. Raises SreError also for what would end a later stage.
    """
    run = RunContext(config, folder)
    _known(run, until or "seed", "--until")
    for line in preflight(run):
        say(line)
    with run.working():
        for name, step in steps(run):
            step()
            if name == until:
                break
        return write_results(run)


def run_stage(folder: Path, name: str, overrides: Sequence[str] = (), *, again: bool = False) -> Facts:
    """Run one stage of a run folder, in which the stages that it needs are done.

    overrides: settings other than the folder's, with which the stage runs again; the folder keeps them. again: run it
    even if it is done. Raises SreError for a stage that isn't of this run, or one that it needs and that isn't done.
    """
    run = open_run(folder, overrides)
    step = _known(run, name, None)
    with run.working():
        if again or run.config != load(folder / "config.toml"):
            _ = run.exported  # refused before anything is forgotten
            run.cache.renewed = name
        facts = step()
        write_results(run)
        return facts


def open_run(folder: Path, overrides: Sequence[str] = ()) -> RunContext:
    """The run in a folder. Raises SreError where there is none."""
    if not (folder / "config.toml").is_file():
        raise SreError("not a run folder (no config.toml); start one with `sre run CONFIG --until seed`", file=folder)
    return RunContext(load(folder / "config.toml", overrides), folder)


def _known(run: RunContext, name: str, field: str | None) -> Callable[[], Facts]:
    plan = dict(steps(run, every=True))
    if name not in plan:
        raise SreError(f"no stage {name!r}; the stages of this run: {', '.join(plan)}", field=field)
    return plan[name]


def judge_one(folder: Path) -> tuple[Example, Judgement]:
    """The first test row, judged by the run's judge.gguf."""
    from recipe.judge.judge import Judge

    example = open_run(folder).test_rows[0]
    with Judge.from_gguf(folder / "judge.gguf") as judge:
        return example, next(iter(judge.judge([example])))
