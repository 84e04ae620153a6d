"""Several judgements of one example -> one answer: N samples, or a pair in both orders. Pure."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from recipe.data.records import Judgement, LabelDistribution, Task, mirrored

Tie = Literal["probability", "first", "tie"]
TIES: tuple[Tie, ...] = get_args(Tie)


@dataclass(frozen=True)
class Consensus(LabelDistribution):
    """N samples of one example (self-consistency).

    label: the majority's; of labels with equally many votes, the one with the higher mean probability, then the lower
    one; None if every sample is malformed. mean, spread: average and (population) standard deviation of the labels
    given, None without any. votes: label -> samples that gave it. malformed: samples without a label. judgement: of
    the samples that gave the label, the one that gave it the highest probability: its rationale goes with the label.
    """

    example_id: str
    task: Task
    label: int | None
    mean: float | None
    spread: float | None
    votes: dict[int, int]
    malformed: int
    judgement: Judgement | None
    samples: tuple[Judgement, ...]

    @property
    def label_probabilities(self) -> dict[int, float]:
        """The mean of the samples' label distributions, over those that have one; {} where none has."""
        return _average([sample.label_probabilities for sample in self.samples])

    @property
    def rationale(self) -> str:
        return self.judgement.rationale if self.judgement else ""


def consensus(judgements: Sequence[Judgement]) -> Consensus:
    """Combine the samples of one example. Raises ValueError for none, and for those of several examples."""
    if len({(j.example_id, j.task) for j in judgements}) != 1:
        raise ValueError("expected the judgements of one example")
    labels = [j.label for j in judgements if j.label is not None]
    votes = dict(sorted(Counter(labels).items()))
    shares = _average([j.label_probabilities for j in judgements])
    label = max(votes, key=lambda k: (votes[k], shares.get(k, 0.0), -k), default=None)
    carriers = [j for j in judgements if label is not None and j.label == label]
    return Consensus(
        example_id=judgements[0].example_id,
        task=judgements[0].task,
        label=label,
        mean=statistics.fmean(labels) if labels else None,
        spread=statistics.pstdev(labels) if labels else None,
        votes=votes,
        malformed=len(judgements) - len(labels),
        # max keeps the first of equals
        judgement=max(carriers, key=lambda j: j.label_probabilities.get(j.label or 0, 0.0), default=None),
        samples=tuple(judgements),
    )


@dataclass(frozen=True)
class BothOrders(LabelDistribution):
    """A pair judged in both orders. Labels are in the example's own order: 1 is its first response, 2 its second.

    label: the better response by both orders, else by the tie rule; None if an order is malformed. consistent: whether
    both orders name the same response; None if one is malformed. preference: the probability, averaged over both
    orders, that the second response is better; None where an order has none. first, swapped: the judgements as they
    were written; `swapped` saw the second response first, and names it 1.
    """

    example_id: str
    label: int | None
    consistent: bool | None
    preference: float | None
    first: Judgement
    swapped: Judgement
    task: Task = "pairwise"

    @property
    def swapped_label(self) -> int | None:
        return mirrored(self.swapped.label)

    @property
    def judgement(self) -> Judgement:
        """Whose rationale goes with the label: the first order's, unless only the swapped one gave that label."""
        only_swapped = self.label is not None and self.first.label != self.label
        return self.swapped if only_swapped else self.first

    @property
    def rationale(self) -> str:
        return self.judgement.rationale

    @property
    def label_probabilities(self) -> dict[int, float]:
        """{1: 1 - preference, 2: preference}; {} where not recorded."""
        return {} if self.preference is None else {1: 1 - self.preference, 2: self.preference}


def both_orders(first: Judgement, swapped: Judgement, tie: Tie = "probability") -> BothOrders:
    """Combine both orders of one pair; `tie` says which label it gets where they disagree."""
    shares = [first.label_probabilities.get(2), swapped.label_probabilities.get(1)]
    known = [share for share in shares if share is not None]
    preference = statistics.fmean(known) if len(known) == 2 else None
    consistent = None if None in (first.label, swapped.label) else first.label == mirrored(swapped.label)
    label = first.label if consistent or (consistent is False and tie == "first") else None
    if consistent is False and tie == "probability" and preference is not None and preference != 0.5:
        label = 2 if preference > 0.5 else 1
    return BothOrders(first.example_id, label, consistent, preference, first, swapped)


Answer = Judgement | Consensus | BothOrders


def combined(judgements: Sequence[Judgement], tie: Tie = "probability") -> Answer:
    """One judgement as it is; two orders of a pair, the example's own first, as BothOrders; samples as a Consensus."""
    if len(judgements) == 1:
        return judgements[0]
    if judgements[0].example_id != judgements[1].example_id:
        return both_orders(judgements[0], judgements[1], tie)
    return consensus(judgements)


def judgements_of(answer: Answer) -> tuple[Judgement, ...]:
    """What an answer was made of: itself, its samples, or both orders."""
    if isinstance(answer, Judgement):
        return (answer,)
    return answer.samples if isinstance(answer, Consensus) else (answer.first, answer.swapped)


def _average(distributions: Sequence[dict[int, float]]) -> dict[int, float]:
    known = [distribution for distribution in distributions if distribution]
    labels = sorted({label for distribution in known for label in distribution})
    return {label: statistics.fmean([d.get(label, 0.0) for d in known]) for label in labels}
