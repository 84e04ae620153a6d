"""The shortcut audit: what a judge's agreement is worth beside rules that need no model. Pure; runs no model.

`figures_by_task` adds to a judge's or rule's figures those that a shortcut can't raise. `audit` returns them by rule
and task ("baselines"), and each judge's difference from the best rule by task and figure ("against_baselines").
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recipe.data.naming import stated_winner, to_prompt_names
from recipe.data.records import SWAPPED, TASKS, Example, Task
from recipe.evaluation import metrics
from recipe.evaluation.trivial import TIE, RowVerdict, Said, longer_response, trivial_baselines
from recipe.system import read_table

FIGURES = read_table(__file__, "figures.toml")
FEWEST = 4  # rows that can show that a judge gives but one label
ONE_SIDED = 0.8  # a judge that gives one label in more than this share of the rows hardly judges


def _task_figures(task: Task, rows: Sequence[Example], verdicts: Sequence[Said], resamples: int) -> dict[str, Any]:
    """All figures of a task's labelled rows: those of metrics.py and, of any rows, those that show a shortcut."""
    truth, groups, labels = *_truth_and_groups(rows), [verdict.label for verdict in verdicts]
    if task == "pairwise":
        found = metrics.pairwise_figures(truth, labels, groups, resamples)
    else:
        expected = [verdict.expected_score for verdict in verdicts]
        found = metrics.pointwise_figures(truth, labels, groups, resamples=resamples, expected=expected)
    return found | (_shortcut_figures(rows, verdicts, resamples) if rows else {})


def figures_by_task(rows: Sequence[Example], verdicts: Sequence[Said], resamples: int) -> dict[str, Any]:
    """{"pointwise": {...}, "pairwise": {...}}: the figures of the rows of each task that have a label."""
    parts = {task: labelled(task, rows, verdicts) for task in TASKS}
    return {task: _task_figures(task, kept, said, resamples) for task, (kept, said) in parts.items()}


def labelled(task: Task, rows: Sequence[Example], *sides: Sequence[Any]) -> tuple[Any, ...]:
    """The rows of a task that have a label, and what each side says of them."""
    kept = [k for k, row in enumerate(rows) if row.task == task and row.label is not None]
    return [rows[k] for k in kept], *([side[k] for k in kept] for side in sides)


def _shortcut_figures(rows: Sequence[Example], verdicts: Sequence[Said], resamples: int) -> dict[str, Any]:
    """What shows a shortcut, of verdicts on labelled rows of one task: each {"value", "low", "high", "n"}.

    top_label: the share of the most frequent label, which is in it, beside its share of the truth.
    Pointwise: pearson_within, expected_within: the correlation of the label and of the expected score within criteria.
    Pairwise: both_orders: accuracy of the preference averaged over both orders, of the pairs that were judged in both;
    malformed in either is wrong. consistent: the share of these whose two labels name one response. longer_is_worse:
    accuracy on the pairs whose longer response is the worse one. first: the share of first-position picks. stated: how
    often the response that the rationale's words prefer is the labelled one, where they prefer one.
    """
    truth, groups = _truth_and_groups(rows)

    def rate_of(outcomes: Mapping[int, float]) -> dict[str, Any]:
        return metrics.rate_figure(list(outcomes.values()), [groups[k] for k in outcomes], resamples)

    labels = {k: verdict.label for k, verdict in enumerate(verdicts) if verdict.label is not None}
    counts = Counter(labels.values())
    top = max(counts, key=lambda label: (counts[label], -label), default=None)
    found = {"top_label": {**rate_of({k: label == top for k, label in labels.items()}), "label": top}}
    found["top_label"]["in_truth"] = sum(label == top for label in truth) / len(truth)
    if rows[0].task == "pointwise":
        criteria = [row.rubric.criteria for row in rows]
        # Of the rows with a label, so that both figures are over the same rows.
        finer = [None if verdict.label is None else verdict.expected_score for verdict in verdicts]
        for name, said in (("pearson_within", [verdict.label for verdict in verdicts]), ("expected_within", finer)):
            found[name] = metrics.correlation(truth, said, groups, resamples, strata=criteria)
        return found
    against_length = [k for k, row in enumerate(rows) if longer_response(row) == 3 - truth[k]]
    stated = {k: stated_winner(to_prompt_names(verdicts[k].rationale)) for k in labels}
    averaged = _both_orders(rows, verdicts)
    agree = _both_orders(rows, verdicts, labels_alone=True)
    return found | {
        "both_orders": rate_of({k: metrics.credit(truth[k], label) for k, label in averaged.items()}),
        "consistent": rate_of({k: label not in (None, TIE) for k, label in agree.items()}),
        "longer_is_worse": rate_of({k: metrics.credit(truth[k], verdicts[k].label) for k in against_length}),
        "first": rate_of({k: label == 1 for k, label in labels.items()}),
        "stated": rate_of({k: winner == labels[k] for k, winner in stated.items() if winner is not None}),
    }


def _both_orders(
    rows: Sequence[Example], verdicts: Sequence[Said], *, labels_alone: bool = False
) -> dict[int, float | None]:
    """Place of each pair that was judged in both orders -> the label that both say on average, in the pair's order.

    None where either is malformed; TIE where they are even. Without probabilities, and with `labels_alone`, the labels
    are averaged. The rows of several random seeds repeat their ids, in the same order.
    """
    exchanged: dict[str, list[Said]] = defaultdict(list)
    for row, verdict in zip(rows, verdicts, strict=True):
        if row.id.endswith(SWAPPED):
            exchanged[row.id.removesuffix(SWAPPED)].append(verdict)
    found: dict[int, float | None] = {}
    for k, (row, one) in enumerate(zip(rows, verdicts, strict=True)):
        if waiting := exchanged.get(row.id):
            other = waiting.pop(0)
            sides = [one.expected_score, other.expected_score]
            first, second = [one.label, other.label] if labels_alone or None in sides else sides
            if one.label is None or other.label is None or first is None or second is None:
                found[k] = None
            else:
                found[k] = TIE + ((first > second) - (first < second)) / 2
    return found


def audit(
    rows: Sequence[Example],
    judged: Mapping[str, tuple[Sequence[Example], Sequence[Said]]],
    train: Sequence[Example] = (),
    *,
    resamples: int,
) -> dict[str, Any]:
    """The rules' figures on `rows`, and what each judge gains over the best of them; see the module's docstring.

    judged: a judge's name -> the rows that it judged, of `rows`, once for each random seed, and its verdicts. train:
    see `trivial_baselines`. Rows without a label are left out.
    """
    baselines: dict[str, Any] = defaultdict(dict)
    against: dict[str, Any] = {name: {} for name in judged}
    for task in TASKS:
        (mine,) = labelled(task, rows)
        rules = trivial_baselines(mine, train)
        for name, guesses in rules.items():
            baselines[name][task] = _rule_figures(mine, guesses, resamples)
        scores = {name: _scores(guesses) if task == "pointwise" else guesses for name, guesses in rules.items()}
        said = {name: dict(zip([row.id for row in mine], some, strict=True)) for name, some in scores.items()}
        for judge, (its_rows, its_verdicts) in judged.items():
            theirs, verdicts = labelled(task, its_rows, its_verdicts)
            for figure in FIGURES["compared"][task] if theirs else ():
                values = {name: baselines[name][task][figure]["value"] for name in rules}
                known = [name for name, value in values.items() if value is not None]
                if known:
                    best = max(known, key=values.__getitem__)
                    rule = [said[best][row.id] for row in theirs]
                    over_all = "accuracy_all" if figure == "accuracy" else figure
                    gain = difference(over_all, theirs, rule, verdicts, resamples)
                    against[judge].setdefault(task, {})[figure] = {"baseline": best, **gain}
    return {"baselines": dict(baselines), "against_baselines": against}


def degenerate(figures: Mapping[str, Any]) -> list[str]:
    """What is wrong with a judge by its figures of both tasks, as ends of a sentence that begins with its name.

    A judge is announced that gives one label, or picks one position, in more than ONE_SIDED of the rows where the
    truth does not; and, from MIN_PARSED parsed rows on, one whose interval does not lie above chance.
    """
    found = []
    for task in TASKS:
        part = figures.get(task, {})
        top = part.get("top_label") or metrics.nothing(0)
        if top["n"] >= FEWEST and top["value"] > ONE_SIDED >= top["in_truth"]:
            what = f"gives the score {top['label']}" if task == "pointwise" else f"picks response {top['label']}"
            found.append(f"{what} in {top['value']:.0%} of the {top['n']} rows, so it has not learnt anything")
        if part.get("n", 0) < metrics.MIN_PARSED or (part["malformed"] < part["n"] and top["n"] < metrics.MIN_PARSED):
            continue
        best = part["pearson"] if task == "pointwise" else part["accuracy"]
        if task == "pairwise" and part.get("both_orders", {}).get("value") is not None:
            best = part["both_orders"]
        if (best["low"] if best["low"] is not None else -1.0) <= (0.0 if task == "pointwise" else 0.5):
            found.append(f"is not shown to be above chance on {'scores' if task == 'pointwise' else 'pairs'}")
    return found


def difference(
    figure: str, rows: Sequence[Example], first: Sequence[Said], second: Sequence[Said], resamples: int
) -> dict[str, Any]:
    """A figure of the second side minus that of the first, of labelled rows of one task, with its paired interval.

    "accuracy", "pearson" and "pearson_within" are over the rows that both parsed, "accuracy_all" over all rows and
    "both_orders" over all pairs judged in both orders, malformed counting as wrong.
    """
    truth, groups = _truth_and_groups(rows)
    one, two = ([verdict.label for verdict in side] for side in (first, second))
    if figure.startswith("pearson"):
        strata = [row.rubric.criteria for row in rows] if figure == "pearson_within" else None
        return metrics.paired_difference(truth, one, two, groups, resamples, strata)
    places: Iterable[int] = range(len(rows))
    if figure == "both_orders":
        before, after = _both_orders(rows, first), _both_orders(rows, second)
        places, one, two = after, [before.get(k) for k in places], [after.get(k) for k in places]
    elif figure == "accuracy":
        places = [k for k in places if None not in (one[k], two[k])]
    gains = {k: metrics.credit(truth[k], two[k]) - metrics.credit(truth[k], one[k]) for k in places}
    return metrics.rate_figure(list(gains.values()), [groups[k] for k in gains], resamples)


def _rule_figures(rows: Sequence[Example], verdicts: Sequence[RowVerdict], resamples: int) -> dict[str, Any]:
    """A rule's figures: its correlations are those of its score, and without labels it has no accuracy."""
    task = rows[0].task
    found = _task_figures(task, rows, verdicts, resamples)
    if task == "pointwise":
        scored = _task_figures(task, rows, _scores(verdicts), resamples)
        found = scored | {name: found[name] for name in ("accuracy", "top_label")}
        if verdicts[0].label is None:
            found["accuracy"] = metrics.nothing(len(rows))
    return found


def _scores(verdicts: Sequence[RowVerdict]) -> list[RowVerdict]:
    """The verdicts of a rule with its score in the place of its label."""
    return [verdict._replace(label=verdict.expected_score) for verdict in verdicts]


def _truth_and_groups(rows: Sequence[Example]) -> tuple[list[int], list[str]]:
    return [row.label for row in rows if row.label is not None], [row.prompt_id for row in rows]
