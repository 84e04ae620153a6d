"""The report's figures as inline SVG. Pure: numbers in, text out.

Colours are written as CSS variables, so that a page shows them in its own light and dark; text stays text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from recipe.errors import SreError, install
from recipe.evaluation.report.tables import judge_name

# Matplotlib wants real colours: each stands for a variable of the page's style.
_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--first",
    "#050505": "--second",
}
_INK, _MUTED, _LINE, _FIRST, _SECOND = _VARIABLES
_COLUMNS = 5
_NOISY = 40  # points of a line from which its running mean tells more
# Inches: a panel, the space before the first, from one to the next, from row to row, and above a panel.
_WIDTH, _HEIGHT, _LEFT, _STEP, _ROW, _ABOVE = 1.38, 1.0, 0.5, 1.76, 1.7, 0.24
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Bars:
    """One panel of bars: x label -> height; None is "not run". `outline` is drawn as marks over the bars, `strong`
    names the bar in the second colour."""

    title: str
    heights: Mapping[str, float] | None
    outline: Mapping[str, float] = field(default_factory=dict)
    strong: str = ""


@dataclass(frozen=True)
class Line:
    """One line: points (x, y). `second` is drawn in the second colour, `dots` without a line."""

    points: Sequence[tuple[float, float]]
    second: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Lines:
    """One panel of lines; none is "not run"."""

    title: str
    lines: Sequence[Line]
    note: str = ""


# Title -> (task, figure, what chance gives: five scores in equal parts, a pick of two).
PICTURE = {
    "Pearson": ("pointwise", "pearson", 0.0),
    "pointwise accuracy": ("pointwise", "accuracy", 0.2),
    "pairwise accuracy": ("pairwise", "accuracy", 0.5),
}


def bar_panels(panels: Sequence[Bars], *, name: str, title: str, x: str, y: str) -> str:
    """Panels of bars side by side, on one y scale. name: unique on the page. title: for who can't see it.

    A strong bar that is higher than all others is cut off and carries its value, so that the others can be read.
    """
    others = [
        height
        for panel in panels
        for label, height in (*(panel.heights or {}).items(), *panel.outline.items())
        if label != panel.strong
    ]
    top = 1.12 * max(others, default=0) or 1.0
    with _figure(len(panels), name, title) as (axes, out):
        for index, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _frame(ax, panel.title, x, y if index % _COLUMNS == 0 else "")
            ax.tick_params(labelleft=index % _COLUMNS == 0)
            if panel.heights is None:
                _not_run(ax)
            else:
                _bars(ax, panel, panel.heights, top)
    return out[0]


def _bars(ax: Any, panel: Bars, heights: Mapping[str, float], top: float) -> None:
    names = list(heights)
    colours = [_SECOND if label == panel.strong else _FIRST for label in names]
    ax.bar(range(len(names)), list(heights.values()), width=0.8, color=colours)
    for place, label in enumerate(names):
        if label in panel.outline:
            ax.hlines(panel.outline[label], place - 0.45, place + 0.45, color=_INK, linewidth=1.4)
    # Ten names don't fit: every other one, and the last.
    shown = [k for k in range(len(names)) if len(names) <= 7 or k % 2 == 0 or k == len(names) - 1]
    ax.set_xticks(shown, [names[k] for k in shown])
    ax.set_ylim(0, top)
    if heights.get(panel.strong, 0) > top:
        ax.text(names.index(panel.strong), top, f"{heights[panel.strong]:.0%}", ha="center", va="bottom")


def line_panels(
    panels: Sequence[Lines],
    *,
    name: str,
    title: str,
    x: str,
    y: str,
    square: bool = False,
) -> str:
    """Panels of lines side by side, each on its own scale; square: both axes 0 to 1, with the diagonal.

    A long line is drawn pale, its running mean over it.
    """
    with _figure(len(panels), name, title) as (axes, out):
        for index, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _frame(ax, panel.title, x, y if index % _COLUMNS == 0 else "")
            if not panel.lines:
                _not_run(ax, panel.note or "not run")
                continue
            if square:
                ax.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.7, linestyle=(0, (3, 3)))
                ax.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
                ax.tick_params(labelleft=index % _COLUMNS == 0)
            for line in panel.lines:
                colour = _SECOND if line.second else _FIRST
                style: dict[str, Any] = {"marker": "o", "markersize": 3} if line.dots or square else {}
                if not style and len(line.points) >= _NOISY:
                    ax.plot(*zip(*_smooth(line.points), strict=True), color=colour, linewidth=1.1)
                    style = {"alpha": 0.25}
                ax.plot(*zip(*line.points, strict=True), color=colour, linewidth=0 if line.dots else 1.1, **style)
            if panel.note:
                ax.text(0.04, 0.96, panel.note, transform=ax.transAxes, va="top", color=_MUTED)
    return out[0]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The running mean of y over a tenth of the points, fewer at the ends."""
    half = len(points) // 20
    windows = (points[max(0, k - half) : k + half + 1] for k in range(len(points)))
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def results_picture(results: Mapping[str, Any]) -> str:
    """An SVG file of results.json: Pearson and both accuracies of each judge with their intervals; dashed is chance.

    Judges that were not run are left out, and the seed is shown with its label forced. A figure without an interval
    reads "not run". The picture is light or dark as the reader's screen is.
    """
    judges = [name for name, measured in results["models"].items() if measured and name != "seed"]
    last = [name for name in judges if re.fullmatch(r"j\d+", name)] or judges
    title = "The judges: values with their 95% intervals"
    with _figure(len(PICTURE), "results", title, most=len(PICTURE), left=0.85) as (axes, out):
        for ax, (name, (task, figure, chance)) in zip(axes, PICTURE.items(), strict=True):
            _frame(ax, name, "", "")
            ax.grid(axis="y", visible=False)
            ax.grid(axis="x", color=_LINE, linewidth=0.6)
            ax.axvline(chance, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            for place, judge in enumerate(judges):
                found = results["models"][judge].get(task, {}).get(figure)
                if not found or found["value"] is None or found["low"] is None:
                    ax.text(0.03, place, "not run", transform=ax.get_yaxis_transform(), va="center", color=_MUTED)
                    continue
                colour = _SECOND if judge == last[-1] else _FIRST
                ax.hlines(place, found["low"], found["high"], color=colour, linewidth=1.6)
                ax.plot([found["value"]], [place], marker="o", markersize=4, color=colour)
            ax.set(yticks=range(len(judges)), ylim=(len(judges) - 0.5, -0.5))
            ax.set_yticklabels([judge_name(judge) for judge in judges])
            ax.tick_params(labelleft=name == next(iter(PICTURE)), left=False)
    light = "--ink:#1e2126;--muted:#5c616b;--line:#d8d4ca;--first:#5d87a3;--second:#b4532a"
    dark = "--ink:#e9e6df;--muted:#a3a8b2;--line:#3a3f49;--first:#86bfe6;--second:#f0967c"
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    start = out[0].index(">") + 1
    return out[0][:start] + style + out[0][start:] + "\n"


@contextmanager
def _figure(
    panels: int, name: str, title: str, most: int = _COLUMNS, left: float = _LEFT
) -> Iterator[tuple[list[Any], list[str]]]:
    """Yield (one axes per panel, a list that holds the SVG afterwards)."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        message = f"the report's figures need matplotlib: {install('eval')}"
        raise SreError(message) from None
    columns = min(panels, most)
    rows = math.ceil(panels / columns)
    out: list[str] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        # A fixed grid, so that the panels of all figures stand in the same columns.
        wide, high = left + _STEP * most, _ROW * rows
        figure = Figure(figsize=(wide, high))
        grid = figure.add_gridspec(
            rows,
            most,
            left=left / wide,
            right=1 - (_STEP - _WIDTH) / wide,
            top=1 - _ABOVE / high,
            bottom=(_ROW - _ABOVE - _HEIGHT) / high,
            wspace=_STEP / _WIDTH - 1,
            hspace=_ROW / _HEIGHT - 1,
        )
        yield [figure.add_subplot(grid[k // columns, k % columns]) for k in range(panels)], out
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    out.append(_inline(buffer.getvalue(), name, title))


def _frame(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(axis="y", color=_LINE, linewidth=0.6)
    ax.set_axisbelow(True)


def _not_run(ax: Any, text: str = "not run") -> None:
    ax.set(xticks=(), yticks=())
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=_MUTED)


def _inline(svg: str, name: str, title: str) -> str:
    """The <svg> element alone, for a page that holds several: ids and references made unique, colours variable."""
    svg = svg[svg.index("<svg") :]
    # Its <style> would reach the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
