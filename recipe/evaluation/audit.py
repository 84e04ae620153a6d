"""The shortcut audit: what a judge's agreement is worth beside rules that need no model. Pure; runs no model.

`shortcut_figures` adds to a judge's or rule's figures those that a shortcut can't raise. `audit` returns

    {"baselines": {"longer response": {"pointwise": {figures}, "pairwise": {figures}}, ...},
     "against_baselines": {"j1": {"pairwise": {"both_orders": {"baseline": "longer response",
                                                               "value": -0.2, "low": -0.3, "high": -0.1, "n": 75}}}}}
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.data.naming import stated_winner, to_prompt_names
from recipe.data.records import SWAPPED, TASKS, Example, Judgement, Task
from recipe.evaluation.bootstrap import nothing
from recipe.evaluation.metrics import (
    MIN_PARSED,
    correlation,
    credit,
    paired_difference,
    pairwise_figures,
    pointwise_figures,
    rate_figure,
)
from recipe.evaluation.trivial import TIE, Verdict, longer_response, trivial_baselines

COMPARED: dict[Task, tuple[str, ...]] = {
    "pointwise": ("pearson", "pearson_within", "expected_within"),
    "pairwise": ("accuracy_all", "both_orders"),
}
"""The figures by which a judge is set against the best rule."""


def task_figures(task: Task, rows: Sequence[Example], verdicts: Sequence[Verdict], resamples: int) -> dict[str, Any]:
    """All figures of the verdicts on labelled rows of a task: those of metrics.py and, of any rows, the shortcuts'."""
    truth, labels, groups = _truth(rows), [v.label for v in verdicts], [row.prompt_id for row in rows]
    if task == "pairwise":
        found = pairwise_figures(truth, labels, groups, resamples)
    else:
        expected = [verdict.expected for verdict in verdicts]
        found = pointwise_figures(truth, labels, groups, resamples=resamples, expected=expected)
    return found | (shortcut_figures(rows, verdicts, resamples) if rows else {})


def figures_by_task(rows: Sequence[Example], verdicts: Sequence[Verdict], resamples: int) -> dict[str, Any]:
    """{"pointwise": {...}, "pairwise": {...}}: `task_figures` of the rows of each task that have a label."""
    found: dict[str, Any] = {}
    for task in TASKS:
        kept = [k for k, row in enumerate(rows) if row.task == task and row.label is not None]
        found[task] = task_figures(task, [rows[k] for k in kept], [verdicts[k] for k in kept], resamples)
    return found


def shortcut_figures(rows: Sequence[Example], verdicts: Sequence[Verdict], resamples: int) -> dict[str, Any]:
    """What shows a shortcut, of verdicts on labelled rows of one task: each {"value", "low", "high", "n"}.

    top_label: the share of the most frequent label, which is in it, beside its share of the truth.
    Pointwise: pearson_within, expected_within: the correlation of the label and of the expected score within criteria.
    Pairwise: both_orders: accuracy of the preference averaged over both orders, of the pairs that were judged in both;
    malformed in either is wrong. consistent: the share of these whose two labels name one response. longer_is_worse:
    accuracy on the pairs whose longer response is the worse one. first: the share of first-position picks. stated: how
    often the response that the rationale's words prefer is the labelled one, where they prefer one.
    """
    truth, groups = _truth(rows), [row.prompt_id for row in rows]

    def rate_of(outcomes: Mapping[int, float]) -> dict[str, Any]:
        return rate_figure(list(outcomes.values()), [groups[k] for k in outcomes], resamples)

    labels = {k: verdict.label for k, verdict in enumerate(verdicts) if verdict.label is not None}
    counts = Counter(labels.values())
    top = max(counts, key=lambda label: (counts[label], -label), default=None)
    found = {"top_label": {**rate_of({k: label == top for k, label in labels.items()}), "label": top}}
    found["top_label"]["in_truth"] = sum(label == top for label in truth) / len(truth)
    if rows[0].task == "pointwise":
        criteria = [row.rubric.criteria for row in rows]
        for name, said in (("pearson_within", [v.label for v in verdicts]), ("expected_within", _finer(verdicts))):
            found[name] = correlation(truth, said, groups, resamples, strata=criteria)
        return found
    against_length = [k for k, row in enumerate(rows) if longer_response(row) == 3 - truth[k]]
    stated = {k: stated_winner(to_prompt_names(verdicts[k].rationale)) for k in labels}
    averaged = both_orders(rows, verdicts)
    agree = both_orders(rows, [verdict._replace(expected=None) for verdict in verdicts])
    return found | {
        "both_orders": rate_of({k: credit(truth[k], label) for k, label in averaged.items()}),
        "consistent": rate_of({k: label not in (None, TIE) for k, label in agree.items()}),
        "longer_is_worse": rate_of({k: credit(truth[k], verdicts[k].label) for k in against_length}),
        "first": rate_of({k: label == 1 for k, label in labels.items()}),
        "stated": rate_of({k: winner == labels[k] for k, winner in stated.items() if winner is not None}),
    }


def both_orders(rows: Sequence[Example], verdicts: Sequence[Verdict]) -> dict[int, float | None]:
    """Place of each pair that was judged in both orders -> the label that both say on average, in the pair's order.

    None where either is malformed; TIE where they are even. Without probabilities the labels are averaged.
    """
    exchanged: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        if row.id.endswith(SWAPPED):
            exchanged[row.id.removesuffix(SWAPPED)].append(k)
    found: dict[int, float | None] = {}
    for k, row in enumerate(rows):
        # The rows of several random seeds repeat their ids, in the same order.
        if waiting := exchanged.get(row.id):
            one, other = verdicts[k], verdicts[waiting.pop(0)]
            if one.label is None or other.label is None:
                found[k] = None
                continue
            finer = one.expected is not None and other.expected is not None
            first, second = (one.expected, other.expected) if finer else (one.label, other.label)
            mean = TIE + ((first or 0) - (second or 0)) / 2
            found[k] = TIE + ((mean > TIE) - (mean < TIE)) / 2
    return found


def audit(
    rows: Sequence[Example],
    judged: Mapping[str, tuple[Sequence[Example], Sequence[Judgement | Verdict]]],
    train: Sequence[Example] = (),
    *,
    resamples: int,
) -> dict[str, Any]:
    """The rules' figures on `rows`, and what each judge gains over the best of them: the dict of the docstring above.

    Args:
        rows: What was judged; rows without a label are left out.
        judged: A judge's name -> the rows that it judged, of `rows`, once for each random seed, and its verdicts.
        train: The training rows, where they are known; see `trivial_baselines`.
        resamples: Of the bootstrap.
    """
    baselines: dict[str, Any] = {}
    against: dict[str, Any] = {name: {} for name in judged}
    for task in TASKS:
        mine = [row for row in rows if row.task == task and row.label is not None]
        rules = trivial_baselines(mine, train)
        for name, guesses in rules.items():
            baselines.setdefault(name, {})[task] = _rule_figures(mine, guesses, resamples)
        said = {
            name: {r.id: v for r, v in zip(mine, _scores(guesses) if task == "pointwise" else guesses, strict=True)}
            for name, guesses in rules.items()
        }
        for judge, (theirs, verdicts) in judged.items():
            pairs = [(r, Verdict.of(v)) for r, v in zip(theirs, verdicts, strict=True)]
            pairs = [(row, verdict) for row, verdict in pairs if row.task == task and row.label is not None]
            for figure in COMPARED[task] if pairs else ():
                values = {name: baselines[name][task][figure.removesuffix("_all")]["value"] for name in rules}
                known = [name for name in rules if values[name] is not None]
                if known:
                    best = max(known, key=lambda name, values=values: values[name])  # type: ignore[misc]
                    rule = [said[best][row.id] for row, _ in pairs]
                    gain = difference(figure, [row for row, _ in pairs], rule, [v for _, v in pairs], resamples)
                    against[judge].setdefault(task, {})[figure.removesuffix("_all")] = {"baseline": best, **gain}
    return {"baselines": baselines, "against_baselines": against}


ONE_SIDED = 0.8  # a judge that gives one label in more than this share of the rows hardly judges


def degenerate(figures: Mapping[str, Any]) -> list[str]:
    """What is wrong with a judge by its figures of both tasks, as ends of a sentence that begins with its name.

    A judge is announced that gives one label, or picks one position, in more than ONE_SIDED of the rows where the
    truth does not; and one whose interval does not lie above chance. Fewer than MIN_PARSED parsed rows say nothing.
    """
    found = []
    for task in TASKS:
        part = figures.get(task, {})
        top = part.get("top_label") or nothing(0)
        if part.get("n", 0) < MIN_PARSED or (part["malformed"] < part["n"] and top["n"] < MIN_PARSED):
            continue
        if top["value"] is not None and top["value"] > ONE_SIDED >= top["in_truth"]:
            what = f"gives the score {top['label']}" if task == "pointwise" else f"picks response {top['label']}"
            found.append(f"{what} in {top['value']:.0%} of the rows")
        best = part["pearson"] if task == "pointwise" else part["accuracy"]
        if task == "pairwise" and part.get("both_orders", {}).get("value") is not None:
            best = part["both_orders"]
        if (best["low"] if best["low"] is not None else -1.0) <= (0.0 if task == "pointwise" else 0.5):
            found.append(f"is not shown to be above chance on {'scores' if task == 'pointwise' else 'pairs'}")
    return found


def difference(
    figure: str, rows: Sequence[Example], first: Sequence[Verdict], second: Sequence[Verdict], resamples: int
) -> dict[str, Any]:
    """A figure of the second side minus that of the first, of labelled rows of one task, with its paired interval.

    Over the rows that both parsed; "accuracy_all" over all rows and "both_orders" over all pairs judged in both orders,
    malformed counting as wrong.
    """
    truth, groups = _truth(rows), [row.prompt_id for row in rows]
    if figure == "both_orders":
        one, two = both_orders(rows, first), both_orders(rows, second)
        gains = {k: credit(truth[k], label) - credit(truth[k], one[k]) for k, label in two.items()}
        return rate_figure(list(gains.values()), [groups[k] for k in gains], resamples)
    labels = [[verdict.label for verdict in side] for side in (first, second)]
    if figure == "accuracy":
        kept = [k for k, pair in enumerate(zip(*labels, strict=True)) if None not in pair]
        truth, groups = [truth[k] for k in kept], [groups[k] for k in kept]
        labels = [[side[k] for k in kept] for side in labels]
    sides = [_finer(side) for side in (first, second)] if figure == "expected_within" else labels
    strata = [row.rubric.criteria for row in rows] if figure.endswith("_within") else None
    name = "pearson" if strata else figure.removesuffix("_all")
    return paired_difference(truth, sides[0], sides[1], groups, name, resamples, strata)


def _rule_figures(rows: Sequence[Example], verdicts: Sequence[Verdict], resamples: int) -> dict[str, Any]:
    """A rule's figures: its correlations are those of its score, and without labels it has no accuracy."""
    task = rows[0].task
    found = task_figures(task, rows, verdicts, resamples)
    if task == "pointwise":
        scored = task_figures(task, rows, _scores(verdicts), resamples)
        found = scored | {name: found[name] for name in ("accuracy", "top_label")}
        if verdicts[0].label is None:
            found["accuracy"] = nothing(len(rows))
    return found


def _scores(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a rule with its score in the place of its label."""
    return [verdict._replace(label=verdict.expected) for verdict in verdicts]


def _truth(rows: Sequence[Example]) -> list[int]:
    return [row.label for row in rows if row.label is not None]


def _finer(verdicts: Sequence[Verdict]) -> list[float | None]:
    """The expected scores of the rows that carry a label too, so that both figures are over the same rows."""
    return [None if verdict.label is None else verdict.expected for verdict in verdicts]
