"""The rows that travel through the recipe. Standard library only; knows nothing of prompts, models or files.

A literal pointwise row, as `Example.to_json()` writes it:

    {"id": "pw-0001", "task": "pointwise", "prompt_id": "p17", "origin": "data/train/pointwise.jsonl:1",
     "conversation": [{"role": "user", "content": "Name two fruits."}], "responses": ["Apple and brick."],
     "rubric": {"criteria": "Are both items fruits?", "descriptions": {"1": "Neither.", ..., "5": "Both."}},
     "label": 3, "rationale": "Apple is a fruit, a brick is not.", "reference": ""}
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from recipe.data.naming import exchange_names, stated_winner, to_prompt_names

Task = Literal["pointwise", "pairwise"]
TASKS: tuple[Task, ...] = ("pointwise", "pairwise")


@dataclass(frozen=True)
class Record:
    """What is written as a row of a JSON Lines file."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Message:
    """One turn: role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Rubric:
    """Scoring criteria given at run time: any text, with or without a description for each score."""

    criteria: str
    descriptions: dict[int, str] = field(default_factory=dict)

    @property
    def scores(self) -> tuple[int, ...]:
        """The scale, ascending: the described scores, or 1..5 where none is described."""
        return tuple(sorted(self.descriptions)) or (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Example(Record):
    """One thing to judge: a conversation, one response (pointwise) or two (pairwise), a rubric.

    `label` is the ground truth: a score, 1/2 for the better response, or None. `prompt_id` is equal for rows of one
    prompt: splits and bootstraps go by it. `aspect` names the kind of rubric. `label_note` says why a row has a value
    and yet no label: "tie", or what is wrong with it.
    """

    id: str
    task: Task
    conversation: tuple[Message, ...]
    responses: tuple[str, ...]
    rubric: Rubric
    label: int | None = None
    rationale: str = ""
    reference: str = ""
    prompt_id: str = ""
    origin: str = ""
    aspect: str = ""
    label_note: str = ""

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels a judgement of this example may carry."""
        return self.rubric.scores if self.task == "pointwise" else (1, 2)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        rubric = row["rubric"]
        read = {
            "conversation": tuple(Message(**turn) for turn in row["conversation"]),
            "responses": tuple(row["responses"]),
            "rubric": Rubric(rubric["criteria"], {int(k): v for k, v in rubric["descriptions"].items()}),
        }
        return cls(**{**row, **read})


SWAPPED = ":swapped"
"""Ends the id of an example whose responses were exchanged."""


def exchanged(example: Example) -> Example:
    """The pair in the other order, with its label and the names in its rationale. Twice gives the pair back."""
    swapped = example.id.endswith(SWAPPED)
    return dataclasses.replace(
        example,
        id=example.id.removesuffix(SWAPPED) if swapped else example.id + SWAPPED,
        responses=example.responses[::-1],
        label=mirrored(example.label),
        rationale=exchange_names(example.rationale),
    )


def in_both_orders(examples: Iterable[Example]) -> list[Example]:
    """The examples, each pair followed by itself in the other order unless that is among them."""
    given = list(examples)
    ids = {example.id for example in given}
    found = []
    for example in given:
        found.append(example)
        if example.task == "pairwise" and (other := exchanged(example)).id not in ids:
            found.append(other)
    return found


def in_prompt_names(example: Example) -> Example:
    """The example, the rationale of a pair with the prompt's names of the responses."""
    if example.task == "pointwise":
        return example
    return dataclasses.replace(example, rationale=to_prompt_names(example.rationale))


def contradicts_itself(example: Example) -> bool:
    """Whether a pairwise rationale clearly prefers the response that the label does not."""
    pair = example.task == "pairwise" and example.label is not None
    return pair and stated_winner(example.rationale) == mirrored(example.label)


def mirrored(label: int | None) -> int | None:
    """A pairwise label as it reads when the responses are exchanged."""
    return None if label is None else 3 - label


class LabelDistribution:
    """The probability of each allowed label, and what follows from it."""

    @property
    def label_probabilities(self) -> dict[int, float]:
        """Label -> probability, by ascending label, summing to 1 over the allowed labels; {} where not recorded."""
        raise NotImplementedError

    @property
    def expected_score(self) -> float | None:
        """The mean label: for a pair, 1 + the probability that the second response is better. None: not recorded."""
        probabilities = self.label_probabilities
        return sum(label * p for label, p in probabilities.items()) if probabilities else None

    @property
    def confidence(self) -> float | None:
        """1 - entropy / log(number of labels): from 0 (all labels alike) to 1 (sure). None: not recorded."""
        shares = self.label_probabilities.values()
        if len(shares) < 2:
            return 1.0 if shares else None
        entropy = -sum(p * math.log(p) for p in shares if p > 0)
        return min(max(1 - entropy / math.log(len(shares)), 0.0), 1.0)


@dataclass(frozen=True)
class Judgement(Record, LabelDistribution):
    """What a model wrote about one example. `label` is None when the text is malformed.

    `label_logprobs` maps each allowed label to its log-probability (nats) at the label's place, or is empty.
    `origin` names the maker: the model that wrote it, e.g. "merged" or "iter-1".
    """

    id: str
    example_id: str
    task: Task
    text: str
    rationale: str
    label: int | None
    truth: int | None = None
    finish: str = "stop"
    tokens: int = 0
    label_logprobs: dict[int, float] = field(default_factory=dict)
    origin: str = ""

    @property
    def sample(self) -> int:
        """Its number among the samples of its example: the end of the id."""
        return int(self.id.rpartition(":")[2])

    @property
    def label_probabilities(self) -> dict[int, float]:
        """Label -> probability at the label's place, by ascending label, summing to 1; {} where not recorded."""
        most = max(self.label_logprobs.values(), default=-math.inf)
        if most == -math.inf:
            return {}
        weights = {label: math.exp(value - most) for label, value in self.label_logprobs.items()}
        total = sum(weights.values())
        return {label: weight / total for label, weight in sorted(weights.items())}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Judgement:
        """Reads files of earlier versions too, which had further fields."""
        known = {field.name: row[field.name] for field in dataclasses.fields(cls) if field.name in row}
        return cls(**{**known, "label_logprobs": {int(k): v for k, v in row["label_logprobs"].items()}})


@dataclass(frozen=True)
class Preference(Record):
    """A pair for DPO: two judgements of one example, the chosen better than the rejected."""

    id: str
    example_id: str
    task: Task
    chosen: Judgement
    rejected: Judgement
    origin: str = ""

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Preference:
        sides = {side: Judgement.from_json(row[side]) for side in ("chosen", "rejected")}
        return cls(**{**row, **sides})


def pools_of(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """The judgements by the id of their input."""
    pools: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        pools[judgement.example_id].append(judgement)
    return dict(pools)
