"""What the commands share: examples under their help, the arguments that name a run, the console."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


run_dir_option = click.option(
    "--run-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the run lives. [default: runs/<name>]"
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
memory_option = click.option(
    "--memory", help="The most that the KV cache may take, e.g. 2GB. [default: 1024 tokens a place]"
)
run_argument = click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))


def console() -> Any:
    from rich.console import Console

    # A log has no width of its own: tables would be cut to 80 columns.
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=140)
