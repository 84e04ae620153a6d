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
            results = [result for result in annotation.get("result", []) if result.get("type") == "choices"]
            answers = {str(result["from_name"]): list(result["value"]["choices"]) for result in results}
            if annotation.get("was_cancelled") or "preference" not in answers:
                skipped += 1
                continue
            preferred, given = answers["preference"], answers.get("reasons", [])
            if len(preferred) != 1 or not {*preferred} <= {*choices} or not {*given} <= {*reasons}:
                message = f"{[*preferred, *given]} are no answers of labels.xml; was the configuration changed?"
                raise SreError(message, file=path, field=f"item {item}")
            by = annotation.get("completed_by")
            rater = str(by.get("email") or by.get("id")) if isinstance(by, Mapping) else str(by)
            if (item, rater) in votes:
                raise SreError(f"rater {rater} annotated item {item} twice; delete one of them", file=path)
            place = choices.index(preferred[0])
            votes[item, rater] = (item, rater, *_outcome(place, given, key["items"][item]["shown"]))
    if not votes:
        raise SreError("no annotation yet: every task is unlabelled or skipped", file=path)
    return list(votes.values()), skipped


def _outcome(place: int, given: Sequence[str], shown: Sequence[int]) -> tuple[str, list[tuple[int, str]]]:
    """The outcome of the choice at `place`, and whose rationale the reasons blame."""
    if place == 2:
        return "both good", []
    if place == 3:
        return "both bad", [(judge, reason) for reason in given for judge in (0, 1)]
    better = shown[place]
    return ("loss", "win")[better], [(1 - better, reason) for reason in given]


def tally(votes: Sequence[Vote], judges: Sequence[str], resamples: int) -> dict[str, Any]:
    """Counts, win rates and agreement of votes: see label_studio.import_annotations."""
    raters = sorted({rater for _, rater, *_ in votes})
    reasons: dict[str, Counter[str]] = {judge: Counter() for judge in judges}
    for *_, given in votes:
        for judge, reason in given:
            reasons[judges[judge]][reason] += 1
    return {
        "annotations": len(votes),
        **_counted(votes, resamples),
        "raters": {rater: _counted([vote for vote in votes if vote[1] == rater], resamples) for rater in raters},
        "agreement": agreement(votes),
        "reasons": {judge: dict(counts.most_common()) for judge, counts in reasons.items()},
    }


def _counted(votes: Sequence[Vote], resamples: int) -> dict[str, Any]:
    """The outcomes, and the second judge's share of wins, a tie being one half.

    The interval is the 95% percentile bootstrap over items, because several raters' votes on one item are not
    independent.
    """
    counts = Counter(outcome for _, _, outcome, _ in votes)
    wins = [_WORTH.get(outcome, _TIE) for _, _, outcome, _ in votes]
    return {
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]},
        "win_rate": rate_figure(wins, [item for item, *_ in votes], resamples),
    }


def agreement(votes: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha (nominal) of the raters' outcomes; None where no two raters share an item, or all votes
    are alike (chance agreement is then undefined)."""
    try:
        import krippendorff
    except ImportError:
        message = f"agreement needs krippendorff: {install('eval')}"
        raise SreError(message) from None
    given = {(item, rater): OUTCOMES.index(outcome) for item, rater, outcome, _ in votes}
    raters, items = (sorted({vote[place] for vote in votes}) for place in (1, 0))
    shared = [item for item in items if sum((item, rater) in given for rater in raters) > 1]
    if len({outcome for (item, _), outcome in given.items() if item in shared}) < 2:
        return None
    table = [[given.get((item, rater), float("nan")) for item in shared] for rater in raters]
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))
