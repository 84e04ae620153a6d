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
    "--memory", help="Limit of the KV cache, e.g. 2GB. [default: 1024 tokens for each parallel judgement]"
)
map_option = click.option(
    "--map",
    "columns",
    multiple=True,
    metavar="OURS=YOURS",
    callback=lambda context, parameter, pairs: _columns(pairs),
    help="Name a column that isn't recognised, e.g. --map response=text. May be repeated.",
)
rubric_option = click.option(
    "--rubric", help="Rubric of rows that bring none: a name (see sre rubrics), a .toml or .json file, or a text."
)
run_argument = click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))


def _columns(pairs: tuple[str, ...]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if not all(found) or not all(found.values()):
        raise click.BadParameter("expected OURS=YOURS, e.g. response=answer")
    return found


def console() -> Any:
    from rich.console import Console

    # A log has no width of its own: tables would be cut to 80 columns.
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=140)
