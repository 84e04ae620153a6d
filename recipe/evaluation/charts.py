"""What the report's pictures show. Pure; report.html.jinja draws them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.data.records import Example, Judgement
from recipe.evaluation.audit import FIGURES
from recipe.evaluation.tables import judge_name


def interval_charts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each task, the figure by which judges are set against rules: {"title", "low", "bars", "best"}.

    A bar is {"name", "rule", "value", "low", "high"}. The axis goes from low to 1. best: of the rules, or None.
    """
    charts = []
    for task, names in FIGURES["compared"].items():
        judges = {judge_name(name): part.get(task, {}) for name, part in results["models"].items() if part}
        rules = {name: part[task] for name, part in results.get("baselines", {}).items() if task in part}
        for name in names:
            bars = [
                {"name": who, "rule": side is rules, **figures[name]}
                for side in (judges, rules)
                for who, figures in side.items()
                if figures.get(name, {}).get("value") is not None
            ]
            if any(not bar["rule"] for bar in bars):
                ends = [bar["value"] if bar["low"] is None else bar["low"] for bar in bars]
                best = max((bar["value"] for bar in bars if bar["rule"]), default=None)
                title = f"{FIGURES['labels'][name]}, {task}"
                charts.append({"title": title, "low": min(0, *ends), "bars": bars, "best": best})
                break
    return charts


def confusion(rows: Sequence[Example], judgements: Sequence[Judgement]) -> dict[int, dict[str, int]]:
    """True score -> score given, or "malformed" -> how many of the pointwise rows. {} where there are none."""
    pairs = [(row, said.label) for row, said in zip(rows, judgements, strict=True) if row.task == "pointwise"]
    counts = Counter((row.label, label) for row, label in pairs)
    scores = sorted({score for row, _ in pairs for score in row.labels})
    given: list[tuple[int | None, str]] = [*((score, str(score)) for score in scores), (None, "malformed")]
    return {truth: {name: counts[truth, label] for label, name in given} for truth in scores}
