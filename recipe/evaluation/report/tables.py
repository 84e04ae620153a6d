"""Results for a terminal: the table of judges, the differences, one judged example in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from recipe.data.records import Example, Judgement, Task
from recipe.evaluation.evaluate import FORCED

NOT_RUN = "not run"
BENCHMARK_PARTS = {"as written": "figures", "label forced": "constrained"}
NAMES = {"seed": "seed", FORCED: "seed, label forced", "sft": "SFT"}


def judge_name(name: str) -> str:
    """A judge's name for readers: "SFT" for sft, "J2" for j2."""
    return NAMES.get(name, name.upper() if name[0] == "j" else name)


GAINS = {
    "Pearson, both parsed": ("pointwise", "pearson"),
    "pointwise accuracy, both parsed": ("pointwise", "accuracy"),
    "pairwise accuracy, both parsed": ("pairwise", "accuracy"),
    "pointwise accuracy, all rows": ("pointwise", "accuracy_all"),
    "pairwise accuracy, all rows": ("pairwise", "accuracy_all"),
}
"""Columns of a table of differences -> (task, figure): on the rows that both judges parsed, or malformed as wrong."""


def figure_text(figure: Mapping[str, Any] | None, *, with_n: bool = False) -> str:
    """ ".41 [.30, .52]"; "-" where it can't be told; with the number of rows it is over if asked for."""
    if not figure:
        return "-"
    n = f" n={figure['n']}" if with_n else ""
    if figure["value"] is None:
        return f"-{n}"
    low, high = figure["low"], figure["high"]
    interval = "" if low is None else f" [{_short(low)}, {_short(high)}]"
    return f"{_short(figure['value'])}{interval}{n}"


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def results_table(models: Mapping[str, Any]) -> Table:
    """One row a judge: rows, malformed, Pearson, pointwise and pairwise accuracy, each with its 95% interval."""
    return _table("Judges on the test rows (95% bootstrap intervals; malformed counts as wrong)", _results(models))


def differences_table(gains: Mapping[str, Any]) -> Table:
    """One row a comparison: second judge minus the first, see GAINS."""
    return _table("Differences (paired bootstrap by prompt)", _differences(gains))


def results_markdown(results: Mapping[str, Any]) -> str:
    """The tables of judges and of differences in Markdown."""
    grids = [_results(results["models"]), _differences(results["differences"])]
    return "\n".join([*(markdown_table(grid) for grid in grids if len(grid) > 1), audit_markdown(results)])


def _results(models: Mapping[str, Any]) -> list[list[str]]:
    grid = [["judge", "n", "malformed", "Pearson (parsed rows)", "pointwise accuracy", "pairwise accuracy"]]
    for name, result in models.items():
        if result is None:
            grid.append([judge_name(name), *[NOT_RUN] * (len(grid[0]) - 1)])
            continue
        pointwise, pairwise = result["pointwise"], result["pairwise"]
        n, malformed = pointwise["n"] + pairwise["n"], pointwise["malformed"] + pairwise["malformed"]
        figures = (figure_text(pointwise["accuracy"]), figure_text(pairwise["accuracy"]))
        counts = (f"{pointwise['n']} + {pairwise['n']}", f"{malformed} ({malformed / max(n, 1):.0%})")
        grid.append([judge_name(name), *counts, figure_text(pointwise["pearson"], with_n=True), *figures])
    return grid


def _differences(gains: Mapping[str, Any]) -> list[list[str]]:
    return [["difference", *GAINS], *([name, *gain_texts(gain)] for name, gain in gains.items())]


AUDIT: dict[Task, dict[str, str]] = {
    "pointwise": {
        "Pearson": "pearson",
        "Pearson within criteria": "pearson_within",
        "expected score, within criteria": "expected_within",
        "accuracy": "accuracy",
        "share of the commonest label": "top_label",
    },
    "pairwise": {
        "accuracy": "accuracy",
        "accuracy, orders averaged": "both_orders",
        "accuracy where the longer response is worse": "longer_is_worse",
        "first position picked": "first",
        "rationale prefers the labelled winner": "stated",
    },
}
"""Columns of the shortcut audit -> figures of audit.py."""
AGAINST: dict[Task, str] = {"pointwise": "pearson_within", "pairwise": "both_orders"}


def audit_grids(part: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """(title, table) of each task: the judges, then the rules; each judge minus the best rule."""
    found = []
    for task, columns in AUDIT.items():
        rules = {name: result for name, result in part.get("baselines", {}).items() if task in result}
        judges = {name: result for name, result in part["models"].items() if result and result[task]["n"]}
        if not judges or not rules:
            continue
        grid = [["judge or rule", "n", "malformed", *columns, "minus the best rule"]]
        for name, result in [*judges.items(), *rules.items()]:
            figures = result[task]
            cells = [figure_text(figures.get(key), with_n=key in NARROWER) for key in columns.values()]
            against = part["against_baselines"].get(name, {}).get(task, {})
            difference = against.get(AGAINST[task]) or against.get("accuracy")
            beaten = f"{figure_text(difference)} ({difference['baseline']})" if difference else "-"
            shown = name if name in rules else judge_name(name)
            grid.append([shown, str(figures["n"]), str(figures["malformed"]), *cells, beaten])
        found.append((f"Shortcut audit, {task}", grid))
    return found


NARROWER = ("both_orders", "longer_is_worse", "stated")
"""Figures over some of the rows only: their cells give the number."""


def audit_markdown(part: Mapping[str, Any]) -> str:
    return "\n".join(f"{title}\n\n{markdown_table(grid)}" for title, grid in audit_grids(part))


def show_audit(part: Mapping[str, Any], console: Console, title: str = "") -> None:
    """Print the tables of the shortcut audit."""
    for name, grid in audit_grids(part):
        console.print(_table(f"{title}: {name}" if title else name, grid))


def experiment_markdown(results: Mapping[str, Any]) -> str:
    """results.md of an experiment: the tables of judges and differences, those of `_details`, what the rows are."""
    parts = [results_markdown(results), *(f"{title}\n\n{markdown_table(grid)}" for title, grid in _details(results))]
    about = [f"- {name}: {description}\n" for name, description in results["rows"].items()]
    about += [f"- Not run, {name}: {why}\n" for name, why in results["problems"].items()]
    return "\n".join([*parts, "".join(about)])


def show_experiment(results: Mapping[str, Any], console: Console) -> None:
    """Print the tables of `experiment_markdown`; of the rows not run the names alone."""
    ran = _ran(results)
    show_results({**results, "models": ran}, console)
    for title, grid in _details(results):
        console.print(_table(title, grid))
    console.print(f"Not run: {', '.join(name for name in results['models'] if name not in ran) or 'none'}.")
    for name, why in results["problems"].items():
        console.print(f"{name}: {why}")


def _ran(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result for name, result in part["models"].items() if result is not None}


def _details(results: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """(title, table): what the expected score gives; each aspect and each random seed, where there are several."""
    grid = [["judge", "Pearson of the label", "of the expected score", "difference"]]
    for name, gain in results["expected_score"].items():
        cells = [figure_text(gain[key]) for key in ("label", "expected")]
        grid.append([judge_name(name), *cells, figure_text(gain["difference"], with_n=True)])
    found = [("Expected score against label (pointwise rows that have both)", grid)]
    for aspect, part in results["aspects"].items():
        found.append((f"Test rows of {aspect or 'no aspect'}", _against_sft(part)))
        found += [(f"{title}, test rows of {aspect or 'no aspect'}", grid) for title, grid in audit_grids(part)]
    if len(results["seeds"]) > 1:
        per_seed = {
            f"{judge_name(name)}, seed {seed}": part["models"][name]
            for name in _ran(results)
            for seed, part in results["per_seed"].items()
            if part["models"][name] is not None
        }
        found.append(("Each random seed", _results(per_seed)))
    return found


def _against_sft(part: Mapping[str, Any]) -> list[list[str]]:
    """One row a judge that was run: each task's measures, their differences from SFT, what the expected score gives."""
    ran, gains = _ran(part), part["differences"]
    tasks = [task for task in ("pointwise", "pairwise") if any(result[task]["n"] for result in ran.values())]
    columns = {
        "pointwise": ("Pearson", "- SFT", "of the expected score", "- of the label", "pointwise accuracy", "- SFT"),
        "pairwise": ("pairwise accuracy", "- SFT"),
    }
    grid = [["judge", "n", "malformed", *(title for task in tasks for title in columns[task])]]
    for name, result in ran.items():
        gain, finer = gains.get(f"{name} - sft", {}), part["expected_score"][name]
        cells: dict[str, tuple[Any, ...]] = {}
        for task in tasks:
            other = gain.get(task, {})
            cells[task] = (result[task]["accuracy"], other.get("accuracy_all"))
            if task == "pointwise":
                first = (result[task]["pearson"], other.get("pearson"))
                cells[task] = (*first, finer["expected"], finer["difference"], *cells[task])
        n, malformed = (sum(result[task][key] for task in tasks) for key in ("n", "malformed"))
        counts = [judge_name(name), str(n), f"{malformed} ({malformed / max(n, 1):.0%})"]
        grid.append([*counts, *(figure_text(cell) for task in tasks for cell in cells[task])])
    return grid


def _table(title: str, grid: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for place, column in enumerate(grid[0]):
        table.add_column(column, justify="right" if place else "left")
    for row in grid[1:]:
        table.add_row(*row)
    return table


def markdown_table(grid: Sequence[Sequence[str]]) -> str:
    """A head and rows of texts as a Markdown table."""
    lines = [grid[0], ["---"] * len(grid[0]), *grid[1:]]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def gain_texts(gain: Mapping[str, Any]) -> list[str]:
    """One cell for each of GAINS."""
    return [figure_text(gain[task][figure]) for task, figure in GAINS.values()]


def benchmark_table(result: Mapping[str, Any]) -> Table:
    """The headline figures of one benchmark run (suites/running.py), as written and with forced labels."""
    table = Table(title=f"{result['benchmark']}: {result['model']}")
    parts = {name: result[key]["headline"] for name, key in BENCHMARK_PARTS.items() if key in result}
    if len(parts) == 1:
        parts = {"value": parts["as written"]}
    table.add_column("figure")
    for name in parts:
        table.add_column(name, justify="right")
    for figure in next(iter(parts.values())):
        table.add_row(figure, *(figure_text(part[figure], with_n=True) for part in parts.values()))
    return table


def stages_table(stages: Mapping[str, Any]) -> Table:
    """Wall time (s), tokens and peak memory (MiB) of each stage."""
    table = Table(title="Stages")
    for column in ("stage", "state", "wall time", "tokens", "peak memory"):
        table.add_column(column, justify="right" if column in ("wall time", "tokens", "peak memory") else "left")
    for name, stage in stages.items():
        if "wall_s" not in stage:
            table.add_row(name, "unfinished", "", "", "")
            continue
        state = f"from {stage['from']}" if "from" in stage else "done"
        memory = f"{stage['peak_rss_mb']:,} MiB" if "peak_rss_mb" in stage else ""
        table.add_row(name, state, f"{stage['wall_s']:.1f} s", f"{stage['tokens']:,}", memory)
    total = sum(stage.get("wall_s", 0) for stage in stages.values() if "from" not in stage)
    table.add_row("all", "", f"{total:.1f} s", "", "", style="bold")
    return table


def judged_example(example: Example, judgement: Judgement) -> Panel:
    """Criteria, conversation, response(s), the rationale, the label, and the label distribution as bars."""
    parts: list[Any] = [Text(example.rubric.criteria, style="bold"), Text()]
    parts += [Text(f"{turn.role}: {turn.content}", style="cyan") for turn in example.conversation]
    for number, response in enumerate(example.responses, 1):
        name = "response" if len(example.responses) == 1 else f"response {number}"
        parts.append(Text(f"{name}: {response}", style="magenta"))
    parts += [Text(), Text(judgement.rationale or "(no rationale)", style="italic")]
    right = "" if example.label is None else f" (truth: {example.label})"
    colour = "green" if judgement.label == example.label else "red"
    parts.append(Text(f"[RESULT] {judgement.label}{right}", style=f"bold {colour}"))
    for label, share in judgement.label_probabilities.items():
        parts.append(Text(f"{label} {'█' * round(30 * share)} {share:.0%}", style="dim"))
    return Panel(Group(*parts), title=f"One judgement by {judgement.origin}", width=100)


def show_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the judges' table and the differences."""
    console = console or Console()
    console.print(results_table(results["models"]))
    if results["differences"]:
        console.print(differences_table(results["differences"]))
    show_audit(results, console)


def show_rationale_votes(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print how the second judge's rationales fared: by all, by each rater; agreement, reasons, what wasn't judged."""
    console = console or Console()
    first, second = map(judge_name, summary["judges"])
    table = Table(title=f"{second}'s rationales against {first}'s, same labels (a tie counts one half)")
    table.add_column("by")
    for column in ("better", "both good", "both bad", "orders disagree", "worse", "win rate"):
        table.add_column(column, justify="right")
    raters = summary.get("raters", {})
    rows = {f"rater {name}": found for name, found in raters.items()} if len(raters) > 1 else {}
    for name, found in {"all" if raters else summary["meta_judge"]: summary, **rows}.items():
        counts = [str(found["outcomes"].get(k, 0)) for k in ("win", "both good", "both bad", "disagreed", "loss")]
        table.add_row(name, *counts, figure_text(found["win_rate"], with_n=True))
    console.print(table)
    if raters:
        alpha = summary["agreement"]
        told = "can't be told (it takes two raters on one item)" if alpha is None else f"{alpha:.2f}"
        console.print(f"Agreement between raters, Krippendorff's alpha: {told}. Skipped: {summary['skipped']}.")
        for judge, reasons in summary["reasons"].items():
            given = ", ".join(f"{reason} {n}" for reason, n in reasons.items()) or "nothing"
            console.print(f"Found wrong with {judge_name(judge)}: {given}.")
    elif summary["not_judged"]:
        console.print(f"Not judged: {len(summary['not_judged'])} items (why is in the summary file).")
