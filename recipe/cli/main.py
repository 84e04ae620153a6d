"""The command `sre`: the group of commands and its error handling. The commands lie beside it, by their purpose."""

import contextlib
import io
import os
import sys
from typing import Any

import click

from recipe import __version__
from recipe.cli import evaluation, judging, machine, training
from recipe.errors import SreError, first_line, install, printable
from recipe.system import process

SECTIONS = {"Train": training, "Judge": judging, "Measure": evaluation, "Machine": machine}


class _Group(click.Group):
    """A user's error is one line on standard error and exit code 2. Of several processes the main one answers."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - max(map(len, self.commands)) - 6
        for title, module in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(width)) for c in module.COMMANDS])

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that isn't UTF-8 ends no command
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if process()[0] else sys.stdout):
                return super().invoke(ctx)
        except SreError as error:
            said = str(error)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("recipe"):
                raise
            said = f"the package {error.name} is missing: {install('quickstart')}"
        except OSError as error:  # e.g. a folder that may not be looked into, or standard output on a full disk
            if isinstance(error, BrokenPipeError):
                raise  # whoever read it has enough
            said = printable(first_line(error) if error.filename is None else f"{error.filename}: {error.strerror}")
        click.echo(f"error: {said}", err=True)
        ctx.exit(2)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="sre")
def main() -> None:
    """Train your own LLM judge, take it home as one GGUF file, judge on CPU.

    \b
    Start here:
      sre quickstart                       train and measure a small judge on this machine
      sre init my-judge rows.csv           a project of your own labelled rows
      sre run 24gb-llama3.1-8b             an 8B judge overnight on a 24 GB GPU
      sre judge rows.jsonl -o out.jsonl --model judge.gguf
      sre doctor                           what this machine has, and what is missing
    """


for _module in SECTIONS.values():
    for _command in _module.COMMANDS:
        main.add_command(_command)
