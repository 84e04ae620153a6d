"""Pairwise rows made of scored ones: two responses to one prompt under one rubric, the higher score wins. Pure."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from recipe.config import DataConfig
from recipe.data.records import Example
from recipe.data.split import in_turn

Pair = tuple[Example, Example]  # (better, worse)


def pairs_from_scores(rows: Sequence[Example], settings: DataConfig, *, seed: int) -> list[Example]:
    """Every two rows of one prompt and rubric whose scores differ, as a pairwise row without a rationale.

    Any beginning of the list has about equal numbers of both labels and of all prompts. Rows without a score and
    repeated responses are left out. `seed` draws which pairs are kept, their order, and the place of the better
    response. A pair's id is that of its first and second row, joined by "+".
    """
    pairs = list(_all_pairs(rows))
    random.Random(f"{seed}:pairs").shuffle(pairs)
    groups: tuple[dict[str, list[Pair]], ...] = (defaultdict(list), defaultdict(list))
    for better, worse in pairs:
        longer_wins = len(better.responses[0]) > len(worse.responses[0])
        groups[longer_wins][better.prompt_id].append((better, worse))
    kinds = [in_turn(by_prompt.values()) for by_prompt in groups]
    if settings.pairs_balance_length:
        kinds = [kind[: min(map(len, kinds))] for kind in kinds]
    # Each kind has the labels in turn, so neither the place nor the length of a response tells the better one.
    labelled = [[(pair, 1 + (k + offset) % 2) for k, pair in enumerate(kind)] for offset, kind in enumerate(kinds)]
    return [_pairwise(pair, label) for pair, label in in_turn(labelled)]


def _all_pairs(rows: Iterable[Example]) -> Iterable[Pair]:
    groups: dict[object, dict[str, Example]] = defaultdict(dict)
    for row in rows:
        if row.label is not None:
            rubric = (row.rubric.criteria, tuple(sorted(row.rubric.descriptions.items())))
            groups[row.conversation, rubric].setdefault(row.responses[0], row)
    for group in groups.values():
        for one, other in combinations(group.values(), 2):
            margin = (one.label or 0) - (other.label or 0)
            if margin:
                yield (one, other) if margin > 0 else (other, one)


def _pairwise(pair: Pair, label: int) -> Example:
    first, second = pair if label == 1 else pair[::-1]
    return replace(
        first,
        id=f"{first.id}+{second.id}",
        task="pairwise",
        responses=(first.responses[0], second.responses[0]),
        label=label,
        rationale="",
        reference=first.reference if first.reference == second.reference else "",
        origin=f"{first.origin}+{second.origin}",
    )
