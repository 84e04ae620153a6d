"""Pairwise rows made of scored ones: two responses to one prompt under one rubric, the higher score wins. Pure."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from recipe.config import DataConfig
from recipe.data.records import Example
from recipe.data.split import in_turn

Pair = tuple[Example, Example]
"""(better, worse)"""


def pairs_from_scores(rows: Sequence[Example], settings: DataConfig, *, seed: int) -> list[Example]:
    """Every two rows of one prompt and rubric whose scores differ, as a pairwise row without a rationale.

    Any beginning of the list has about equal numbers of both labels and of all prompts. Rows without a score and
    repeated responses are left out. `seed` draws which pairs are kept, their order, and the place of the better
    response. A pair's id is that of its first and second row, joined by "+".
    """
    pairs = list(_all_pairs(rows))
    random.Random(f"{seed}:pairs").shuffle(pairs)
    taken: Counter[str] = Counter()
    kinds: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in in_turn([in_turn(_by_prompt(pairs, longer).values()) for longer in (False, True)]):
        taken[pair[0].prompt_id] += 1
        if settings.pairs_per_prompt is None or taken[pair[0].prompt_id] <= settings.pairs_per_prompt:
            kinds[_longer_wins(pair)].append(pair)
    if settings.pairs_balance_length:
        kinds = (kinds[0][: len(kinds[1])], kinds[1][: len(kinds[0])])
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


def _longer_wins(pair: Pair) -> bool:
    better, worse = pair
    return len(better.responses[0]) > len(worse.responses[0])


def _by_prompt(pairs: Iterable[Pair], longer: bool) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if _longer_wins(pair) == longer:
            found[pair[0].prompt_id].append(pair)
    return found


def _pairwise(pair: Pair, label: int) -> Example:
    first, second = pair if label == 1 else pair[::-1]
    return Example(
        id=f"{first.id}+{second.id}",
        task="pairwise",
        conversation=first.conversation,
        responses=(first.responses[0], second.responses[0]),
        rubric=first.rubric,
        label=label,
        reference=first.reference if first.reference == second.reference else "",
        prompt_id=first.prompt_id,
        origin=f"{first.origin}+{second.origin}",
        aspect=first.aspect,
    )
