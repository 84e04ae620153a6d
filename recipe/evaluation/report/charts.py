"""Training curves as inline SVG, in the page's colours. Pure: numbers in, text out."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from recipe.errors import SreError, install

Curve = Sequence[tuple[float, float]]

# Matplotlib wants real colours: each stands for a variable of the page's style.
_VARIABLES = {"#010101": "--ink", "#020202": "--muted", "#040404": "--first", "#050505": "--second"}
_INK, _MUTED, _FIRST, _SECOND = _VARIABLES
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _MUTED,
    "text.parse_math": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}


class Panel(NamedTuple):
    """A stage's curves, one for each random seed, as lines; those of the dev rows as dots. None: "not run"."""

    title: str
    lines: Sequence[Curve]
    dots: Sequence[Curve] = ()


def training_chart(panels: Sequence[Panel], *, name: str, title: str, y: str) -> str:
    """Panels side by side, each on its own scale, over the optimiser steps.

    Args:
        panels: One for each stage.
        name: Unique on the page: ids within the figure begin with it.
        title: Read to those who can't see the figure.
        y: What is drawn.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        message = f"the report's figures need matplotlib: {install('eval')}"
        raise SreError(message) from None
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(2.2 * max(len(panels), 4), 1.9), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 4), squeeze=False)[0]
        for ax in axes[len(panels) :]:
            ax.remove()  # a chart of few panels has panels of the same size
        for ax, panel in zip(axes, panels, strict=False):
            ax.set(title=panel.title, xlabel="step", ylabel=y if ax is axes[0] else "")
            for curve in panel.lines:
                ax.plot(*zip(*curve, strict=True), color=_FIRST, linewidth=1)
            for curve in panel.dots:
                ax.plot(*zip(*curve, strict=True), color=_SECOND, linewidth=0, marker="o", markersize=3)
            if not panel.lines:
                ax.set(xticks=(), yticks=())
                ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """The <svg> element alone, for a page that holds several: ids and references made unique, colours variable."""
    svg = svg[svg.index("<svg") :]
    # Its <style> would reach the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
