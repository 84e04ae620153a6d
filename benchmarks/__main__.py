"""`python -m benchmarks`: measure a judge's speed beside other ways to run the same model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import tables
from benchmarks.run import run_bench
from recipe.cli.options import console, examples
from recipe.errors import SreError


@click.command(
    epilog=examples(
        "python -m benchmarks --model judge.gguf",
        "python -m benchmarks --model judge.gguf --workload a,b --rows 8 --repeats 1",
        "python -m benchmarks --model judge.gguf --llama-server ./llama-server --json bench.json",
    )
)
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A GGUF file, e.g. judge.gguf.")
@click.option("--workload", default="a,b,c,d", show_default=True, help="a samples, b rows, c pairs, d labels alone.")
@click.option("--rows", type=click.IntRange(min=1), help="At most so many prompts (pairs in c) of a workload.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="The median of so many runs.")
@click.option("--peers", help="Some of ours,loop,transformers,llama-server. [default: those that can be run here]")
@click.option("--llama-server", type=click.Path(path_type=Path), help="The program of llama.cpp, to measure it too.")
@click.option("--parallel", type=click.IntRange(min=1), default=16, show_default=True, help="Sequences side by side.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of every peer. [default: all cores]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there, too.")
def bench(model: Path, workload: str, peers: str | None, **options: Any) -> None:
    """Measure the judge's speed beside llama-cpp-python, transformers and llama-server, and against its bound."""
    chosen = None if peers is None else peers.split(",")
    measured = run_bench(model, workloads=workload.split(","), peers=chosen, **options)
    console().print(*tables(measured.results, measured.titles))


if __name__ == "__main__":
    try:
        bench()
    except SreError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
