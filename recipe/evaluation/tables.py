"""Results as tables: grids of texts, shown on a terminal, in Markdown, or on the report's page."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from recipe.data.records import TASKS, Example, Judgement, Task
from recipe.errors import plural, printable
from recipe.evaluation.audit import FIGURES, degenerate
from recipe.evaluation.evaluate import FORCED
from recipe.evaluation.metrics import MIN_PARSED
from recipe.progress import duration

Grid = list[list[str]]  # a head and rows; the first column names the row

NOT_RUN = "not run"
NAMES = {"seed": "seed", FORCED: "seed, label forced", "sft": "SFT"}
_OF_SOME_ROWS = ("both_orders", "longer_is_worse", "stated")
JUDGES = "Judges on the test rows (95% bootstrap intervals; malformed counts as wrong)"
GAINS = "Differences (paired bootstrap by prompt)"
FORGERY = "Forgery shift (a response claims a verdict of its own; points of the scale, or share of picks)"


def judge_name(name: str) -> str:
    """A judge's name for readers: "SFT" for sft, "J2" for j2."""
    return NAMES.get(name, name.upper() if name[0] == "j" and name[1:].isdigit() else name)


def figure_text(figure: Mapping[str, Any] | None, *, with_n: bool = False) -> str:
    """ ".41 [.30, .52]", and the number of rows if asked for; "-" where the figure is undefined."""
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


# --- grids ---


def judges_grid(models: Mapping[str, Any]) -> Grid:
    """One row a judge: rows, malformed, Pearson and both accuracies."""
    grid = [["judge", "n", "malformed", "Pearson (parsed rows)", "pointwise accuracy", "pairwise accuracy"]]
    for name, result in models.items():
        if result is None:
            grid.append([judge_name(name), *[NOT_RUN] * 5])
            continue
        pointwise, pairwise = result["pointwise"], result["pairwise"]
        n, malformed = (pointwise[key] + pairwise[key] for key in ("n", "malformed"))
        counts = [f"{pointwise['n']} + {pairwise['n']}", f"{malformed} ({malformed / max(n, 1):.0%})"]
        cells = [figure_text(pointwise["pearson"], with_n=True)]
        cells += [figure_text(part["accuracy"]) for part in (pointwise, pairwise)]
        grid.append([judge_name(name), *counts, *cells])
    return grid


def differences_grid(gains: Mapping[str, Any]) -> Grid:
    """One row a comparison, the second judge minus the first. Figures that no comparison has are left out."""
    shown = FIGURES["differences"].items()
    columns = {head: key for head, key in shown if any(key[1] in gain[key[0]] for gain in gains.values())}
    grid = [["difference", *columns]]
    for name, gain in gains.items():
        grid.append([name, *(figure_text(gain[task].get(figure)) for task, figure in columns.values())])
    return grid


def audit_grids(part: Mapping[str, Any]) -> list[tuple[str, Grid]]:
    """(title, table) of each task: the judges, then the rules; each judge minus the best rule."""
    found = []
    for task, shown in FIGURES["audit"].items():
        rules = {name: result for name, result in part.get("baselines", {}).items() if task in result}
        judges = {name: result for name, result in part["models"].items() if rules and result and result[task]["n"]}
        if not judges:
            continue
        labels = [FIGURES["labels"][name] for name in shown]
        grid = [["judge or rule", "n", "malformed", *labels, "minus the best rule"]]
        for name, result in [*judges.items(), *rules.items()]:
            figures = result[task]
            cells = [figure_text(figures.get(key), with_n=key in _OF_SOME_ROWS) for key in shown]
            who, beaten = (name, "-") if name in rules else (judge_name(name), _against_text(part, name, task))
            grid.append([who, str(figures["n"]), str(figures["malformed"]), *cells, beaten])
        found.append((f"Shortcut audit, {task}", grid))
    return found


def _against_text(part: Mapping[str, Any], judge: str, task: Task) -> str:
    """ "-.16 [-.27, -.06] (longer response)": a judge minus the best rule; "-" where that is undefined."""
    against = part.get("against_baselines", {}).get(judge, {}).get(task, {})
    named = [against[name] for name in FIGURES["compared"][task] if name in against]
    found = next((figure for figure in named if figure["value"] is not None), None)
    return f"{figure_text(found)} ({found['baseline']})" if found else "-"


def forgery_grid(shifts: Mapping[str, Any]) -> Grid:
    """One row a judge and task: the shift in both modes; see forgery.py."""
    grid = [["judge", "rows", "shift with a rationale", "shift of the label alone"]]
    for name, found in shifts.items():
        for task in TASKS:
            modes = {mode: part[task]["shift"] for mode, part in found.items() if task in part}
            if modes:
                cells = [figure_text(modes.get(mode)) for mode in ("rationale", "label-only")]
                rows = f"{max(shift['n'] for shift in modes.values())} {'scores' if task == 'pointwise' else 'pairs'}"
                grid.append([judge_name(name), rows, *cells])
    return grid


def results_grids(results: Mapping[str, Any]) -> list[tuple[str, Grid]]:
    """(title, table): the judges, their differences, the shortcut audit and the forgery shift."""
    found = [(JUDGES, judges_grid(results["models"])), (GAINS, differences_grid(results["differences"]))]
    found += [*audit_grids(results), (FORGERY, forgery_grid(results.get("forgery", {})))]
    return [(title, grid) for title, grid in found if len(grid) > 1]


def stages_grid(stages: Mapping[str, Mapping[str, Any]]) -> Grid:
    """State, wall time, tokens and peak memory of each stage; a stage that did not begin has {}."""
    grid = [["stage", "state", "wall time", "tokens", "peak memory"]]
    done = {name: stage for name, stage in stages.items() if "wall_s" in stage}
    for name, stage in stages.items():
        if name not in done:
            grid.append([name, *["unfinished" if stage else NOT_RUN] * 4])
            continue
        state = f"from {stage['from']}" if "from" in stage else "done"
        cells = [duration(stage["wall_s"]), f"{stage['tokens'] or 0:,}", f"{stage.get('peak_rss_mb', 0):,} MiB"]
        grid.append([name, state, *cells])
    here = sum(stage["wall_s"] for stage in done.values() if "from" not in stage)
    tokens = sum(stage["tokens"] or 0 for stage in done.values())
    peak = max((stage.get("peak_rss_mb", 0) for stage in done.values()), default=0)
    return [*grid, ["all finished stages", "", duration(here), f"{tokens:,}", f"{peak:,} MiB"]]


# --- Markdown ---


def markdown_table(grid: Sequence[Sequence[str]]) -> str:
    lines = [grid[0], ["---"] * len(grid[0]), *grid[1:]]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def results_markdown(results: Mapping[str, Any], details: Sequence[tuple[str, Grid]] = ()) -> str:
    """The tables of judges, of differences and of the shortcut audit, and `details`; the first two need no title."""
    grids = [*results_grids(results), *details]
    heads = {title: "" if title in (JUDGES, GAINS) else f"{title}\n\n" for title, _ in grids}
    return "\n".join(f"{heads[title]}{markdown_table(grid)}" for title, grid in grids)


# --- the terminal ---


def show(grids: Sequence[tuple[str, Grid]], models: Mapping[str, Any], console: Console) -> None:
    """Print the tables and, in red, what is wrong with a judge."""
    for title, grid in grids:
        console.print(_table(title, grid))
    for line in undefined_lines(models):
        console.print(Text(printable(line)))
    for line in warning_lines(models):
        console.print(Text(printable(line), style="bold red"))


def undefined_lines(models: Mapping[str, Any]) -> list[str]:
    """One line for each judge without a correlation, which says what it takes."""
    figures = {judge_name(name): result["pointwise"]["pearson"] for name, result in models.items() if result}
    takes = f"it takes {MIN_PARSED} rows with a score and a verdict, and neither may be the same in all of them"
    none = {name: figure["n"] for name, figure in figures.items() if figure["n"] and figure["value"] is None}
    return [f"{name} has no correlation (-) over {plural(n, 'row')}: {takes}." for name, n in none.items()]


def warning_lines(models: Mapping[str, Any]) -> list[str]:
    """One line for each judge whose figures show that it hardly judges, see `audit.degenerate`."""
    found = {judge_name(name): degenerate(result) for name, result in models.items() if result}
    return [f"{name} {' and '.join(faults)}." for name, faults in found.items() if faults]


def _table(title: str, grid: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for place, column in enumerate(grid[0]):
        table.add_column(column, justify="right" if place else "left")
    for row in grid[1:]:
        table.add_row(*row)
    return table


def stages_table(stages: Mapping[str, Any]) -> Table:
    return _table("Stages", stages_grid(stages))


def benchmark_table(result: Mapping[str, Any]) -> Table:
    """The headline figures of one benchmark run, as written and with forced labels."""
    parts = {"as written": result["figures"]["headline"]}
    if "constrained" in result:
        parts["label forced"] = result["constrained"]["headline"]
    rows = [[name, *(figure_text(part[name], with_n=True) for part in parts.values())] for name in parts["as written"]]
    return _table(f"{result['benchmark']}: {result['model']}", [["figure", *parts], *rows])


def round_text(found: Mapping[str, Any]) -> str:
    """One line about a round: whether it is kept, and what the dev rows say."""
    head = f"Round {found['round']} is {'kept' if found['kept'] else 'not kept'}: "
    if "problem" in found:
        return printable(head + str(found["problem"]))
    sides = (("before", "before"), ("judge", "after"))
    before, after = (f"{judge_name(found[name])} {_short(found['figures'][side])}" for name, side in sides)
    gain = figure_text(found["gain"], with_n=True)
    return printable(f"{head}{after}, {before} on {found['rows']} dev rows; difference {gain}")


def flips_text(found: Mapping[str, Any]) -> str:
    """One line about how often each type of the judge gives another label than its 16-bit file."""
    rates = ", ".join(f"{name} {rate:.1%}" for name, rate in found["rates"].items())
    return f"Labels that differ from the 16-bit file's, of {found['rows']} rows: {rates}"


def bootstrap_text(task: str, found: Mapping[str, Any]) -> str:
    """One line about the rationales that a model wrote for a task's rows."""
    kept, told = found["unhinted"] + found["hinted"], f"{found['hinted']} of them told the label"
    dropped = ", ".join(f"{fault} {count}" for fault, count in found["dropped"].items()) or "none"
    return f"Bootstrapped rationales, {task}: {kept} of {found['rows']} rows kept one ({told}); dropped: {dropped}"


def judged_example(example: Example, judgement: Judgement) -> Panel:
    """Criteria, conversation, response(s), the rationale, the label, and the label distribution as bars."""
    truth = "" if example.label is None else f" (truth: {example.label})"
    lines = [example.rubric.criteria, "", *(f"{turn.role}: {turn.content}" for turn in example.conversation)]
    lines += [f"response {number}: {response}" for number, response in enumerate(example.responses, 1)]
    lines += ["", judgement.rationale or "(no rationale)", f"[RESULT] {judgement.label}{truth}"]
    lines += [f"{k} {'█' * round(30 * share)} {share:.0%}" for k, share in judgement.label_probabilities.items()]
    title = Text(printable(f"One judgement by {judgement.origin}"))
    return Panel(Text(printable("\n".join(lines))), title=title, width=100)
