"""The rows that travel through the recipe. Stdlib only; knows nothing of prompts, models or files.

A literal pointwise row, as `Example.to_json()` writes it:

    {"id": "pw-0001", "task": "pointwise", "prompt_id": "p17", "origin": "data/train/pointwise.jsonl:1",
     "conversation": [{"role": "user", "content": "Name two fruits."}], "responses": ["Apple and brick."],
     "rubric": {"criteria": "Are both items fruits?", "descriptions": {"1": "Neither.", ..., "5": "Both."}},
     "label": 3, "rationale": "Apple is a fruit, a brick is not.", "reference": ""}
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["pointwise", "pairwise"]
TASKS: tuple[Task, ...] = ("pointwise", "pairwise")


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
class Example:
    """One thing to judge: a conversation, one response (pointwise) or two (pairwise), a rubric.

    `label` is the ground truth (a score, or 1/2 for the better response) and None where there is none.
    `prompt_id` is equal for rows of one prompt: splits and bootstraps go by it. `aspect` names the kind of rubric.
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

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels a judgement of this example may carry."""
        return self.rubric.scores if self.task == "pointwise" else (1, 2)

    def to_json(self) -> dict[str, Any]:
        row = dataclasses.asdict(self)
        row["rubric"]["descriptions"] = {str(k): v for k, v in self.rubric.descriptions.items()}
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        rubric = row["rubric"]
        return cls(
            **{
                **row,
                "conversation": tuple(Message(**m) for m in row["conversation"]),
                "responses": tuple(row["responses"]),
                "rubric": Rubric(rubric["criteria"], {int(k): v for k, v in rubric["descriptions"].items()}),
            }
        )


@dataclass(frozen=True)
class Judgement:
    """What a model wrote about one example. `label` is None when the text is malformed.

    `label_logprobs` maps each allowed label to its log-probability (nats) at the label's place, or is empty.
    `logprob` is the sum of the drawn tokens' log-probabilities (nats, raw softmax), None where not recorded.
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
    logprob: float | None = None
    token_ids: tuple[int, ...] = ()
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        row = dataclasses.asdict(self)
        row["label_logprobs"] = {str(k): v for k, v in self.label_logprobs.items()}
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Judgement:
        logprobs = {int(k): v for k, v in row["label_logprobs"].items()}
        return cls(**{**row, "label_logprobs": logprobs, "token_ids": tuple(row["token_ids"])})


@dataclass(frozen=True)
class Preference:
    """A pair for DPO: two judgements of one example, the chosen better than the rejected (SPEC: curation)."""

    id: str
    example_id: str
    task: Task
    chosen: Judgement
    rejected: Judgement
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "example_id": self.example_id,
            "task": self.task,
            "chosen": self.chosen.to_json(),
            "rejected": self.rejected.to_json(),
            "origin": self.origin,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Preference:
        sides = {side: Judgement.from_json(row[side]) for side in ("chosen", "rejected")}
        return cls(**{**row, **sides})


@dataclass(frozen=True)
class Dropped:
    """An input that yielded no pair, and why (one of the reasons in stages/curate.py)."""

    example_id: str
    task: Task
    reason: str
    detail: str = ""
