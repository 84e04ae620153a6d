"""Stage curate: N judgements of one input -> preference pairs (SPEC: Curation; paper 3.3). Pure but for `run_curate`.

A pair's two sides belong to one input and differ in text; what is malformed is never chosen. Every input that yields
nothing is kept with its reason.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig
from recipe.data.records import Dropped, Judgement, Preference
from recipe.storage import write_jsonl
from recipe.training.balance import Pair, select


@dataclass(frozen=True)
class Assessments:
    """What a model said about judgements, for the methods that ask one (stages/assess.py).

    ratings: judgement id -> 1..5. picks: (example id, side "right" or "wrong") -> ids of the (most, least) effective
    rationale; None where the two orders disagreed. reversals: example id -> judgements drawn by the child-like prompt.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    picks: Mapping[tuple[str, str], tuple[str, str] | None] = field(default_factory=dict)
    reversals: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)


def pairs_of(
    pool: Sequence[Judgement], settings: CurateConfig, assessments: Assessments, rng: random.Random
) -> tuple[list[Pair], str]:
    """All pairs of one input's pool by the configured method, or ([], why there is none)."""
    distinct = distinct_texts(pool)
    if not any(judgement.label is not None for judgement in distinct):
        return [], "no well-formed judgement"
    if settings.method != "majority-vote" and pool[0].truth is None and settings.method != "self-assessment":
        return [], "no ground truth"
    rule: Callable[..., tuple[list[Pair], str]] = _RULES[settings.method]
    pairs, reason = rule(distinct, settings, assessments, rng)
    pairs = [(chosen, rejected) for chosen, rejected in pairs if chosen.text.strip() != rejected.text.strip()]
    return pairs, "" if pairs else (reason or "all judgements alike")


def distinct_texts(pool: Sequence[Judgement]) -> list[Judgement]:
    """The first judgement of each text, in sample order; without those that the engine failed to make."""
    first: dict[str, Judgement] = {}
    for judgement in pool:
        if judgement.finish != "error":
            first.setdefault(judgement.text.strip(), judgement)
    return list(first.values())


def sides(
    pool: Sequence[Judgement], truth: int | None, settings: CurateConfig
) -> tuple[list[Judgement], list[Judgement]]:
    """(judgements with the label `truth`, judgements whose label is off by the margin, or malformed if asked for)."""
    right = [judgement for judgement in pool if judgement.label == truth and truth is not None]
    wrong = [judgement for judgement in pool if _is_off(judgement, truth, settings)]
    return right, wrong


def _is_off(judgement: Judgement, truth: int | None, settings: CurateConfig) -> bool:
    if judgement.label is None:
        return settings.reject_malformed
    # Pairwise labels are right or wrong: their margin is 1.
    margin = max(settings.margin, 1) if judgement.task == "pointwise" else 1
    return truth is not None and abs(judgement.label - truth) >= margin


def _against(pool: list[Judgement], truth: int | None, settings: CurateConfig) -> tuple[list[Pair], str]:
    right, wrong = sides(pool, truth, settings)
    if not right:
        return [], "none right"
    return [(r, w) for r in right for w in wrong], "none wrong by the margin"


def _correct_answer(
    pool: list[Judgement], settings: CurateConfig, _: Assessments, __: random.Random
) -> tuple[list[Pair], str]:
    return _against(pool, pool[0].truth, settings)


def _majority_vote(
    pool: list[Judgement], settings: CurateConfig, _: Assessments, __: random.Random
) -> tuple[list[Pair], str]:
    votes = Counter(judgement.label for judgement in pool if judgement.label is not None).most_common()
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return [], "tie for the most frequent label"
    return _against(pool, votes[0][0], settings)


def _self_assessment(
    pool: list[Judgement], settings: CurateConfig, assessments: Assessments, _: random.Random
) -> tuple[list[Pair], str]:
    rated = [(assessments.ratings[j.id], j) for j in pool if j.id in assessments.ratings]
    if not rated:
        return [], "no readable rating"
    margin = max(settings.margin, 1)
    pairs = [(c, r) for cr, c in rated for rr, r in rated if c.label is not None and cr - rr >= margin]
    return [(c, r) for c, r in pairs if r.label is not None or settings.reject_malformed], "ratings too close"


def _meta_judge(
    pool: list[Judgement], settings: CurateConfig, assessments: Assessments, _: random.Random
) -> tuple[list[Pair], str]:
    right, wrong = sides(pool, pool[0].truth, settings)
    if not right or not wrong:
        return [], "none right" if not right else "none wrong by the margin"
    best, worst = (_picked(side, name, assessments) for side, name in ((right, "right"), (wrong, "wrong")))
    if best is None or worst is None:
        return [], "the meta-judge disagreed with itself"
    return [(best[0], worst[1])], ""


def _picked(items: list[Judgement], side: str, assessments: Assessments) -> Pair | None:
    if len(items) == 1:
        return items[0], items[0]
    pick = assessments.picks.get((items[0].example_id, side))
    by_id = {judgement.id: judgement for judgement in items}
    if not pick or not by_id.keys() >= set(pick):
        return None
    return by_id[pick[0]], by_id[pick[1]]


def _margin_0(
    pool: list[Judgement], settings: CurateConfig, assessments: Assessments, _: random.Random
) -> tuple[list[Pair], str]:
    right, __ = sides(pool, pool[0].truth, settings)
    if len(right) < 2:
        return [], "fewer than two right"
    picked = _picked(right, "right", assessments)
    return ([picked], "") if picked else ([], "the meta-judge disagreed with itself")


def _random_equal(
    pool: list[Judgement], settings: CurateConfig, _: Assessments, rng: random.Random
) -> tuple[list[Pair], str]:
    right, __ = sides(pool, pool[0].truth, settings)
    if len(right) < 2:
        return [], "fewer than two right"
    first, second = rng.sample(right, 2)
    return [(first, second)], ""


def _preference_reversal(
    pool: list[Judgement], settings: CurateConfig, assessments: Assessments, _: random.Random
) -> tuple[list[Pair], str]:
    right, __ = sides(pool, pool[0].truth, settings)
    drawn = distinct_texts(assessments.reversals.get(pool[0].example_id, ()))
    poor = [judgement for judgement in drawn if judgement.label == pool[0].truth]
    return [
        (p, r) for p in poor for r in right
    ], "none right" if not right else "no poor rationale with the right label"


_RULES = {
    "correct-answer": _correct_answer,
    "majority-vote": _majority_vote,
    "self-assessment": _self_assessment,
    "meta-judge": _meta_judge,
    "margin-0": _margin_0,
    "random-equal": _random_equal,
    "preference-reversal": _preference_reversal,
}


def curate(
    judgements: Iterable[Judgement],
    settings: CurateConfig,
    assessments: Assessments | None = None,
    *,
    criteria: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[list[Preference], list[Dropped]]:
    """Make preference pairs of all inputs: every pair that the method allows, then a selection (balance.py).

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
