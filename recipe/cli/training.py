"""Train a judge: `sre quickstart`, `init`, `run`, `stage`, `status`, `config`, `split`."""

import time
from pathlib import Path
from typing import Any

import click

from recipe.cli import options as opt
from recipe.errors import SreError, printable

WATCH_S = 5.0


@opt.command
@click.argument("folder", type=opt.FOLDER, metavar="DIR")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True), metavar="FILE...")
@opt.columns
@opt.rubric
@opt.skip_bad_rows
@click.option("--preset", metavar="NAME", help="The settings to start from. [default: what fits this machine]")
def init(folder: Path, files: tuple[str, ...], **options: Any) -> None:
    """Make a project of labelled files: split rows and a commented config for this machine, ready to run.

    The rows have a prompt, a response and a score, or two responses and which is better. Where that can't be told, the
    error says what to add.
    """
    from recipe.pipeline.new_project import new_project

    for line in new_project(folder, files, tell=opt.tell, **options):
        click.echo(printable(line))


@opt.command
@click.argument("rows", nargs=-1, required=True, metavar="[NAME=]FILE...")
@click.option("-o", "--out", required=True, type=opt.FOLDER, help="The data's folder.")
@click.option("--dev", type=opt.Finite(0, 1), default=0.0, help="Share of the prompts for the dev split, e.g. 0.1.")
@click.option("--test", type=opt.Finite(0, 1), default=0.0, help="Share of the prompts for the test split, e.g. 0.2.")
@click.option(
    "-n", "numbers", multiple=True, type=opt.POSITIVE, help="Most rows per split: once for all files, or once for each."
)
@click.option("--max-chars", type=opt.POSITIVE, help="Leave out longer rows; a token has about four.")
@click.option("--both-orders", is_flag=True, help="Held-back pairwise rows come in both orders.")
@click.option("--seed", type=int, default=0, help="Random seed of the split.")
@opt.columns
@opt.rubric
@opt.skip_bad_rows
def split(rows: tuple[str, ...], out: Path, numbers: tuple[int, ...], rubric: str | None, **options: Any) -> None:
    """Split labelled rows into train, dev and test by whole prompts, with balanced labels.

    The folder then serves as data.pointwise and data.pairwise of a run. NAME becomes the rows' aspect, by which results
    are told apart. [default: the file's name]
    """
    from recipe.data.rubrics import given_rubrics
    from recipe.data.split import prepare_splits

    options |= {"rubrics": given_rubrics(rubric), "tell": opt.tell}
    if len(numbers) not in (0, 1, len(rows)):
        raise SreError(f"expected -n once, or once for each of the {len(rows)} files, not {len(numbers)} times")
    named = dict(_named(row) for row in rows)
    if len(named) < len(rows):
        raise SreError("two files have the same name; tell them apart: NAME=FILE")
    written = prepare_splits(named, out, numbers=numbers, **options)
    for name, counts in written.items():
        click.echo(f"{out / name}: " + ", ".join(f"{count} {task}" for task, count in counts.items()))
    if list(written) == ["train"]:
        opt.tell("no dev or test rows: --dev 0.1 --test 0.1 hold some back")


def _named(source: str) -> tuple[str, str]:
    from recipe.data.values import writable

    name, equals, path = source.partition("=")
    return (name, path) if equals else (writable(Path(source).stem), source)


@opt.command
@click.argument("config")
@opt.run_dir
@opt.overrides
@click.option(
    "--until", metavar="STAGE", help="Stop after this stage, e.g. iter-1:curate; `sre status RUN` lists them."
)
def run(config: str, run_dir: Path | None, overrides: tuple[str, ...], until: str | None) -> None:
    """Run the whole recipe, or go on with it. CONFIG is a TOML file or a preset's name (see `sre config`)."""
    _run_and_show(config, overrides, run_dir, until)


@opt.command
@opt.run_dir
@opt.overrides
def quickstart(run_dir: Path | None, overrides: tuple[str, ...]) -> None:
    """Train SmolLM2-135M into a judge on this machine's CPU: all stages, a table, one judged example."""
    folder = _run_and_show("cpu-smollm2-135m", overrides, run_dir)
    from recipe.evaluation.tables import judged_example
    from recipe.pipeline.stage_order import judge_one

    opt.console().print(judged_example(*judge_one(folder)))


def _run_and_show(source: str, overrides: tuple[str, ...], run_dir: Path | None, until: str | None = None) -> Path:
    from recipe.config import load
    from recipe.pipeline.stage_order import run_pipeline

    config = load(source, overrides)
    folder = run_dir or Path("runs") / config.name
    try:
        results = run_pipeline(config, folder, until=until, say=lambda line: click.echo(printable(line)))
    except KeyboardInterrupt:
        click.echo(printable(f"stopped; what is done is in {folder}. To go on: {opt.command_again()}"), err=True)
        raise SystemExit(130) from None
    from recipe.evaluation import tables

    opt.console().print(tables.stages_table(results["stages"]))
    if results["models"]:
        tables.show(tables.results_grids(results), results["models"], opt.console())
    for found in results["rounds"]:
        click.echo(tables.round_text(found))
    for task, written in results["bootstrap"].items():
        click.echo(tables.bootstrap_text(task, written))
    if "flips" in results:
        click.echo(tables.flips_text(results["flips"]))
    if results["judge"]:
        click.echo(f"Your judge: {folder / 'judge.gguf'} ({tables.judge_name(results['judge'])})")
        click.echo(f"Judge a file with it: sre judge rows.jsonl -o judged.jsonl --model {folder / 'judge.gguf'}")
        for line in tables.warning_lines({results["judge"]: results["models"].get(results["judge"])}):
            click.echo(f"But {line}")
    else:
        click.echo(f"Not finished: run the same command again to go on, or see `sre status {folder}`")
    return folder


@opt.command
@click.argument("name")
@opt.run
@opt.overrides
@click.option("--again", is_flag=True, help="Run the stage even if it is done.")
def stage(name: str, run: Path, overrides: tuple[str, ...], again: bool) -> None:
    """Run one stage of a run folder, by the name that `sre status` shows.

    For example seed, sft-pointwise, merged, iter-1:sample, iter-1:dpo, evaluation/j1 or gguf. The stages that it needs
    must be done. With --set the stage runs again with other settings, which the folder keeps; the stages after it then
    have to be made again.
    """
    from recipe.pipeline.stage_order import run_stage

    facts = run_stage(run, name, overrides, again=again)
    hidden = ("settings", "inputs", "versions", "figures", "made")
    opt.console().print_json(data={key: value for key, value in facts.items() if key not in hidden})


@opt.command
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--watch", is_flag=True, help="Show it again every five seconds, until Ctrl-C.")
def status(run: Path, watch: bool) -> None:
    """Show what of a run is done, how long it took, what has begun, and which rounds were kept.

    RUN is the run's folder, or the config or project that it was started with in this folder.
    """
    from recipe.evaluation.tables import round_text, stages_table
    from recipe.pipeline.finished_runs import read_status, run_folder

    run = run_folder(run)
    while True:
        stages, rounds = read_status(run)
        opt.console().print(stages_table(stages))
        for found in rounds:
            click.echo(round_text(found))
        if not watch:
            break
        time.sleep(WATCH_S)
        click.clear()


@opt.command
@click.argument("config", required=False)
@opt.overrides
def config(config: str | None, overrides: tuple[str, ...]) -> None:
    """List the presets, or print one config with every setting resolved."""
    from recipe.config import dump, load, presets

    click.echo(dump(load(config, overrides)) if config else "\n".join(presets()))


COMMANDS: tuple[click.Command, ...] = (quickstart, init, run, stage, status, config, split)
