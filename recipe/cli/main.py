"""The command `sre`: the group of commands. The commands lie beside it, by their purpose."""

import click

from recipe import __version__
from recipe.cli import evaluation, judging, machine, training
from recipe.cli import options as opt

SECTIONS = {"Train": training, "Judge": judging, "Measure": evaluation, "Machine": machine}


class _Group(opt.OneLineErrors, click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - max(map(len, self.commands)) - 6
        for title, module in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(width)) for c in module.COMMANDS])


@click.group(cls=_Group, context_settings=opt.SETTINGS)
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
