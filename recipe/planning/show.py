"""A plan as a table, for the terminal."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from recipe.planning.costs import Memory
from recipe.planning.machines import GIB
from recipe.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

    from recipe.planning.plan import Plan


def show_plan(plan: Plan, console: Console) -> None:
    """Print the stages with their memory (GiB) by part and their time, then the verdict."""
    from rich.table import Table
    from rich.text import Text

    title = f"{plan.config.name}: {plan.config.model.source} on {plan.machine.name} (GiB)"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for heading in (*(part.name for part in fields(Memory)), "all", "time"):
        table.add_column(heading, justify="right")
    table.add_column("work")
    for stage in plan.stages:
        total = stage.memory.total
        parts = [f"{value / GIB:.1f}" if value >= 0.05 * GIB else "" for value in astuple(stage.memory)]
        style = "red" if not stage.host and total > plan.machine.memory else ""
        name = f"{stage.stage} (host)" if stage.host and plan.machine.cuda else stage.stage
        cells = [name, *parts, f"{total / GIB:.1f}", duration(stage.seconds), Text(stage.work)]
        table.add_row(*cells, style=style)
    console.print(table)
    fetched = f"downloads {plan.download / 1e9:.1f} GB, " if plan.download else ""
    disk = f"the run folder takes up to {plan.disk / 1e9:.1f} GB"
    console.print(f"All stages: {duration(plan.seconds)}; {fetched}{disk}.")
    if plan.machine.cuda:
        console.print("A GPU's times are estimates from its data sheet: right within a factor of two, not measured.")
    console.print(Text(plan.verdict[0].upper() + plan.verdict[1:] + ".", style="green" if plan.fits else "bold red"))
