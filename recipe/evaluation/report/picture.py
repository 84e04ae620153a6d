"""The judges of a run or an experiment as one picture: a dot with its 95% interval each. Pure: results in, SVG out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recipe.evaluation.report.charts import Intervals, interval_panels, standalone
from recipe.evaluation.report.tables import judge_name

# Title -> (task, figure, what chance gives: five scores in equal parts, a pick of two).
PANELS = {
    "Pearson": ("pointwise", "pearson", 0.0),
    "pointwise accuracy": ("pointwise", "accuracy", 0.2),
    "pairwise accuracy": ("pairwise", "accuracy", 0.5),
}


def results_picture(results: Mapping[str, Any]) -> str:
    """An SVG file of `results` (see pipeline.results): Pearson and both accuracies; the dashed line is chance.

    A figure that can't be told reads "not run", judges not run are left out; the seed is shown with its label forced.
    Raises SreError without matplotlib.
    """
    judges = [name for name, measured in results["models"].items() if measured and name != "seed"]
    last = [name for name in judges if re.fullmatch(r"j\d+", name)] or judges
    panels = [
        Intervals(
            title,
            {judge_name(judge): _interval(results["models"][judge].get(task, {}).get(figure)) for judge in judges},
            strong=judge_name(last[-1]),
            mark=chance,
        )
        for title, (task, figure, chance) in PANELS.items()
    ]
    return standalone(interval_panels(panels, name="results", title="The judges: values with their 95% intervals"))


def _interval(figure: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    if not figure or figure["value"] is None or figure["low"] is None:
        return None
    return figure["value"], figure["low"], figure["high"]
