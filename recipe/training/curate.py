"""Stage curate: preference pairs from the N judgements of each input. Only `run_curate` reads or writes anything.

The two sides of a pair belong to one input and differ in text. A malformed judgement is never chosen. An input that
yields no pair is listed with the reason.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig
from recipe.data.records import Judgement, Preference, pools_of
from recipe.storage import write_jsonl
from recipe.training.balance import Pair, select

Found = tuple[list[Pair], str]  # (the pairs of an input, why there are none)
Rule = Callable[[list[Judgement], CurateConfig, random.Random], Found]


def distinct_texts(pool: Sequence[Judgement]) -> list[Judgement]:
    """The first judgement of each text, in the order of sampling, without those that the engine failed to make."""
    first: dict[str, Judgement] = {}
    for judgement in pool:
        if judgement.finish != "error":
            first.setdefault(judgement.text.strip(), judgement)
    return list(first.values())


def right_and_wrong(
    pool: Sequence[Judgement], truth: int | None, settings: CurateConfig
) -> tuple[list[Judgement], list[Judgement]]:
    """(judgements with the label `truth`, those off by the margin and, if the settings say so, malformed ones)."""
    right = [judgement for judgement in pool if judgement.label == truth and truth is not None]
    return right, [judgement for judgement in pool if _is_wrong(judgement, truth, settings)]


def _is_wrong(judgement: Judgement, truth: int | None, settings: CurateConfig) -> bool:
    if judgement.label is None:
        return settings.reject_malformed
    margin = settings.margin if judgement.task == "pointwise" else 1
    return truth is not None and abs(judgement.label - truth) >= margin


def right_against_wrong(pool: list[Judgement], truth: int | None, settings: CurateConfig) -> Found:
    """All pairs of a judgement with the label `truth` and one that is wrong by the margin."""
    right, wrong = right_and_wrong(pool, truth, settings)
    return [(r, w) for r in right for w in wrong], "none wrong by the margin" if right else "none right"


def by_label(pool: list[Judgement], settings: CurateConfig, rng: random.Random) -> Found:
    """The recipe's rule: the right label is that of the data."""
    truth = pool[0].truth
    return ([], "no ground truth") if truth is None else right_against_wrong(pool, truth, settings)


def pairs_of(pool: Sequence[Judgement], settings: CurateConfig, rule: Rule, rng: random.Random) -> Found:
    """All pairs (chosen, rejected) that the rule allows of one input's pool, else why there are none."""
    distinct = distinct_texts(pool)
    if not any(judgement.label is not None for judgement in distinct):
        return [], "no well-formed judgement"
    pairs, reason = rule(distinct, settings, rng)
    pairs = [(chosen, rejected) for chosen, rejected in pairs if chosen.text.strip() != rejected.text.strip()]
    return pairs, "" if pairs else (reason or "all judgements alike")


def curate(
    judgements: Iterable[Judgement],
    settings: CurateConfig,
    rule: Rule = by_label,
    *,
    criteria: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[list[Preference], list[dict[str, str]]]:
    """Make preference pairs: all that the rule allows of each input, and of those a selection (balance.py).

    Returns the pairs, and {"example_id", "task", "reason"} of each input that yields none. `criteria` is by input id.
    """
    candidates: list[Pair] = []
    dropped: dict[str, tuple[str, str]] = {}
    for example_id, pool in pools_of(judgements).items():
        rng = random.Random(f"{seed}:{example_id}")
        pairs, reason = pairs_of(pool, settings, rule, rng)
        candidates += rng.sample(pairs, len(pairs))  # a cap must not prefer the first samples
        if not pairs:
            dropped[example_id] = (pool[0].task, reason)
    selected = select(candidates, settings, criteria or {}, seed=seed)
    used = {chosen.example_id for chosen, _ in selected}
    reason = "left out for balance or by max_pairs" if settings.balance_labels else "over max_pairs"
    dropped |= {chosen.example_id: (chosen.task, reason) for chosen, _ in candidates if chosen.example_id not in used}
    preferences = [
        Preference(f"{chosen.id}>{rejected.id}", chosen.example_id, chosen.task, chosen, rejected)
        for chosen, rejected in selected
    ]
    return preferences, [
        {"example_id": name, "task": task, "reason": reason} for name, (task, reason) in dropped.items()
    ]


def run_curate(
    folder: Path,
    judgements: Sequence[Judgement],
    criteria: Mapping[str, str],
    settings: CurateConfig,
    rule: Rule = by_label,
    *,
    seed: int,
) -> dict[str, Any]:
    """Write what `curate` makes, preferences.jsonl and dropped.jsonl; returns counts for the done marker."""
    preferences, dropped = curate(judgements, settings, rule, criteria=criteria, seed=seed)
    write_jsonl(folder / "dropped.jsonl", dropped)
    write_jsonl(folder / "preferences.jsonl", [preference.to_json() for preference in preferences])
    reasons = Counter(row["reason"] for row in dropped)
    return {"pairs": len(preferences), "dropped": dict(reasons.most_common())}
