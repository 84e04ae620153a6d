"""Look at the machine and beyond it: `sre doctor`, `plan`, `publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recipe.cli import options as opt
from recipe.errors import SreError, printable

if TYPE_CHECKING:
    from recipe.doctor.checks import Check


def _moved(_: click.Context, __: click.Parameter, given: bool) -> None:
    if given:
        raise SreError("run `python -m benchmarks.smoke` in a checkout instead", field="--gpu-smoke")


@opt.command
@click.option("--gpu-smoke", is_flag=True, hidden=True, expose_value=False, callback=_moved)
def doctor() -> None:
    """Versions, CPU and GPU, what is missing and how to install it."""
    from recipe.doctor.checks import diagnose, exit_status, render

    checks = [*diagnose(), *_kernels()]
    render(checks)
    raise SystemExit(exit_status(checks))


def _kernels() -> list[Check]:
    """What llama.cpp was compiled for, whether it multiplies rightly, and whether the native kernels are on. Nothing
    where llama.cpp can't be imported."""
    from recipe.doctor.checks import Check, build_check

    try:
        from recipe.inference.llamacpp.kv_cache import features, start_backend, wants_kernels
        from recipe.inference.llamacpp.product_check import products_are_right
    except Exception:  # a broken installation can raise anything; the other checks name it
        return []
    build = build_check(features(), right=products_are_right())
    kernels = Check("kernels", "ok", "llama.cpp's own; SRE_KERNELS=native turns on the native ones")
    if wants_kernels("native"):
        kernels = Check("kernels", "ok", "native (SRE_KERNELS=native)")
        try:
            start_backend()  # compiles them, so that no judgement waits for it
        except SreError as error:
            kernels = Check("kernels", "warning", str(error), "see docs/performance.md, Native kernels")
    return [build, kernels]


@opt.command
@click.argument("config")
@click.option("--gpu", default="cpu", help="t4, l4, 3060, 3090, 4090, a100-40, a100-80, h100, h200; cpu: this one.")
@opt.overrides
def plan(config: str, gpu: str, overrides: tuple[str, ...]) -> None:
    """Check the data, and show the memory and time of each stage, before anything is downloaded."""
    from tempfile import TemporaryDirectory

    from recipe.config import load
    from recipe.data.selection import Selection
    from recipe.pipeline.context import RunContext
    from recipe.pipeline.preflight import preflight
    from recipe.planning.plan import make_plan, show_plan

    settings = load(config, overrides)
    with TemporaryDirectory() as scratch:
        rows = Selection(settings, Path(scratch), keep=True)
        checked = preflight(RunContext(settings, Path(scratch), rows), offline=True)
        planned = make_plan(settings, gpu.lower(), selection=rows)
    click.echo(printable("\n".join(checked)))
    show_plan(planned, opt.console())


@opt.command
@opt.run
@click.option("--repo", metavar="USER/NAME", required=True, help="The model repository; made where there is none.")
@click.option("--dry-run", is_flag=True, help="List what would be uploaded, and the model card; send nothing.")
@click.option("--private", is_flag=True, help="A new repository is private.")
def publish(run: Path, repo: str, dry_run: bool, private: bool) -> None:
    """Take a finished run's judge to the Hugging Face hub: GGUF files, adapter and model card."""
    from recipe.pipeline.publish import collect, upload

    bundle = collect(run, repo)
    click.echo(bundle.listing)
    if dry_run:
        click.echo(f"\n{printable(bundle.card)}\nNothing was sent (--dry-run).")
    else:
        click.echo(f"Published: {upload(bundle, private=private)}")


COMMANDS: tuple[click.Command, ...] = (doctor, plan, publish)
