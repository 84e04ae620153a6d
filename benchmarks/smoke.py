"""A whole run on a few rows, with time, memory and tokens/s of each stage beside the plan's.

    python -m benchmarks.smoke

The stages are those of `sre run`, so what passes here works there.
"""

import importlib.util
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from recipe.cli import options as opt
from recipe.config import Config, load
from recipe.errors import SreError, install
from recipe.pipeline.context import RunContext
from recipe.pipeline.stage_order import steps
from recipe.planning.costs import RUNTIME_GPU
from recipe.planning.machines import GIB, Machine, card_named, this_cpu
from recipe.planning.plan import make_plan
from recipe.system import versions

SETTINGS = Path(__file__).with_suffix(".toml")
DETAILS = ("engine", "steps", "first_loss", "last_loss", "relative_error", "malformed", "pairs", "flip_rate")
"""What the stages report that a bug report should show."""
HEAD = ("stage", "result", "s", "plan s", "tokens/s", "plan tokens/s", "peak MiB", "plan MiB", "detail")


def smoke(model: str = "smollm2-135m", *, cpu: bool = False) -> dict[str, Any]:
    """Run every stage on `model` in a scratch folder; returns the report, see `try_stages`.

    Raises SreError without a GPU (unless `cpu`: on the processor, without Unsloth), or without the packages of the
    extra `train`.
    """
    machine = this_machine(cpu=cpu)
    config = load(SETTINGS, [f"model.source={model}", f"model.engine={engine_on(machine)}"])
    with tempfile.TemporaryDirectory(prefix="sre-smoke-") as scratch:
        return try_stages(config, Path(scratch), machine, model)


def engine_on(machine: Machine) -> str:
    """The setting `model.engine` of a test on that machine."""
    return "auto" if machine.cuda else "transformers"


def this_machine(*, cpu: bool) -> Machine:
    """What a test runs on. `cpu`: the processor, from here on without a GPU. Raises SreError where there is no GPU."""
    if importlib.util.find_spec("torch") is None:
        raise SreError(f"the test needs the extra: {install('gpu')}")
    if cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if cpu:
        return replace(this_cpu(), name=f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)")
    if not torch.cuda.is_available():
        raise SreError(
            f"no GPU: torch {torch.__version__} sees none (+cpu is a CPU build; else compare its CUDA version with the "
            "driver's, see `nvidia-smi`). `python -m benchmarks.smoke --cpu` runs the same stages on the processor"
        )
    card, cuda = torch.cuda.get_device_properties(0), torch.version.cuda
    name = f"{card.name}, {card.total_memory / GIB:.1f} GiB, sm_{card.major}{card.minor}, CUDA {cuda}"
    return replace(card_named(card.name, card.total_memory), name=name)


def try_stages(
    config: Config, folder: Path, machine: Machine, model: str, curate: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """Run every stage; returns the report: `markdown` shows it, "passed" sums it up.

    The first stage that fails ends the test: the others need what it makes.

    Args:
        config: the run's settings.
        folder: the run's folder.
        machine: what `this_machine` found; the plan is made for it.
        model: what the report calls the seed model.
        curate: makes the pairs of the rows, in the place of curation.
    """
    with redirect_stdout(sys.stderr):  # Unsloth's banner is no part of the report
        rows, failure = _run(RunContext(config, folder), machine, curate)
    trace = "" if failure is None else "".join(traceback.format_exception(failure)[-6:]).rstrip()
    told = {"device": machine.name, "model": model, "versions": versions()}
    return {**told, "stages": rows, "trace": trace, "passed": failure is None}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown, for a bug report."""
    installed = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = ["### Every stage of a run", f"\nDevice: {report['device']}\n", f"Model: {report['model']}\n"]
    lines += [f"{installed}\n", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    for row in report["stages"]:
        cells = ["" if row[name] is None else str(row[name]).replace("|", "/").replace("\n", " ") for name in HEAD]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(["\n```", report["trace"], "```"] if report["trace"] else [])])


def _run(
    run: RunContext, machine: Machine, curate: Callable[..., Any] | None
) -> tuple[list[dict[str, Any]], Exception | None]:
    """One row of the table for each stage that was run, and what ended the test early."""
    import torch

    from recipe.inference.pytorch.loading import free_memory

    run.keep_config()
    planned = {}
    with suppress(SreError):  # the size of a model from the hub is not known before it is here
        planned = {stage.stage: stage for stage in make_plan(run.config, machine=machine).stages}
    rows: list[dict[str, Any]] = []
    for name, step in steps(run):
        print(f"{name} …", file=sys.stderr, flush=True)
        if curate and name.endswith(":curate"):
            step = partial(run.cache.do, name, curate, makes=("preferences.jsonl",), examples=run.inputs(1))
        free_memory()
        if machine.cuda:
            torch.cuda.reset_peak_memory_stats()
        row = dict.fromkeys(HEAD) | {"stage": name}
        rows.append(row)
        try:
            facts = step()
        except Exception as error:  # whatever breaks is what the report is for
            row |= {"result": "FAIL", "detail": f"{type(error).__name__}: {str(error)[:200]}"}
            return rows, error
        # On the GPU, or without one of this process.
        peak = torch.cuda.max_memory_allocated() // 1024**2 if machine.cuda else facts["peak_rss_mb"]
        told = {key: facts[key] for key in DETAILS if key in facts}
        details = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()
        )
        row |= {"result": "pass", "s": round(facts["wall_s"], 1), "peak MiB": peak, "detail": details}
        row["tokens/s"] = round(facts["tokens"] / facts["wall_s"]) if facts["tokens"] and facts["wall_s"] else None
        if (stage := planned.get(name)) and not (stage.host and machine.cuda):
            row["plan s"] = round(stage.seconds, 1)
            row["plan MiB"] = round((stage.memory.total - RUNTIME_GPU * machine.cuda) / 1024**2)
            row["plan tokens/s"] = round(facts["tokens"] / stage.seconds) if facts["tokens"] else None
    return rows, None


@opt.program(
    "python -m benchmarks.smoke",
    "python -m benchmarks.smoke --cpu            the same on the processor",
)
@click.option("--cpu", is_flag=True, help="On the processor.")
@click.option("--model", default="smollm2-135m", help="The seed model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(as_json: bool, **options: Any) -> None:
    """Run every stage on a few rows, in minutes, and report."""
    report = smoke(**options)
    click.echo(json.dumps(report, indent=1) if as_json else markdown(report))
    raise SystemExit(int(not report["passed"]))


if __name__ == "__main__":
    main()
