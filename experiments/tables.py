"""What an experiment shows: the tables of its rows, for all test rows and for each aspect, and what was not run."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from recipe.evaluation.tables import Grid, results_grids, results_markdown, show


def experiment_markdown(results: Mapping[str, Any]) -> str:
    """results.md of an experiment: `results_markdown` with the details, and what the rows are."""
    about = [f"- {name}: {description}\n" for name, description in results["rows"].items()]
    about += [f"- Not run, {name}: {why}\n" for name, why in results["problems"].items()]
    return "\n".join([results_markdown(results, details_grids(results)), "".join(about)])


def show_experiment(results: Mapping[str, Any], console: Console) -> None:
    """Print the tables of `experiment_markdown`; of the rows not run the names alone."""
    ran = _ran(results)
    show([*results_grids({**results, "models": ran}), *details_grids(results)], ran, console)
    console.print(f"Not run: {', '.join(name for name in results['models'] if name not in ran) or 'none'}.")
    for name, why in results["problems"].items():
        console.print(f"{name}: {why}")


def details_grids(results: Mapping[str, Any]) -> list[tuple[str, Grid]]:
    """(title, table) of each aspect of an experiment's rows, where there are several."""
    found: list[tuple[str, Grid]] = []
    for aspect, part in results["aspects"].items():
        rows = f"test rows of {aspect or 'no aspect'}"
        found += [(f"{title}, {rows}", table) for title, table in results_grids({**part, "models": _ran(part)})]
    return found


def _ran(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result for name, result in part["models"].items() if result is not None}
