"""The command `sre`. Each command's body loads the config and calls one function; heavy imports wait until then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recipe import __version__
from recipe.errors import SreError

if TYPE_CHECKING:
    from recipe.config import Config


class _Group(click.Group):
    """A user's error is one line on standard error and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SreError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sre")
def main() -> None:
    """Train your own LLM judge, take it home as one GGUF file, judge on CPU.

    \b
    Start here:
      sre quickstart                       train and measure a small judge on this machine
      sre run 24gb-llama3.1-8b             the paper's recipe on a 24 GB GPU
      sre judge rows.jsonl -o out.jsonl --model judge.gguf
      sre doctor                           what this machine has, and what is missing
    """


_run_dir = click.option(
    "--run-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the run lives. [default: runs/<name>]"
)
_set = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
_run = click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))


@main.command(
    epilog=_examples(
        "sre run cpu-smollm2-135m --set seed=1 --run-dir runs/one",
        "sre run my.toml --until merged        stop after the merge",
        "sre run my.toml                       go on where it stopped",
    )
)
@click.argument("config")
@_run_dir
@_set
@click.option("--until", metavar="STAGE", help="Stop after this stage, e.g. merged or iter-1:curate.")
def run(config: str, run_dir: Path | None, overrides: tuple[str, ...], until: str | None) -> None:
    """Run the whole recipe, or go on with it. CONFIG is a TOML file or a preset's name (see `sre config`)."""
    from recipe.config import load

    _run_and_show(load(config, overrides), run_dir, until)


@main.command(epilog=_examples("sre quickstart", "sre quickstart --set seed=3 --run-dir runs/third"))
@_run_dir
@_set
def quickstart(run_dir: Path | None, overrides: tuple[str, ...]) -> None:
    """Train SmolLM2-135M into a judge on this machine's CPU: all stages, a table, one judged example."""
    from recipe.config import load
    from recipe.pipeline import judge_one

    folder = _run_and_show(load("cpu-smollm2-135m", overrides), run_dir, None)
    from recipe.evaluation.report import judged_example

    _console().print(judged_example(*judge_one(folder)))
    click.echo(f"Your judge: {folder / 'judge.gguf'}")
    click.echo(
        f"Judge a file with it: sre judge data/test/pointwise.jsonl -o judged.jsonl --model {folder / 'judge.gguf'}"
    )


def _run_and_show(config: Config, run_dir: Path | None, until: str | None) -> Path:
    from recipe.pipeline import run_pipeline

    folder = run_dir or Path("runs") / config.name
    results = run_pipeline(config, folder, until=until)
    from recipe.evaluation.report import show_results, stages_table

    _console().print(stages_table(results["stages"]))
    if results["models"]:
        show_results(results, _console())
    return folder


def _stage_command(name: str, stage: str, text: str, *, task: bool = False, iteration: bool = False) -> None:
    """Add the command of one stage. `stage` may hold {task} and {t}."""

    def body(run: Path, **chosen: Any) -> None:
        from recipe.pipeline import run_stage

        facts = run_stage(run, stage.format(**chosen))
        shown = {key: value for key, value in facts.items() if key not in ("settings", "inputs", "versions", "figures")}
        _console().print_json(data=shown)

    command = click.command(name, help=text)(_run(body))
    example = f"sre {name} runs/quickstart"
    if task:
        kind = click.Choice(["pointwise", "pairwise"])
        command = click.option("--task", type=kind, required=True, help="Which adapter to train.")(command)
        example += " --task pointwise"
    if iteration:
        number = click.IntRange(min=1)
        command = click.option("-t", "--iteration", "t", type=number, default=1, show_default=True)(command)
        example += " -t 1"
    command.epilog = _examples(example)
    main.add_command(command)


_stage_command("seed", "seed", "Fetch or convert the seed model of a run folder.")
_stage_command("sft", "sft-{task}", "Train the pointwise or the pairwise adapter.", task=True)
_stage_command("merge", "merged", "Merge the two adapters and print every method's error.")
_stage_command("sample", "iter-{t}:sample", "Draw N judgements of each input from J_t.", iteration=True)
_stage_command("assess", "iter-{t}:assess", "Rate or pick among the judgements, where curation asks.", iteration=True)
_stage_command("curate", "iter-{t}:curate", "Make preference pairs of the judgements.", iteration=True)
_stage_command("dpo", "iter-{t}:dpo", "Train J_{t+1} on the preference pairs.", iteration=True)
_stage_command("export", "gguf", "Quantise the last judge, write judge.gguf, model card and Modelfile.")


@main.command(epilog=_examples("sre evaluate runs/quickstart --judge sft", "sre evaluate runs/quickstart --judge j2"))
@_run
@click.option("--judge", "name", required=True, help="seed, sft, j1, j2, …")
def evaluate(run: Path, name: str) -> None:
    """Judge the test rows with one judge of a run folder and show its figures."""
    from recipe.pipeline import run_stage

    facts = run_stage(run, f"evaluation/{name}")
    from recipe.evaluation.report import results_table

    figures = facts["figures"]
    _console().print(results_table({name: figures, f"{name}, label forced": figures["constrained"]}))


@main.command(
    epilog=_examples(
        "sre judge rows.jsonl -o judged.jsonl --model judge.gguf",
        "sre judge rows.csv -o judged.jsonl --model judge.gguf --resume",
        "sre judge seed-data -o - --model judge.gguf --limit 3",
    )
)
@click.argument("rows")
@click.option("-o", "--out", required=True, help="JSON lines, appended as rows finish; - for standard output.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A GGUF file, e.g. judge.gguf.")
@click.option("--resume", is_flag=True, help="Keep finished rows and judge the others.")
@click.option("--overwrite", is_flag=True, help="Begin the output file anew.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows.")
@click.option("--task", type=click.Choice(["pointwise", "pairwise"]), help="[default: told from the columns]")
@click.option("--label-only", is_flag=True, help="No rationale: one prefill a row, the label alone.")
@click.option("--constrain/--no-constrain", default=True, help="Force a label where the model writes none.")
@click.option("--max-tokens", type=click.IntRange(min=8), default=512, show_default=True, help="Of one judgement.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@click.option("--skip-bad-rows", type=click.Path(path_type=Path), help="Write unreadable rows there and go on.")
def judge(rows: str, out: str, model: Path, threads: int | None, **options: Any) -> None:
    """Judge every row of a file (JSONL, CSV or Parquet) with a finished judge, on the CPU."""
    from recipe.judge.batch import judge_with_bar

    summary = judge_with_bar(rows, out, model, threads=threads, **options)
    click.echo(str(summary), err=True)


@main.command(epilog=_examples("sre status runs/quickstart"))
@_run
def status(run: Path) -> None:
    """What of a run is done, how long it took, its tokens and peak memory."""
    from recipe.evaluation.report import stages_table
    from recipe.run import RunFolder

    if not (run / "config.toml").is_file():
        raise SreError("not a run folder (no config.toml)", file=run)
    _console().print(stages_table({stage["stage"]: stage for stage in RunFolder(run).stages()}))


@main.command(epilog=_examples("sre config", "sre config cpu-smollm2-135m", "sre config my.toml --set sample.n=4"))
@click.argument("config", required=False)
@_set
def config(config: str | None, overrides: tuple[str, ...]) -> None:
    """List the presets, or print one config with every setting resolved."""
    from recipe.config import dump, load, presets

    click.echo(dump(load(config, overrides)) if config else "\n".join(presets()))


@main.command(epilog=_examples("sre experiment seed-data", "sre experiment seed-data --seeds 0 --seeds 1 --seeds 2"))
@click.argument("name", type=click.Choice(["seed-data"]))
@click.option("--seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True, help="May be repeated.")
@_run_dir
@_set
def experiment(name: str, seeds: tuple[int, ...], run_dir: Path | None, overrides: tuple[str, ...]) -> None:
    """Repeat the recipe over random seeds and report J_2 against J_SFT, pooled. seed-data: all of the seed data."""
    from recipe.experiments import run_seeds

    results = run_seeds(name, seeds, run_dir or Path("runs") / name, overrides)
    from recipe.evaluation.report import show_results

    show_results(results, _console())


@main.command(epilog=_examples("sre doctor"))
def doctor() -> None:
    """Versions, CPU and GPU, what is missing and how to install it."""
    from recipe.doctor import diagnose, exit_status, render

    checks = diagnose()
    render(checks)
    raise SystemExit(exit_status(checks))


def _console() -> Any:
    from rich.console import Console

    # A log has no width of its own: tables would be cut to 80 columns.
    console = Console()
    return console if console.is_terminal else Console(width=140)


if __name__ == "__main__":
    main()
