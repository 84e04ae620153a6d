"""Which candidate pairs are kept: balanced by label and by criterion, within the caps. Pure.

Pairs teach reasons only where neither a label nor a criterion says which side wins. So a pair (chosen 5, rejected 2) is
kept together with its mirror (chosen 2, rejected 5), of the same criterion as long as there is one; every label is
chosen about equally often; and criteria take turns.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from recipe.config import CurateConfig
from recipe.data.records import Judgement

Pair = tuple[Judgement, Judgement]
Labels = tuple[int, int]  # chosen and rejected

MALFORMED = -1  # in place of a label

# How often a label may be chosen, as a multiple of its even share: where pairs of some labels run short, a set of more
# pairs would drift towards the others.
MOST_OF_A_LABEL = 1.25
SMALL = 2  # so many more are no drift


def select(candidates: Sequence[Pair], settings: CurateConfig, criteria: Mapping[str, str], *, seed: int) -> list[Pair]:
    """Choose among all pairs that the curation method allows.

    Args:
        candidates: The pairs. Of one input's pairs the first ones are taken first.
        settings: Caps, and what is balanced.
        criteria: The criterion of each input, by its id; not known means one for all.
        seed: Draws which of equals comes first.

    Returns:
        The pairs kept, in their original order. Tasks take turns until `max_pairs` are reached.
    """
    limit = len(candidates) if settings.max_pairs is None else settings.max_pairs
    tasks: dict[str, list[int]] = defaultdict(list)
    for index, (chosen, _) in enumerate(candidates):
        tasks[chosen.task].append(index)
    turns = [iter(_Task(candidates, tasks[task], settings, criteria, seed).units(limit)) for task in sorted(tasks)]
    kept: list[int] = []
    while turns and len(kept) < limit:
        for units in list(turns):
            unit = next(units, [])
            if not unit or len(kept) + len(unit) > limit:
                turns.remove(units)
            kept += unit if units in turns else []
    return [candidates[index] for index in sorted(kept)]


class _Task:
    """One task's candidates, handed out in units: a pair with its mirror, or a pair that needs none."""

    def __init__(
        self,
        candidates: Sequence[Pair],
        indices: Sequence[int],
        settings: CurateConfig,
        criteria: Mapping[str, str],
        seed: int,
    ) -> None:
        self._balanced = settings.balance_labels
        self._cap = len(candidates) if settings.max_pairs_per_input is None else settings.max_pairs_per_input
        self._inputs = {index: candidates[index][0].example_id for index in indices}
        self._taken: Counter[str] = Counter()  # pairs of each input
        self._turns: Counter[str] = Counter()  # of each criterion
        self._chosen: Counter[int] = Counter()  # of each label
        # Of each kind of pair the waiting ones by criterion, the next one last.
        self._waiting: dict[Labels, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        rng = random.Random(f"{seed}:select")
        rank: Counter[str] = Counter()
        order: dict[int, tuple[int, float]] = {}
        for index in indices:
            chosen, rejected = candidates[index]
            labels = (_label(chosen), _label(rejected)) if self._balanced else (0, 0)
            name = self._inputs[index]
            self._waiting[labels][criteria.get(name, "") if settings.balance_criteria else ""].append(index)
            order[index] = (rank[name], rng.random())  # an input's first pair comes before any input's second
            rank[name] += 1
        for queues in self._waiting.values():
            for queue in queues.values():
                queue.sort(key=order.__getitem__, reverse=True)

    def units(self, limit: int) -> list[list[int]]:
        """Units of at most `limit` pairs in all. Next come the labels that were chosen least often."""
        kinds = list(self._kinds())
        found: list[tuple[tuple[Labels, ...], list[int]]] = []
        total = 0
        while kinds and total < limit:
            kind = min(kinds, key=lambda kind: sorted((self._chosen[chosen] for chosen, _ in kind), reverse=True))
            unit = self._take(kind)
            if not unit:
                kinds.remove(kind)
                continue
            self._chosen.update(chosen for chosen, _ in kind)
            found.append((kind, unit))
            total += len(unit)
        even = _longest_even([[chosen for chosen, _ in kind] for kind, _ in found]) if self._balanced else len(found)
        return [unit for _, unit in found[:even]]

    def _kinds(self) -> Iterator[tuple[Labels, ...]]:
        """Kinds of pairs that are taken together."""
        for chosen, rejected in sorted(self._waiting):
            if chosen == rejected or rejected == MALFORMED:
                yield ((chosen, rejected),)
            elif chosen < rejected and (rejected, chosen) in self._waiting:
                yield ((chosen, rejected), (rejected, chosen))

    def _take(self, kind: tuple[Labels, ...]) -> list[int]:
        """One pair of each labels in `kind`: of one criterion, else of any; [] where one of them has none left."""
        queues = [self._waiting[labels] for labels in kind]
        while criteria := self._next_criteria(queues):
            unit = [self._pop(queue[criterion]) for queue, criterion in zip(queues, criteria, strict=True)]
            taken = [index for index in unit if index is not None]
            if len(taken) == len(kind):
                self._turns.update(criteria)
                return taken
            for queue, criterion, index in zip(queues, criteria, unit, strict=True):
                if index is not None:  # its mirror is missing
                    queue[criterion].append(index)
                    self._taken[self._inputs[index]] -= 1
        return []

    def _next_criteria(self, queues: Sequence[Mapping[str, list[int]]]) -> list[str]:
        """The criterion to take a pair of from each queue: the one that had the fewest turns, shared if possible."""
        open_ = [[criterion for criterion, queue in queue_of.items() if queue] for queue_of in queues]
        if not all(open_):
            return []
        shared = set(open_[0]).intersection(*open_[1:])
        return [min(shared or names, key=lambda name: (self._turns[name], name)) for names in open_]

    def _pop(self, queue: list[int]) -> int | None:
        """The next pair of a queue whose input is below the cap; pairs above it are dropped for good."""
        while queue:
            index = queue.pop()
            if self._taken[self._inputs[index]] < self._cap:
                self._taken[self._inputs[index]] += 1
                return index
        return None


def _label(judgement: Judgement) -> int:
    return MALFORMED if judgement.label is None else judgement.label


def _longest_even(chosen: Sequence[Sequence[int]]) -> int:
    """How many of the units, from the first, choose no label much more often than its even share."""
    counts: Counter[int] = Counter()
    labels = {label for unit in chosen for label in unit}
    even = 0
    for number, unit in enumerate(chosen, start=1):
        counts.update(unit)
        if max(counts.values()) <= MOST_OF_A_LABEL * counts.total() / len(labels) + SMALL:
            even = number
    return even
