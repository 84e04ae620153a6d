"""What the judge's routes are sent and answer. Bodies are strict: an unknown field is an error that names it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recipe.data.records import Example, Task
from recipe.data.rubrics import read_rubric
from recipe.data.values import to_text
from recipe.errors import SreError
from recipe.judge.aggregate import Answer, Tie, judgements_of
from recipe.judge.judge import to_example
from recipe.judge.options import MAX_TOKENS, JudgeOptions

MOST_SAMPLES = 32
_DISTRIBUTION = ("label", "expected_score", "confidence", "label_probabilities")
_WRITTEN = ("rationale", "text", "finish", "tokens")
_OF_SEVERAL = ("mean", "spread", "votes", "consistent", "preference")


def _clean(text: str) -> str:
    try:
        return to_text(text, "")
    except SreError as error:
        raise ValueError(str(error).removeprefix("field '': ")) from None


Text = Annotated[str, AfterValidator(_clean)]
"""Valid Unicode without NUL characters: JSON can spell both, and tokenizers can't take them."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        """Clients send null for what they leave open."""
        return {k: value for k, value in fields.items() if value is not None} if isinstance(fields, dict) else fields


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: Text


class RubricBody(Body):
    criteria: Text
    descriptions: dict[int, Text] = Field(default={}, description="What each score means; the scale is their keys.")


class Judging(Body):
    """What both routes take."""

    conversation: Text | list[Turn] = Field(description="One user turn as text, or all turns.")
    rubric: Text | RubricBody = Field(description="A ready rubric's name, a rubric as text, or its parts.")
    reference: Text = Field(default="", description="An answer that deserves the top score.")
    samples: int = Field(default=1, ge=1, le=MOST_SAMPLES, description="Two or more: the majority of so many.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0; 1 where there are samples.")
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_tokens: int = Field(default=MAX_TOKENS, ge=1, le=32_768)
    constrain: bool = Field(default=True, description="Always end with a label.")
    label_only: bool = Field(default=False, description="No rationale: faster, and less apt.")
    stream: bool = Field(default=False, description="Server-sent events: piece, piece, ..., result (or error).")

    @property
    def options(self) -> JudgeOptions:
        """Raises SreError for options that don't go together."""
        names = {"max_tokens", "temperature", "seed", "constrain", "label_only", "samples", "swap", "tie"}
        return JudgeOptions(**self.model_dump(include=names))

    def example(self, *responses: str) -> Example:
        """Raises SreError. A rubric is what it is in Python and on the command line, but no file is read."""
        turns = self.conversation if isinstance(self.conversation, str) else self.model_dump()["conversation"]
        rubric = self.rubric if isinstance(self.rubric, str) else self.rubric.model_dump()
        task: Task = "pointwise" if len(responses) == 1 else "pairwise"
        return to_example(turns, responses, read_rubric(rubric, task, files=False).rubric, self.reference)


class ScoreBody(Judging):
    response: Text


class CompareBody(Judging):
    response_a: Text
    response_b: Text
    swap: bool = Field(default=False, description="Judge both orders, and combine them.")
    tie: Tie = Field(default="probability", description="Which label the pair gets when its two orders disagree.")


def to_reply(answer: Answer, model: str) -> dict[str, Any]:
    """The answer as JSON, and under `judgements` what it was made of: one, all samples, or both orders.

    Of a swapped order, labels name the responses as that order saw them.
    """
    parts = judgements_of(answer)
    return {
        **{name: getattr(answer, name, None) for name in (*_DISTRIBUTION, *_OF_SEVERAL)},
        "rationale": answer.rationale,
        "model": model,
        "task": answer.task,
        "malformed": sum(part.label is None for part in parts),
        "judgements": [{name: getattr(part, name) for name in (*_DISTRIBUTION, *_WRITTEN)} for part in parts],
    }
