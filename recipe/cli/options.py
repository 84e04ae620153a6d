"""What the commands share: kinds of values, options, errors, examples under their help, the console."""

import contextlib
import io
import math
import os
import shlex
import sys
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from recipe.errors import SreError, first_line, install, printable
from recipe.system import process, read_table


class Finite(click.FloatRange):
    """A number of a range. NaN, which is below and above nothing, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
tell = partial(click.echo, err=True)  # what is no result
EXISTING_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
POSITIVE = click.IntRange(min=1)
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Command(click.Command):
    """A command whose help ends in its examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = read_table(__file__, "examples.toml")
        self.epilog = examples(*found[str(self.name)].splitlines())
        super().format_epilog(ctx, formatter)


class OneLineErrors(click.Command):
    """A user's error is one line on standard error and exit code 2. Of several processes the main one answers."""

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


def command_again(*more: str, without: Container[str] = ()) -> str:
    """The command that was typed, as a shell takes it, with `more` at its end."""
    return shlex.join(["sre", *(word for word in sys.argv[1:] if word not in without), *more])


def program(*lines: str) -> Callable[[Callable[..., Any]], click.Command]:
    """What `python -m …` runs in a checkout: a command with one-line errors, and `lines` as examples under its help."""
    return click.command(cls=OneLineErrors, context_settings=SETTINGS, epilog=examples(*lines))


def command(function: Callable[..., Any]) -> click.Command:
    return click.command(cls=Command)(function)


run = click.argument("run", type=EXISTING_FOLDER)
run_dir = click.option("--run-dir", type=FOLDER, help="Where the run lives. [default: runs/<name>]")
overrides = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
threads = click.option("--threads", type=POSITIVE, help="CPU threads. [default: all cores]")
memory = click.option("--memory", help="Limit of the KV cache, e.g. 2GB. [default: 1024 tokens a parallel judgement]")
context = click.option("--context", type=click.IntRange(min=64), default=4096, help="Tokens of a prompt and answer.")
parallel = click.option("--parallel", type=POSITIVE, default=16, help="Judgements written at once.")
gpu_layers = click.option(
    "--gpu-layers",
    type=click.IntRange(min=-1),
    help="How many layers of the model go to the GPU, -1 for all. [default: all where llama.cpp has one]",
)
columns = click.option(
    "--map",
    "columns",
    multiple=True,
    metavar="OURS=YOURS",
    callback=lambda context, parameter, pairs: _columns(pairs),
    help="Name a column that isn't recognised, e.g. --map response=text. May be repeated.",
)
rubric = click.option(
    "--rubric", help="Rubric of rows that bring none: a name (see sre rubrics), a .toml or .json file, or a text."
)
skip_bad_rows = click.option(
    "--skip-bad-rows", is_flag=True, help="Set bad rows aside, in a file that is named, instead of ending at the first."
)

_JUDGING = (
    click.option("--label-only", is_flag=True, help="Read the label without a rationale: faster, less accurate."),
    click.option("--constrain/--no-constrain", default=True, help="Force a label where the model writes none."),
    click.option("--max-tokens", type=click.IntRange(min=8), default=512, help="The most tokens of an answer."),
    context,
    parallel,
    threads,
    gpu_layers,
    columns,
    rubric,
)


def judging(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that judges a file's rows."""
    for option in reversed(_JUDGING):
        command = option(command)
    return command


def _columns(pairs: tuple[str, ...]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if not all(found) or not all(found.values()):
        raise click.BadParameter("expected OURS=YOURS, e.g. response=answer")
    return found


def refuse(names: Container[str], why: str) -> None:
    """Raises UsageError where the user gave one of these options to the command that runs."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is not ParameterSource.DEFAULT
        if given and option.name in names:
            raise click.UsageError(f"{max(option.opts, key=len)} {why}")


def console() -> Any:
    """Where tables are printed. A text in them, which may come from data, is shown as it is and moves no terminal."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    # A log has no width of its own: tables would be cut to 80 columns.
    terminal = Plain()
    return terminal if terminal.is_terminal else Plain(width=140)
