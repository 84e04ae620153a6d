"""What OpenAI's routes are sent. Unknown fields are ignored; what would change the answer and isn't offered is refused.

Clients send many fields with the value that changes nothing (null, [], 0, "text"): those are accepted.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Sampling
from recipe.judge.options import MAX_TOKENS
from recipe.judge.server.bodies import MOST_SAMPLES, Text, without_nulls

MOST_ALTERNATIVES = 20
MOST_PROMPTS = 64
MOST_STOPS = 16


def _nothing(value: Any) -> Any:
    if value:
        raise ValueError("not offered here; leave it out")
    return value


Nothing = Annotated[Any, AfterValidator(_nothing)]
"""What may only have a value that changes nothing."""


class Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    _without_nulls = model_validator(mode="before")(without_nulls)


class TextPart(Loose):
    type: Literal["text", "input_text"]
    text: Text


class ChatTurn(Loose):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] = ""

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(Loose):
    include_usage: bool = False


class CommonBody(Loose):
    """What chats and completions take."""

    model: Text
    max_tokens: int = Field(default=0, ge=0, description="512 if left out; cut to what the context leaves.")
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    presence_penalty: Nothing = 0
    frequency_penalty: Nothing = 0
    logit_bias: Nothing = None

    @property
    def reproducible(self) -> bool:
        """Whether the draws must be the same the next time: then they need the same request id."""
        return self.seed is not None and self.temperature != 0

    def sampling(self) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            temperature=self.temperature,
            n=self.n,
            max_tokens=self.max_tokens or MAX_TOKENS,
            seed=(secrets.randbits(31) if self.seed is None else self.seed) % 2**63,
            top_p=self.top_p,
            stop=tuple(text for text in stops if text),
            fit=True,
        )


class ChatBody(CommonBody):
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_completion_tokens: int = Field(default=0, ge=0)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    response_format: dict[str, Any] = {}
    tools: list[Any] = []
    tool_choice: str | dict[str, Any] = "auto"
    functions: Nothing = None
    audio: Nothing = None

    def sampling(self) -> Sampling:
        return replace(
            super().sampling(),
            max_tokens=self.max_completion_tokens or self.max_tokens or MAX_TOKENS,
            alternatives=self.top_logprobs if self.logprobs else None,
            schema=self._schema(),
        )

    def _schema(self) -> str:
        if self.tools and self.tool_choice != "none":
            raise SreError("the model calls no tools; ask for a json_schema, or set tool_choice to none", field="tools")
        form = self.response_format
        match form.get("type", "text"):
            case "text":
                return ""
            case "json_object":
                return '{"type": "object"}'
            case "json_schema" if isinstance(form.get("json_schema"), dict) and "schema" in form["json_schema"]:
                return json.dumps(form["json_schema"]["schema"])
        raise SreError("expected text, json_object, or json_schema with a schema", field="response_format")


class CompletionBody(CommonBody):
    prompt: Text | list[int] | list[Text | list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: Nothing = False
    suffix: Nothing = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The texts to go on from, or their token ids."""
        given: list[Any] = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if all(isinstance(one, int) for one in given):
            return [tuple(given)]
        if len(given) > MOST_PROMPTS:
            raise SreError(f"expected at most {MOST_PROMPTS} texts, not {len(given)}", field="prompt")
        return [tuple(one) if isinstance(one, list) else one for one in given]

    def sampling(self) -> Sampling:
        return replace(super().sampling(), max_tokens=self.max_tokens or 16, alternatives=self.logprobs)
