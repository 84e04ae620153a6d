"""`python -m experiments.gate FIGURES`: whether a pairwise judge has learnt to prefer, before any DPO starts.

FIGURES is the figures.json that `sre evaluate` writes for pairs judged in both orders. The exit code is 0 where all
conditions hold and 1 where one fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from recipe.cli import options as opt
from recipe.errors import SreError
from recipe.evaluation.tables import figure_text, markdown_table
from recipe.storage import read_json

STATED, MALFORMED, FIRST, CHANCE = 0.9, 0.03, (0.4, 0.6), 0.5
"""Least agreement of words and label, greatest share of malformed judgements, range of first picks, least accuracy."""


class Condition(NamedTuple):
    """One condition of the gate. A figure that could not be measured fails it."""

    name: str
    asked: str
    figure: str
    holds: bool


def conditions(details: Mapping[str, Any]) -> list[Condition]:
    """The gate's four conditions.

    Args:
        details: figures of pairs judged in both orders, as `pairwise_figures` returns them.
    """
    stated, first, accuracy = details["stated"], details["first"], details["accuracy"]
    malformed = details["malformed_rate"]
    return [
        Condition(
            "words agree with the label", f"at least {STATED}", figure_text(stated), (stated["value"] or 0) >= STATED
        ),
        Condition(
            "malformed",
            f"at most {MALFORMED:.0%}",
            f"{details['malformed']} of {details['n']}",
            malformed is not None and malformed <= MALFORMED,
        ),
        Condition(
            "response 1 is picked",
            f"{FIRST[0]} to {FIRST[1]}",
            figure_text(first),
            first["value"] is not None and FIRST[0] <= first["value"] <= FIRST[1],
        ),
        Condition("accuracy, lower end", f"above {CHANCE}", figure_text(accuracy), (accuracy["low"] or 0) > CHANCE),
    ]


@opt.program(
    "sre evaluate pairs.jsonl --model judge.gguf -o pairs",
    "python -m experiments.gate pairs/figures.json    exit code 1 where a condition fails",
)
@click.argument("figures", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def gate(figures: Path) -> None:
    """Say whether a pairwise judge passes gate 1, by the FIGURES of `sre evaluate`."""
    found = read_json(figures)
    details = found.get("figures", {}).get("details", {}) if isinstance(found, dict) else {}
    if "stated" not in details or "first" not in details:
        raise SreError("holds no figures of pairs; `sre evaluate PAIRS -o FOLDER` writes them", file=figures)
    checked = conditions(details)
    rows = [(each.name, each.asked, each.figure, "yes" if each.holds else "no") for each in checked]
    click.echo(markdown_table([("condition", "asked", "found", "holds"), *rows]))
    click.get_current_context().exit(0 if all(each.holds for each in checked) else 1)


if __name__ == "__main__":
    gate()
