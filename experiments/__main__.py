"""`python -m experiments`: measure baselines and ablations beside the recipe."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.run import VARIANTS, Experiment, run_experiment, write_results
from experiments.tables import show_experiment
from recipe.cli import options as opt
from recipe.config import load
from recipe.errors import SreError


def _list_variants(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        width = max(map(len, VARIANTS))
        for name, variant in VARIANTS.items():
            click.echo(f"{name:{width}}  {variant.description}")
        context.exit()


@opt.program(
    "python -m experiments --list",
    "python -m experiments seed-data                       the recipe over three random seeds",
    "python -m experiments seed-data self-consistency meta-judge-equal margin-1 margin-2 --seeds 0",
    "python -m experiments my.toml sft j2 --set data.pointwise=my-data --run-dir runs/mine",
    "python -m experiments real-judgments --tables         of the verdicts that are there; runs no model",
)
@click.argument("preset")
@click.argument("variants", nargs=-1, metavar="[VARIANT]...")
@click.option("--tables", is_flag=True, help="Only write the tables of what was measured before.")
@click.option("--seeds", multiple=True, type=int, default=(0, 1, 2), help="May be repeated.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_variants, help="List all variants."
)
@opt.run_dir
@opt.overrides
def experiment(
    preset: str,
    variants: tuple[str, ...],
    tables: bool,
    seeds: tuple[int, ...],
    run_dir: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure baselines and ablations beside the recipe, over random seeds.

    PRESET is a preset's name or a TOML file. Each VARIANT names a baseline or an ablation; without any, the seed
    model, J_SFT and each J are measured. Stages that several variants need run once. The tables show everything that
    was measured in the folder, so further calls can add variants. The command writes results.json and results.md there.
    """
    if tables and variants:
        raise SreError("the tables show all variants that were measured; leave VARIANT out", field="--tables")
    chosen = Experiment(preset, overrides, run_dir or Path("runs") / load(preset, overrides).name)
    results = write_results(chosen, {}) if tables else run_experiment(chosen, variants, seeds)
    show_experiment(results, opt.console())


if __name__ == "__main__":
    experiment()
