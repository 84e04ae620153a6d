"""Train a judge: `sre run`, `quickstart`, one command per stage, `status`, `config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recipe.cli.options import console, examples, run_argument, run_dir_option, set_option
from recipe.errors import SreError

if TYPE_CHECKING:
    from recipe.config import Config


@click.command(
    epilog=examples(
        "sre split judged.jsonl -o my-data --dev 0.1 --test 0.1",
        "sre split human=pandalm.jsonl gpt4=bench.jsonl -o my-data --test 1 -n 100 --both-orders",
        "sre run cpu-smollm2-135m --set data.pointwise=my-data --set data.pairwise=my-data",
    )
)
@click.argument("rows", nargs=-1, required=True, metavar="[NAME=]FILE...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The data's folder.")
@click.option("--dev", type=float, default=0.0, show_default=True, help="Share of each file's prompts.")
@click.option("--test", type=float, default=0.0, show_default=True, help="Share of each file's prompts.")
@click.option(
    "-n", "numbers", multiple=True, type=click.IntRange(min=1), help="Rows per file and split; once, or per file."
)
@click.option("--max-chars", type=click.IntRange(min=1), help="Leave out longer rows; a token has about four.")
@click.option("--both-orders", is_flag=True, help="Held-back pairwise rows come in both orders.")
@click.option("--seed", type=int, default=0, show_default=True)
def split(rows: tuple[str, ...], out: Path, numbers: tuple[int, ...], **options: Any) -> None:
    """Split labelled rows into train, dev and test by whole prompts, with balanced labels.

    The folder then serves as data.pointwise and data.pairwise of a run. NAME becomes the rows' aspect, by which results
    are told apart. [default: the file's name]
    """
    from recipe.data.split import prepare_splits

    if len(numbers) not in (0, 1, len(rows)):
        raise SreError(f"expected -n once, or once for each of the {len(rows)} files, not {len(numbers)} times")
    named = dict(_named(row) for row in rows)
    if len(named) < len(rows):
        raise SreError("two files have the same name; tell them apart: NAME=FILE")
    for name, counts in prepare_splits(named, out, numbers=numbers, **options).items():
        click.echo(f"{out / name}: " + ", ".join(f"{count} {task}" for task, count in counts.items()))


def _named(source: str) -> tuple[str, str]:
    name, equals, path = source.partition("=")
    return (name, path) if equals else (Path(source).stem, source)


@click.command(
    epilog=examples(
        "sre run cpu-smollm2-135m --set seed=1 --run-dir runs/one",
        "sre run my.toml --until merged        stop after the merge",
        "sre run my.toml                       go on where it stopped",
        "accelerate launch -m recipe.cli.main run my.toml        on all GPUs of this machine",
    )
)
@click.argument("config")
@run_dir_option
@set_option
@click.option("--until", metavar="STAGE", help="Stop after this stage, e.g. merged or iter-1:curate.")
def run(config: str, run_dir: Path | None, overrides: tuple[str, ...], until: str | None) -> None:
    """Run the whole recipe, or go on with it. CONFIG is a TOML file or a preset's name (see `sre config`)."""
    from recipe.config import load

    _run_and_show(load(config, overrides), run_dir, until)


@click.command(epilog=examples("sre quickstart", "sre quickstart --set seed=3 --run-dir runs/third"))
@run_dir_option
@set_option
def quickstart(run_dir: Path | None, overrides: tuple[str, ...]) -> None:
    """Train SmolLM2-135M into a judge on this machine's CPU: all stages, a table, one judged example."""
    from recipe.config import load
    from recipe.pipeline.steps import judge_one

    folder = _run_and_show(load("cpu-smollm2-135m", overrides), run_dir, None)
    from recipe.evaluation.report.tables import judged_example

    console().print(judged_example(*judge_one(folder)))
    click.echo(f"Your judge: {folder / 'judge.gguf'}")
    click.echo(
        f"Judge a file with it: sre judge data/test/pointwise.jsonl -o judged.jsonl --model {folder / 'judge.gguf'}"
    )


def _run_and_show(config: Config, run_dir: Path | None, until: str | None) -> Path:
    from recipe.pipeline.steps import run_pipeline

    folder = run_dir or Path("runs") / config.name
    results = run_pipeline(config, folder, until=until)
    from recipe.evaluation.report.tables import show_results, stages_table

    console().print(stages_table(results["stages"]))
    if results["models"]:
        show_results(results, console())
    return folder


def _stage_command(
    name: str, stage: str, text: str, *, task: bool = False, iteration: bool = False, export: bool = False
) -> click.Command:
    """The command of one stage. `stage` may hold {task} and {t}."""

    def body(run: Path, ollama: str | None = None, judge: str | None = None, **chosen: Any) -> None:
        from recipe.pipeline.steps import run_stage

        facts = run_stage(run, stage.format(**chosen), [f"export.source={judge}"] if judge else ())
        shown = {key: value for key, value in facts.items() if key not in ("settings", "inputs", "versions", "figures")}
        console().print_json(data=shown)
        if ollama:
            from recipe.training.publish import to_ollama

            to_ollama(run, ollama)
            click.echo(f"Ollama has it: ollama run {ollama}")

    command = click.command(name, help=text)(run_argument(body))
    example = f"sre {name} runs/quickstart"
    if task:
        kind = click.Choice(["pointwise", "pairwise"])
        command = click.option("--task", type=kind, required=True, help="Which adapter to train.")(command)
        example += " --task pointwise"
    if iteration:
        number = click.IntRange(min=1)
        command = click.option("-t", "--iteration", "t", type=number, default=1, show_default=True)(command)
        example += " -t 1"
    more = []
    if export:
        command = click.option(
            "--ollama", metavar="NAME", help="Make the judge a model of this machine's Ollama, too."
        )(command)
        command = click.option("--judge", help="Which judge: sft, j1, j2, … [default: the last]")(command)
        more = [f"{example} --judge j1      where the second round made it worse", f"{example} --ollama my-judge"]
    command.epilog = examples(example, *more)
    return command


@click.command(epilog=examples("sre status runs/quickstart"))
@run_argument
def status(run: Path) -> None:
    """What of a run is done, how long it took, its tokens and peak memory."""
    from recipe.evaluation.report.tables import stages_table
    from recipe.pipeline.stage_cache import RunFolder

    if not (run / "config.toml").is_file():
        raise SreError("not a run folder (no config.toml)", file=run)
    console().print(stages_table({stage["stage"]: stage for stage in RunFolder(run).stages()}))


@click.command(epilog=examples("sre config", "sre config cpu-smollm2-135m", "sre config my.toml --set sample.n=4"))
@click.argument("config", required=False)
@set_option
def config(config: str | None, overrides: tuple[str, ...]) -> None:
    """List the presets, or print one config with every setting resolved."""
    from recipe.config import dump, load, presets

    click.echo(dump(load(config, overrides)) if config else "\n".join(presets()))


STAGES = (
    _stage_command("seed", "seed", "Fetch or convert the seed model of a run folder."),
    _stage_command("sft", "sft-{task}", "Train the pointwise or the pairwise adapter.", task=True),
    _stage_command("merge", "merged", "Merge the two adapters and print every method's error."),
    _stage_command("sample", "iter-{t}:sample", "Draw N judgements of each input from J_t.", iteration=True),
    _stage_command("assess", "iter-{t}:assess", "Rate or pick judgements, where curation asks.", iteration=True),
    _stage_command("curate", "iter-{t}:curate", "Make preference pairs of the judgements.", iteration=True),
    _stage_command("dpo", "iter-{t}:dpo", "Train J_{t+1} on the preference pairs.", iteration=True),
    _stage_command(
        "export",
        "gguf",
        "Quantise the last judge or another; write judge.gguf, card and Modelfile.",
        export=True,
    ),
)

COMMANDS: tuple[click.Command, ...] = (run, quickstart, split, *STAGES, status, config)
