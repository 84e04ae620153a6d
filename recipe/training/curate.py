"""Stage curate: preference pairs from the N judgements of each input. Only `run_curate` reads or writes anything.

The two sides of a pair belong to one input and differ in text. A malformed judgement is never chosen. An input that
yields no pair is listed with the reason.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig
from recipe.data.records import Judgement, Preference
from recipe.storage import read_jsonl, write_jsonl
from recipe.training.balance import Pair, select
from recipe.training.right_and_wrong import distinct_texts, pools_of, right_and_wrong


@dataclass(frozen=True)
class Assessments:
    """What a model said about judgements (assess.py), for the curation methods that need it.

    ratings: from 1 to 5, by judgement id. picks: the ids of the best and the worst rationale by (example id, "right" or
    "wrong"), None where the model disagreed with itself. reversals: poor judgements by example id.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    picks: Mapping[tuple[str, str], tuple[str, str] | None] = field(default_factory=dict)
    reversals: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)


def read_assessments(path: Path) -> Assessments:
    """What assess.py wrote; nothing where there is no file."""
    rows = read_jsonl(path) if path.exists() else []
    reversals = [Judgement.from_json(row["reversal"]) for row in rows if "reversal" in row]
    return Assessments(
        {row["judgement_id"]: row["rating"] for row in rows if row.get("rating") is not None},
        {(row["example_id"], row["side"]): row["pick"] and tuple(row["pick"]) for row in rows if "side" in row},
        pools_of(reversals),
    )


Found = tuple[list[Pair], str]  # (the pairs of an input, why there are none)


def pairs_of(pool: Sequence[Judgement], settings: CurateConfig, assessments: Assessments, rng: random.Random) -> Found:
    """All pairs (chosen, rejected) that the method allows of one input's pool, else why there are none."""
    distinct = distinct_texts(pool)
    if not any(judgement.label is not None for judgement in distinct):
        return [], "no well-formed judgement"
    if settings.method not in ("majority-vote", "self-assessment") and pool[0].truth is None:
        return [], "no ground truth"
    pairs, reason = _allowed(distinct, settings, assessments, rng)
    pairs = [(chosen, rejected) for chosen, rejected in pairs if chosen.text.strip() != rejected.text.strip()]
    return pairs, "" if pairs else (reason or "all judgements alike")


def _allowed(pool: list[Judgement], settings: CurateConfig, assessments: Assessments, rng: random.Random) -> Found:
    method, truth = settings.method, pool[0].truth
    right, wrong = right_and_wrong(pool, truth, settings)
    if method == "majority-vote":
        votes = Counter(judgement.label for judgement in pool if judgement.label is not None).most_common()
        if len(votes) > 1 and votes[0][1] == votes[1][1]:
            return [], "tie for the most frequent label"
        right, wrong = right_and_wrong(pool, votes[0][0], settings)
    if method == "self-assessment":
        return _by_rating(pool, settings, assessments)
    if method == "preference-reversal":
        drawn = distinct_texts(assessments.reversals.get(pool[0].example_id, ()))
        pairs = [(poor, good) for poor in drawn if poor.label == truth for good in right]
        return pairs, "no poor rationale with the right label" if right else "none right"
    if method in ("correct-answer", "majority-vote") or (method == "meta-judge" and not (right and wrong)):
        return [(r, w) for r in right for w in wrong], "none wrong by the margin" if right else "none right"
    if method == "meta-judge":
        best, worst = (_picked(side, name, assessments) for side, name in ((right, "right"), (wrong, "wrong")))
        return ([(best[0], worst[1])] if best and worst else []), "the meta-judge disagreed with itself"
    if len(right) < 2:
        return [], "fewer than two right"
    if method == "random-equal":
        first, second = rng.sample(right, 2)
        return [(first, second)], ""
    picked = _picked(right, "right", assessments)  # meta-judge-equal
    return ([picked] if picked else []), "the meta-judge disagreed with itself"


def _by_rating(pool: list[Judgement], settings: CurateConfig, assessments: Assessments) -> Found:
    rated = [(assessments.ratings[j.id], j) for j in pool if j.id in assessments.ratings]
    pairs = [(c, r) for cr, c in rated for rr, r in rated if c.label is not None and cr - rr >= settings.margin]
    allowed = [(c, r) for c, r in pairs if r.label is not None or settings.reject_malformed]
    return allowed, "ratings too close" if rated else "no readable rating"


def _picked(items: list[Judgement], side: str, assessments: Assessments) -> Pair | None:
    """The (best, worst) of the rationales, None where the meta-judge did not name two of them."""
    if len(items) == 1:
        return items[0], items[0]
    pick = assessments.picks.get((items[0].example_id, side))
    by_id = {judgement.id: judgement for judgement in items}
    return (by_id[pick[0]], by_id[pick[1]]) if pick and by_id.keys() >= set(pick) else None


def curate(
    judgements: Iterable[Judgement],
    settings: CurateConfig,
    assessments: Assessments | None = None,
    *,
    criteria: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[list[Preference], list[dict[str, str]]]:
    """Make preference pairs: all that the method allows of each input, and of those a selection (balance.py).

    Returns the pairs, and {"example_id", "task", "reason"} of each input that yields none. `criteria` is by input id.
    """
    candidates: list[Pair] = []
    dropped: dict[str, tuple[str, str]] = {}
    for example_id, pool in pools_of(judgements).items():
        rng = random.Random(f"{seed}:{example_id}")
        pairs, reason = pairs_of(pool, settings, assessments or Assessments(), rng)
        candidates += rng.sample(pairs, len(pairs))  # a cap must not prefer the first samples
        if not pairs:
            dropped[example_id] = (pool[0].task, reason)
    selected = select(candidates, settings, criteria or {}, seed=seed)
    used = {chosen.example_id for chosen, _ in selected}
    reason = "left out for balance or by max_pairs" if settings.balance_labels else "over max_pairs"
    dropped |= {chosen.example_id: (chosen.task, reason) for chosen, _ in candidates if chosen.example_id not in used}
    preferences = [
        Preference(f"{chosen.id}>{rejected.id}", chosen.example_id, chosen.task, chosen, rejected, settings.method)
        for chosen, rejected in selected
    ]
    return preferences, [
        {"example_id": name, "task": task, "reason": reason} for name, (task, reason) in dropped.items()
    ]


def run_curate(
    folder: Path,
    judgements: Sequence[Judgement],
    criteria: Mapping[str, str],
    assessments: Assessments,
    settings: CurateConfig,
    *,
    seed: int,
) -> dict[str, Any]:
    """Write what `curate` makes, preferences.jsonl and dropped.jsonl; returns counts for the done marker."""
    preferences, dropped = curate(judgements, settings, assessments, criteria=criteria, seed=seed)
    write_jsonl(folder / "dropped.jsonl", dropped)
    write_jsonl(folder / "preferences.jsonl", [preference.to_json() for preference in preferences])
    reasons = Counter(row["reason"] for row in dropped)
    return {"pairs": len(preferences), "dropped": dict(reasons.most_common())}
