"""Stage curate: preference pairs from the N judgements of each input. Only `run_curate` reads or writes anything.

The two sides of a pair belong to one input and differ in text. A malformed judgement is never chosen. An input that
yields no pair is listed with the reason.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig
from recipe.data.records import Dropped, Judgement, Preference
from recipe.storage import write_jsonl
from recipe.training.balance import Pair, select


@dataclass(frozen=True)
class Assessments:
    """What a model said about judgements, for the methods that ask one (assess.py).

    ratings: from 1 to 5, by judgement id. picks: by (example id, "right" or "wrong"), the ids of the most and the least
    effective rationale; None where the two orders disagreed. reversals: what the child-like prompt drew, by example id.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    picks: Mapping[tuple[str, str], tuple[str, str] | None] = field(default_factory=dict)
    reversals: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)


def pairs_of(
    pool: Sequence[Judgement], settings: CurateConfig, assessments: Assessments, rng: random.Random
) -> tuple[list[Pair], str]:
    """(all pairs of one input's pool by the configured method, why there is none)."""
    distinct = distinct_texts(pool)
    if not any(judgement.label is not None for judgement in distinct):
        return [], "no well-formed judgement"
    if settings.method != "majority-vote" and pool[0].truth is None and settings.method != "self-assessment":
        return [], "no ground truth"
    pairs, reason = _allowed(distinct, settings, assessments, rng)
    pairs = [(chosen, rejected) for chosen, rejected in pairs if chosen.text.strip() != rejected.text.strip()]
    return pairs, "" if pairs else (reason or "all judgements alike")


def distinct_texts(pool: Sequence[Judgement]) -> list[Judgement]:
    """The first judgement of each text, in sample order, without those that the engine failed to make."""
    first: dict[str, Judgement] = {}
    for judgement in pool:
        if judgement.finish != "error":
            first.setdefault(judgement.text.strip(), judgement)
    return list(first.values())


def sides(
    pool: Sequence[Judgement], truth: int | None, settings: CurateConfig
) -> tuple[list[Judgement], list[Judgement]]:
    """(judgements with the label `truth`, those off by the margin and, if the settings say so, malformed ones)."""
    right = [judgement for judgement in pool if judgement.label == truth and truth is not None]
    wrong = [judgement for judgement in pool if _is_off(judgement, truth, settings)]
    return right, wrong


def _is_off(judgement: Judgement, truth: int | None, settings: CurateConfig) -> bool:
    if judgement.label is None:
        return settings.reject_malformed
    # Pairwise labels are right or wrong: their margin is 1.
    margin = max(settings.margin, 1) if judgement.task == "pointwise" else 1
    return truth is not None and abs(judgement.label - truth) >= margin


def _allowed(
    pool: list[Judgement], settings: CurateConfig, assessments: Assessments, rng: random.Random
) -> tuple[list[Pair], str]:
    """(the pairs that the method allows of distinct judgements, why there are none)."""
    method, truth = settings.method, pool[0].truth
    right, wrong = sides(pool, truth, settings)
    if method == "correct-answer":
        return _against(right, wrong)
    if method == "majority-vote":
        votes = Counter(judgement.label for judgement in pool if judgement.label is not None).most_common()
        if len(votes) > 1 and votes[0][1] == votes[1][1]:
            return [], "tie for the most frequent label"
        return _against(*sides(pool, votes[0][0], settings))
    if method == "self-assessment":
        return _by_rating(pool, settings, assessments)
    if method == "preference-reversal":
        drawn = distinct_texts(assessments.reversals.get(pool[0].example_id, ()))
        poor = [judgement for judgement in drawn if judgement.label == truth]
        return [
            (p, r) for p in poor for r in right
        ], "no poor rationale with the right label" if right else "none right"
    if method == "meta-judge":
        if not right or not wrong:
            return _against(right, wrong)
        best, worst = (_picked(side, name, assessments) for side, name in ((right, "right"), (wrong, "wrong")))
        return ([(best[0], worst[1])] if best and worst else []), "the meta-judge disagreed with itself"
    if len(right) < 2:
        return [], "fewer than two right"
    if method == "random-equal":
        first, second = rng.sample(right, 2)
        return [(first, second)], ""
    picked = _picked(right, "right", assessments)  # margin-0
    return ([picked] if picked else []), "the meta-judge disagreed with itself"


def _against(right: list[Judgement], wrong: list[Judgement]) -> tuple[list[Pair], str]:
    return [(r, w) for r in right for w in wrong], "none wrong by the margin" if right else "none right"


def _by_rating(pool: list[Judgement], settings: CurateConfig, assessments: Assessments) -> tuple[list[Pair], str]:
    rated = [(assessments.ratings[j.id], j) for j in pool if j.id in assessments.ratings]
    margin = max(settings.margin, 1)
    pairs = [(c, r) for cr, c in rated for rr, r in rated if c.label is not None and cr - rr >= margin]
    allowed = [(c, r) for c, r in pairs if r.label is not None or settings.reject_malformed]
    return allowed, "ratings too close" if rated else "no readable rating"


def _picked(items: list[Judgement], side: str, assessments: Assessments) -> Pair | None:
    """The (most, least) effective of the rationales, None where the meta-judge did not name two of them."""
    if len(items) == 1:
        return items[0], items[0]
    pick = assessments.picks.get((items[0].example_id, side))
    by_id = {judgement.id: judgement for judgement in items}
    if not pick or not by_id.keys() >= set(pick):
        return None
    return by_id[pick[0]], by_id[pick[1]]


def curate(
    judgements: Iterable[Judgement],
    settings: CurateConfig,
    assessments: Assessments | None = None,
    *,
    criteria: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[list[Preference], list[Dropped]]:
    """Make preference pairs: of each input all pairs that the method allows, and of those a selection (balance.py).

    Args:
        judgements: All samples.
        settings: The section `curate`.
        assessments: What a model said about the samples, for the methods that ask one.
        criteria: The criterion of each input, by its id.
        seed: The run's seed.

    Returns:
        (the pairs, the inputs that yield none with their reasons).
    """
    pools: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        pools[judgement.example_id].append(judgement)
    candidates: list[Pair] = []
    dropped: list[Dropped] = []
    for example_id, pool in pools.items():
        rng = random.Random(f"{seed}:{example_id}")
        pairs, reason = pairs_of(pool, settings, assessments or Assessments(), rng)
        # Within an input the order is random, so that a cap takes no side.
        candidates += rng.sample(pairs, len(pairs))
        if not pairs:
            dropped.append(Dropped(example_id, pool[0].task, reason))
    selected = select(candidates, settings, criteria or {}, seed=seed)
    used = {chosen.example_id for chosen, _ in selected}
    unused = {chosen.example_id: chosen.task for chosen, _ in candidates if chosen.example_id not in used}
    reason = "left out for balance or by max_pairs" if settings.balance_labels else "over max_pairs"
    dropped += [Dropped(example_id, task, reason) for example_id, task in unused.items()]
    return [_preference(chosen, rejected, settings.method) for chosen, rejected in selected], dropped


def _preference(chosen: Judgement, rejected: Judgement, method: str) -> Preference:
    return Preference(f"{chosen.id}>{rejected.id}", chosen.example_id, chosen.task, chosen, rejected, method)


def run_curate(
    folder: Path,
    judgements: Sequence[Judgement],
    criteria: Mapping[str, str],
    assessments: Assessments,
    settings: CurateConfig,
    *,
    seed: int,
) -> dict[str, Any]:
    """Write folder/preferences.jsonl and folder/dropped.jsonl; returns counts for the done marker. See `curate`."""
    preferences, dropped = curate(judgements, settings, assessments, criteria=criteria, seed=seed)
    write_jsonl(folder / "dropped.jsonl", [row.__dict__ for row in dropped])
    write_jsonl(folder / "preferences.jsonl", [preference.to_json() for preference in preferences])
    pairs = Counter(preference.example_id for preference in preferences)
    per_input = Counter(pairs[name] for name in dict.fromkeys(judgement.example_id for judgement in judgements))
    return {
        "pairs": len(preferences),
        "inputs_used": len(pairs),
        "pairs_per_input": {str(count): inputs for count, inputs in sorted(per_input.items())},
        "dropped": dict(Counter(row.reason for row in dropped).most_common()),
        "labels": _label_pairs(preferences),
    }


def _label_pairs(preferences: Sequence[Preference]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for preference in preferences:
        pair = f"{preference.chosen.label}>{preference.rejected.label or 'malformed'}"
        counts.setdefault(preference.task, Counter())[pair] += 1
    return {task: dict(sorted(pairs.items())) for task, pairs in counts.items()}
