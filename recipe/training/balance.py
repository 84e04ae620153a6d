"""Which candidate pairs are kept: balanced by label and by criterion, within the caps. Pure.

Pairs teach reasons only if neither label nor criterion says which side wins. So a pair (chosen 5, rejected 2) is kept
with its mirror (chosen 2, rejected 5), of the same criterion as long as there is one. Every label is chosen about
equally often, and criteria take turns.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from recipe.config import CurateConfig
from recipe.data.records import Judgement

Pair = tuple[Judgement, Judgement]
Labels = tuple[int, int]  # chosen and rejected
Kind = tuple[Labels, ...]  # labels that are taken together: a pair and its mirror, or one that needs none

MALFORMED = -1  # in place of a label

# Where pairs of some labels run out, further pairs would make the other labels win. A label may be chosen so many times
# its even share, and so many times more.
MOST_OF_A_LABEL = 1.25
SMALL = 2


def select(candidates: Sequence[Pair], settings: CurateConfig, criteria: Mapping[str, str], *, seed: int) -> list[Pair]:
    """The pairs kept of all that the curation method allows, in their order; tasks take turns until `max_pairs`.

    Of one input's pairs the first come first. `criteria` is by input id; unknown ones count as one. `seed` decides
    between equals.
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
            else:
                kept += unit
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
        # The waiting pairs by labels and criterion, the next one last.
        self._waiting: dict[Labels, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        rng = random.Random(f"{seed}:select")
        rank: Counter[str] = Counter()
        order: dict[int, tuple[int, float]] = {}
        for index, name in self._inputs.items():
            order[index] = (rank[name], rng.random())  # an input's first pair comes before any input's second
            rank[name] += 1
        for index in sorted(order, key=order.__getitem__, reverse=True):
            labels = _labels(candidates[index]) if self._balanced else (0, 0)
            criterion = criteria.get(self._inputs[index], "") if settings.balance_criteria else ""
            self._waiting[labels][criterion].append(index)

    def units(self, limit: int) -> list[list[int]]:
        """Units of about `limit` pairs in all. Next come the labels that were chosen least often."""
        kinds = list(self._kinds())
        chosen: Counter[int] = Counter()
        found: list[tuple[Kind, list[int]]] = []
        total = 0
        while kinds and total < limit:
            kind = min(kinds, key=lambda kind: sorted((chosen[label] for label, _ in kind), reverse=True))
            unit = self._take(kind)
            if not unit:
                kinds.remove(kind)
                continue
            chosen.update(label for label, _ in kind)
            found.append((kind, unit))
            total += len(unit)
        even = _longest_even([kind for kind, _ in found]) if self._balanced else len(found)
        return [unit for _, unit in found[:even]]

    def _kinds(self) -> Iterator[Kind]:
        for chosen, rejected in sorted(self._waiting):
            if chosen == rejected or rejected == MALFORMED:
                yield ((chosen, rejected),)
            elif chosen < rejected and (rejected, chosen) in self._waiting:
                yield ((chosen, rejected), (rejected, chosen))

    def _take(self, kind: Kind) -> list[int]:
        """A pair of each labels in `kind`, of one criterion if possible; [] where one of them has none left."""
        queues = [self._waiting[labels] for labels in kind]
        while criteria := self._next_criteria(queues):
            chosen = [queue[criterion] for queue, criterion in zip(queues, criteria, strict=True)]
            unit: list[int] = []
            for queue in chosen:
                self._drop_capped(queue, unit)
                unit += queue[-1:]
            if len(unit) == len(kind):
                for queue in chosen:
                    queue.pop()
                self._taken.update(self._inputs[index] for index in unit)
                self._turns.update(criteria)
                return unit
        return []

    def _next_criteria(self, queues: Sequence[Mapping[str, list[int]]]) -> list[str]:
        """The criterion for each queue: the one with the fewest turns, a shared one if possible."""
        waiting = [[criterion for criterion, queue in queue_of.items() if queue] for queue_of in queues]
        shared = set(waiting[0]).intersection(*waiting[1:])
        order = [sorted(shared or names, key=lambda name: (self._turns[name], name)) for names in waiting]
        return [names[0] for names in order] if all(waiting) else []

    def _drop_capped(self, queue: list[int], beside: Sequence[int]) -> None:
        """Drop a queue's next pairs for good while their input is at its cap, with the pairs `beside` them counted."""
        taken = self._taken + Counter(self._inputs[index] for index in beside)
        while queue and taken[self._inputs[queue[-1]]] >= self._cap:
            queue.pop()


def _labels(pair: Pair) -> Labels:
    chosen, rejected = (MALFORMED if side.label is None else side.label for side in pair)
    return chosen, rejected


def _longest_even(kinds: Sequence[Kind]) -> int:
    """How many of the units, from the first, choose no label much more often than its even share."""
    counts: Counter[int] = Counter()
    labels = {label for kind in kinds for label, _ in kind}
    even = 0
    for number, kind in enumerate(kinds, start=1):
        counts.update(label for label, _ in kind)
        if max(counts.values()) <= MOST_OF_A_LABEL * counts.total() / len(labels) + SMALL:
            even = number
    return even
