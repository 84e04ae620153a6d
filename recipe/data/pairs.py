"""Pairwise rows made of scored ones: two responses to one prompt under one rubric, the higher score wins. Pure.

Two rows with the scores 4 and 2 and the rationales "The response is short but right." and "The response is wrong."
become one pairwise row, label 1, whose rationale may be composed of the two:

    "Response 1 is short but right. Response 2 is wrong. Overall, Response 1 is better."
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from recipe.config import DataConfig
from recipe.data.naming import stated_winner
from recipe.data.records import Example
from recipe.data.split import in_turn

Pair = tuple[Example, Example]
"""(better, worse)"""

_SIDE_CHARS = 500  # of each pointwise rationale, in whole sentences: a judge learns to write about as much
_SENTENCE_END = re.compile(r"(?<=[^\d\s][.!?])\s+(?=[A-Z\"'`])")
# Sentences that make no sense in a comparison: scores on the pointwise scale, and responses that aren't shown.
_OUT_OF_PLACE = re.compile(
    r"\b(?:scor(?:e|es|ed|ing)|rating|rated?\s+(?:it|this|the)|out of (?:5|five)|both (?:answers|responses|assistants)"
    r"|(?:other|first|second|previous) (?:answer|response|assistant))\b|\b[1-5]\s*/\s*5\b|\[RESULT\]",
    re.IGNORECASE,
)
_THE_RESPONSE = re.compile(
    r"^It\b|\b(?:(?:the|this|that)\s+(?:(?:given|provided|model['’]s|assistant['’]s|AI['’]s)\s+)?(?:response|assistant)"
    r"|the (?:model|assistant)['’]s (?:answer|output|reply))\b(?!\s+(?:to|of|from|that|time|body)\b)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\b(?:response|answer|assistant)\s+(?:[12AB])\b", re.IGNORECASE)
_CONCLUSIONS = (
    "Overall, Response {} is better.",
    "Response {} is the better response.",
    "Therefore, Response {} is better.",
    "By these criteria, Response {} is better.",
    "Taken together, Response {} is the better response.",
)


def pairs_from_scores(rows: Sequence[Example], settings: DataConfig, *, seed: int) -> list[Example]:
    """Every two rows of one prompt and rubric whose scores differ, as a pairwise row; as many as the settings keep.

    `seed` draws which pairs are kept, their order and the place of the better response. In any beginning of the list
    half of the pairs have label 1, and prompts take turns. Rows without a score and repeated responses are left out.
    A pair's id is that of its first and second row, joined by "+". Its rationale is empty unless the settings ask for
    rationales and both rows have one.
    """
    if settings.pairs_from_scores == "off":
        return []
    limit, rationales = settings.pairs_per_prompt, settings.pairs_from_scores == "rationales"
    draw = random.Random(f"{seed}:pairs")
    pairs = list(_all_pairs(rows))
    draw.shuffle(pairs)
    taken: Counter[str] = Counter()
    kinds: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in in_turn([in_turn(_by_prompt(pairs, longer).values()) for longer in (False, True)]):
        taken[pair[0].prompt_id] += 1
        if limit is None or taken[pair[0].prompt_id] <= limit:
            kinds[_longer_wins(pair)].append(pair)
    if settings.pairs_balance_length:
        kinds = (kinds[0][: len(kinds[1])], kinds[1][: len(kinds[0])])
    # Each kind has the labels in turn, so neither the place nor the length of a response tells the better one.
    labelled = [[(pair, 1 + (k + offset) % 2) for k, pair in enumerate(kind)] for offset, kind in enumerate(kinds)]
    return [
        _pairwise(pair, label, draw.choice(_CONCLUSIONS) if rationales else "") for pair, label in in_turn(labelled)
    ]


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


def _pairwise(pair: Pair, label: int, conclusion: str) -> Example:
    better, worse = pair
    first, second = (better, worse) if label == 1 else (worse, better)
    parts = [_about(number, row.rationale) for number, row in ((1, first), (2, second))]
    rationale = " ".join([*parts, conclusion.format(label)]) if conclusion and all(parts) else ""
    return Example(
        id=f"{first.id}+{second.id}",
        task="pairwise",
        conversation=first.conversation,
        responses=(first.responses[0], second.responses[0]),
        rubric=first.rubric,
        label=label,
        rationale=rationale if stated_winner(rationale) == label else "",
        reference=first.reference if first.reference == second.reference else "",
        prompt_id=first.prompt_id,
        origin=f"{first.origin}+{second.origin}",
        aspect=first.aspect,
    )


def _about(number: int, rationale: str) -> str:
    """A pointwise rationale as a comparison can quote it: whole sentences that name the response by its number."""
    if _NUMBERED.search(rationale):
        return ""  # it speaks of a pair already
    text = ""
    for sentence in _SENTENCE_END.split(rationale.strip()):
        if text and len(text) + len(sentence) > _SIDE_CHARS:
            break
        if not _OUT_OF_PLACE.search(sentence):
            text = f"{text} {sentence}".strip()
    if not text:
        return ""
    text = _THE_RESPONSE.sub(f"Response {number}", text)
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    return text if f"Response {number}" in text else f"Response {number}: {text}"
