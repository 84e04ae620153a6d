"""A whole run on random weights of a true shape: the time and memory of each stage beside the plan's.

    python -m benchmarks.shape llama3.1-8b --memory-gb 24

The settings are those of the model's preset: its batches, lengths and samples side by side, on which memory depends.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.random_model import shape_named, write_long_rows, write_pairs, write_random_model
from benchmarks.smoke import SETTINGS, engine_on, markdown, this_machine, try_stages
from recipe.cli import options as opt
from recipe.config import load, presets
from recipe.planning.costs import RUNTIME_GPU
from recipe.planning.machines import GIB, Machine
from recipe.system import in_own_process, read_table
from recipe.training.seed import run_seed

_TABLE = read_table(__file__)
FEW, ON_A_CPU = _TABLE["few"], _TABLE["on_a_cpu"]


def run_shape(
    name: str,
    *,
    cpu: bool = False,
    layers: int | None = None,
    vocab: int | None = None,
    memory_gb: float | None = None,
    tokenizer: str = "smollm2-135m",
) -> dict[str, Any]:
    """Run every stage on a random model; returns the report of `try_stages`.

    Args:
        name: a part of a model's name in the table of shapes, e.g. "llama3.1-8b".
        cpu: on the processor, without Unsloth.
        layers: this many layers. [default: all; 2 on a CPU]
        vocab: this vocabulary size. [default: the model's]
        memory_gb: use no more of the GPU than this.
        tokenizer: the seed model whose tokeniser is taken.

    Raises:
        SreError: an unknown name, no GPU, a missing package, or too little room on the disk.
    """
    machine = _capped(this_machine(cpu=cpu), memory_gb)
    known, shape = shape_named(name)
    shape = replace(shape, layers=layers or (2 if cpu else shape.layers), vocab=vocab or shape.vocab)
    fitting = [preset for preset in presets() if load(preset).model.source == known and not preset.endswith("-paper")]
    base = fitting[0] if fitting else str(SETTINGS)
    few = [*FEW, f"model.engine={engine_on(machine)}", *(ON_A_CPU if cpu else [])]
    config = load(base, few)
    with tempfile.TemporaryDirectory(prefix="sre-shape-") as scratch:
        folder = Path(scratch)
        run_seed(tokenizer, folder / "tokeniser")
        # In a process of its own, because Unsloth must be imported before transformers.
        in_own_process(write_random_model, folder / "model", known, shape, folder / "tokeniser" / "model")
        in_own_process(write_long_rows, folder / "rows", folder / "model", config.model.max_length)
        rows = [f"data.{task}={folder / 'rows'}" for task in ("pointwise", "pairwise")]
        side_by_side = -(-config.sample.parallel // config.sample.n)
        source = [f"model.source={folder / 'model'}", f"sample.inputs=[{max(2, side_by_side)}]"]
        settings = load(base, [*few, *rows, *source])
        return try_stages(settings, folder / "run", machine, f"random, {known}", write_pairs)


def _capped(machine: Machine, memory_gb: float | None) -> Machine:
    """The machine with no more than this of its GPU, to which PyTorch keeps from here on."""
    import torch

    if memory_gb is None or not machine.cuda or memory_gb * GIB >= machine.memory:
        return machine
    torch.cuda.set_per_process_memory_fraction((memory_gb * GIB - RUNTIME_GPU) / machine.memory)
    return replace(machine, name=f"{machine.name}, at most {memory_gb:g} GiB of it", memory=memory_gb * GIB)


@opt.program(
    "python -m benchmarks.shape llama3.1-8b --memory-gb 24",
    "python -m benchmarks.shape llama3.1-8b --cpu            two layers on the processor",
)
@click.argument("shape")
@click.option("--cpu", is_flag=True, help="On the processor.")
@click.option("--model", "tokenizer", default="smollm2-135m", help="The seed model whose tokeniser is taken.")
@click.option("--layers", type=opt.POSITIVE, help="This many layers. [default: all; 2 on a CPU]")
@click.option("--vocab", type=opt.POSITIVE, help="This vocabulary size. [default: the model's]")
@click.option("--memory-gb", type=opt.Finite(min=1), help="Use no more of the GPU than this.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(shape: str, as_json: bool, **options: Any) -> None:
    """Run every stage on random weights in the shape of a model, e.g. llama3.1-8b, and report."""
    report = run_shape(shape, **options)
    click.echo(json.dumps(report, indent=1) if as_json else markdown(report))
    raise SystemExit(int(not report["passed"]))


if __name__ == "__main__":
    main()
