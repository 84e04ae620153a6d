"""Raters' votes: read from Label Studio's JSON export, and counted. Knows nothing of judges but their names.

A vote is (item, rater, outcome, reasons): the outcome is the second judge's, "win", "loss", "both good" or "both bad";
the reasons are (judge, reason) pairs, the judge 0 or 1 being the one whose rationale was found wanting.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.errors import SreError, install
from recipe.evaluation.metrics import rate_figure

Vote = tuple[str, str, str, Sequence[tuple[int, str]]]
OUTCOMES = ("win", "both good", "both bad", "disagreed", "loss")
_WORTH = {"win": 1.0, "loss": 0.0}
_TIE = 0.5


def read_votes(
    path: Path, key: Mapping[str, Any], choices: Sequence[str], reasons: Sequence[str]
) -> tuple[list[Vote], int]:
    """(votes, number of annotations that raters skipped) of Label Studio's JSON export.

    choices: first better, second better, both good, both bad, as shown to raters. Raises SreError for a file that isn't
    such an export, for tasks that aren't the key's, and for a rater who annotated one item twice.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SreError(f"can't read the annotations: {error}", file=path) from None
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and "annotations" in t for t in tasks):
        raise SreError("not Label Studio's export of the type JSON (a list of tasks with annotations)", file=path)
    votes: dict[tuple[str, str], Vote] = {}
    skipped = 0
    for task in tasks:
        item = str(task.get("data", {}).get("item", ""))
        if item not in key["items"]:
            raise SreError(f"item {item!r} is not in key.json: these annotations are of another export", file=path)
        for annotation in task["annotations"]:
            answers = _answers(annotation)
            if annotation.get("was_cancelled") or "preference" not in answers:
                skipped += 1
                continue
            rater = _rater(annotation.get("completed_by"))
            if (item, rater) in votes:
                raise SreError(f"rater {rater} annotated item {item} twice; delete one of them", file=path)
            shown = key["items"][item]["shown"]
            votes[item, rater] = _vote(item, rater, answers, shown, choices, reasons, path)
    if not votes:
        raise SreError("no annotation yet: every task is unlabelled or skipped", file=path)
    return list(votes.values()), skipped


def _answers(annotation: Mapping[str, Any]) -> dict[str, list[str]]:
    """{"preference": [choice], "reasons": [reason, …]} of one annotation."""
    results = [result for result in annotation.get("result", []) if result.get("type") == "choices"]
    return {str(result["from_name"]): list(result["value"]["choices"]) for result in results}


def _rater(completed_by: Any) -> str:
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or completed_by.get("id"))
    return str(completed_by)


def _vote(
    item: str,
    rater: str,
    answers: Mapping[str, list[str]],
    shown: Sequence[int],
    choices: Sequence[str],
    reasons: Sequence[str],
    path: Path,
) -> Vote:
    given = answers.get("reasons", [])
    strange = [text for text in answers["preference"] if text not in choices] + [t for t in given if t not in reasons]
    if strange or len(answers["preference"]) != 1:
        what = f"{strange[0]!r} is no answer of labels.xml" if strange else "expected one preference"
        raise SreError(f"{what}; was the configuration changed?", file=path, field=f"item {item}")
    place = choices.index(answers["preference"][0])
    if place == 2:
        return item, rater, "both good", ()
    if place == 3:
        return item, rater, "both bad", [(judge, reason) for reason in given for judge in (0, 1)]
    better = shown[place]
    return item, rater, ("loss", "win")[better], [(1 - better, reason) for reason in given]


def tally(votes: Sequence[Vote], judges: Sequence[str], resamples: int) -> dict[str, Any]:
    """Counts, win rates and agreement of votes: see label_studio.import_annotations."""
    raters = sorted({vote[1] for vote in votes})
    reasons: dict[str, Counter[str]] = {judge: Counter() for judge in judges}
    for *_, given in votes:
        for judge, reason in given:
            reasons[judges[judge]][reason] += 1
    per_rater = {rater: [vote for vote in votes if vote[1] == rater] for rater in raters}
    return {
        "annotations": len(votes),
        "outcomes": _outcomes(votes),
        "win_rate": win_rate(votes, resamples),
        "raters": {
            rater: {"outcomes": _outcomes(theirs), "win_rate": win_rate(theirs, resamples)}
            for rater, theirs in per_rater.items()
        },
        "agreement": agreement(votes),
        "reasons": {judge: dict(counts.most_common()) for judge, counts in reasons.items()},
    }


def _outcomes(votes: Sequence[Vote]) -> dict[str, int]:
    counts = Counter(vote[2] for vote in votes)
    return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}


def win_rate(votes: Sequence[Vote], resamples: int) -> dict[str, Any]:
    """The second judge's share of wins, a tie being one half: {"value", "low", "high", "n"} with n votes.

    The interval is the 95% percentile bootstrap over items, because several raters' votes on one item are not
    independent. Fewer than two items have no interval.
    """
    outcomes = [_WORTH.get(outcome, _TIE) for _, _, outcome, _ in votes]
    return rate_figure(outcomes, [item for item, *_ in votes], resamples)


def agreement(votes: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha (nominal) of the raters' outcomes; None where no two raters share an item, or all votes
    are alike (chance agreement is then undefined)."""
    try:
        import krippendorff
    except ImportError:
        message = f"agreement needs krippendorff: {install('eval')}"
        raise SreError(message) from None
    raters = sorted({vote[1] for vote in votes})
    items = sorted({vote[0] for vote in votes})
    given = {(rater, item): OUTCOMES.index(outcome) for item, rater, outcome, _ in votes}
    shared = [item for item in items if sum((rater, item) in given for rater in raters) > 1]
    values = {given[rater, item] for rater in raters for item in shared if (rater, item) in given}
    if len(values) < 2:
        return None
    table = [[given.get((rater, item), float("nan")) for item in shared] for rater in raters]
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))
