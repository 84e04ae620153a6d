"""The model behind the judge as OpenAI's chat API: the same engine, the same queue, without the judge's prompts.

Unknown fields of a request are ignored; what would change the answer and isn't offered is refused. Clients send many
fields with the value that changes nothing (null, [], 0, "text"): those are accepted.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Piece, Request, Sampling
from recipe.judge.options import MAX_TOKENS
from recipe.judge.server.bodies import MOST_SAMPLES, Text, without_nulls
from recipe.judge.server.errors import Problem
from recipe.judge.server.waiting import Streamed, event, whole
from recipe.judge.service import OnPiece
from recipe.storage import hash_object

MOST_ALTERNATIVES = 20
MOST_STOPS = 16
router = APIRouter()


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


class ChatBody(Loose):
    model: Text
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_tokens: int = Field(default=0, ge=0, description="512 if left out; cut to what the context leaves.")
    max_completion_tokens: int = Field(default=0, ge=0, description="The newer name of max_tokens.")
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    response_format: dict[str, Any] = {}
    tools: list[Any] = []
    tool_choice: str | dict[str, Any] = "auto"
    presence_penalty: Nothing = 0
    frequency_penalty: Nothing = 0
    logit_bias: Nothing = None
    functions: Nothing = None
    audio: Nothing = None

    def request(self) -> Request:
        """Its id is the same for the same content where a seed must give the same draws again."""
        messages = tuple(turn.message() for turn in self.messages)
        name = secrets.token_hex(12)
        if self.seed is not None and self.temperature != 0:
            name = hash_object([[message.role, message.content] for message in messages])[:16]
        return Request(f"chat-{name}", messages)

    def sampling(self) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            temperature=self.temperature,
            n=self.n,
            max_tokens=self.max_completion_tokens or self.max_tokens or MAX_TOKENS,
            seed=(secrets.randbits(31) if self.seed is None else self.seed) % 2**63,
            top_p=self.top_p,
            stop=tuple(text for text in stops if text),
            alternatives=self.top_logprobs if self.logprobs else None,
            schema=self._schema(),
            fit=True,
        )

    def _schema(self) -> str:
        if self.tools and self.tool_choice != "none":
            raise SreError("the model calls no tools; ask for a json_schema, or set tool_choice to none", field="tools")
        match self.response_format:
            case {"type": "json_object"}:
                return '{"type": "object"}'
            case {"type": "json_schema", "json_schema": {"schema": schema}}:
                return json.dumps(schema)
        if self.response_format.get("type", "text") == "text":
            return ""
        raise SreError("expected text, json_object, or json_schema with a schema", field="response_format")


@router.get("/v1/models")
async def models(http: HttpRequest) -> dict[str, Any]:
    """The one model that answers here."""
    return {"object": "list", "data": [await model(http.app.state.service.owner.name, http)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, http: HttpRequest) -> dict[str, Any]:
    """The model of that name."""
    served = http.app.state.service.owner.name
    if name != served:
        raise Problem(404, "model_not_found", f"expected {served!r}, the model served here", "model")
    return {"id": served, "object": "model", "created": http.app.state.begin, "owned_by": "sre"}


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, http: HttpRequest) -> Any:
    """Chat with the model as it stands; temperature 1 and at most 512 new tokens unless asked otherwise."""
    await model(body.model, http)
    request, sampling = body.request(), body.sampling()
    timeout = http.app.state.timeout

    def submit(on_piece: OnPiece | None = None) -> Any:
        return http.app.state.service.submit([request], sampling, on_piece=on_piece)

    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model,
    }
    if body.stream:
        return _streamed(submit, timeout, body, head)
    done = await whole(http, submit(), timeout)
    choices = [{**_finish(one), "message": {"role": "assistant", "content": one.text}} for one in done]
    return {**head, "choices": choices, "usage": _usage(done)}


def _streamed(submit: Any, timeout: float, body: ChatBody, head: Mapping[str, Any]) -> Streamed:
    # With usage asked for, every other chunk has it as null.
    usage: dict[str, Any] = {"usage": None} if body.stream_options.include_usage else {}

    def chunk(delta: Mapping[str, str], **more: Any) -> str:
        choice = {"delta": delta, "logprobs": None, "finish_reason": None, **more}
        return event({**head, "choices": [choice], **usage})

    def piece(written: Piece) -> str:
        return chunk({"content": written.text}, index=written.sample)

    def end(done: Sequence[Completion]) -> Iterator[str]:
        for one in done:
            yield chunk({}, **_finish(one))
        if usage:
            yield event({**head, "choices": [], "usage": _usage(done)})
        yield event("[DONE]")

    begin = [chunk({"role": "assistant", "content": ""}, index=index) for index in range(body.n)]
    return Streamed(submit, timeout, begin=begin, piece=piece, end=end)


def _finish(done: Completion) -> dict[str, Any]:
    tokens = [
        {**_token(one.piece, one.logprob), "top_logprobs": [_token(piece, value) for piece, value in one.top]}
        for one in done.tokens
    ]
    logprobs = {"content": tokens, "refusal": None} if tokens else None
    finish = "length" if done.finish == "length" else "stop"
    return {"index": done.sample, "logprobs": logprobs, "finish_reason": finish}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; OpenAI's API gives -9999 for what is all but impossible.
    return {"token": piece.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(piece)}


def _usage(completions: Sequence[Completion]) -> dict[str, int]:
    """The prompt counts once, however many choices it has."""
    prompt, new = completions[0].prompt_tokens, sum(len(completion.token_ids) for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
