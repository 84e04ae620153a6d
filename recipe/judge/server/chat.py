"""The model behind the judge as OpenAI's chat API: the same engine, the same queue, without the judge's prompts."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from fastapi import Request as HttpRequest
from pydantic import Field

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.judge.options import MAX_TOKENS
from recipe.judge.server.bodies import MOST_SAMPLES, Body, Text
from recipe.judge.server.errors import Problem
from recipe.judge.server.waiting import Stream, event, events, whole
from recipe.judge.service import OnPiece, Service
from recipe.storage import hash_object


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ChatTurn(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Text | None = None

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatBody(Body):
    """What would change the answer and isn't offered may only have the value that changes nothing."""

    model: Text
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=32_768)
    temperature: float | None = Field(default=None, ge=0, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_p: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    stop: None = None
    user: Text | None = None

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            n=self.n or 1,
            max_tokens=self.max_completion_tokens or self.max_tokens or MAX_TOKENS,
            seed=(secrets.randbits(31) if self.seed is None else self.seed) % 2**63,
        )

    @property
    def reproducible(self) -> bool:
        """Whether the draws must be the same the next time: then they need the same request id."""
        return self.seed is not None and self.temperature != 0


class ChatRoutes:
    """`POST /v1/chat/completions` and `GET /v1/models`."""

    def __init__(self, service: Service, timeout: float) -> None:
        self._service, self._timeout = service, timeout
        self._model = service.owner.name
        self._begin = int(time.time())
        self._numbers = itertools.count()

    async def models(self) -> dict[str, Any]:
        """The one model that answers here."""
        entry = {"id": self._model, "object": "model", "created": self._begin, "owned_by": "sre"}
        return {"object": "list", "data": [entry]}

    async def complete(self, body: ChatBody, http: HttpRequest) -> Any:
        """Chat with the model as it stands; temperature 1 and at most 512 new tokens unless asked otherwise."""
        if body.model != self._model:
            return Problem(
                404, "model_not_found", f"expected {self._model!r}, the model served here", "model"
            ).response()
        messages = tuple(turn.message() for turn in body.messages)
        request, sampling = Request(self._name(body, messages), messages), body.sampling()

        def submit(on_piece: OnPiece | None = None) -> Future[list[Completion]]:
            return self._service.submit([request], sampling, on_piece=on_piece)

        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self._model}
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return events(_chunks(Stream(http.scope, submit, self._timeout), head, sampling.n, usage))
        completions = await whole(http.scope, submit(), self._timeout)
        return {**head, "object": "chat.completion", "choices": _choices(completions), "usage": _usage(completions)}

    def _name(self, body: ChatBody, messages: Sequence[Message]) -> str:
        if body.reproducible:
            return f"chat-{hash_object([[m.role, m.content] for m in messages])[:16]}"
        return f"chat-{next(self._numbers)}"


def _choices(completions: Sequence[Completion]) -> list[dict[str, Any]]:
    return [
        {
            "index": completion.sample,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": None,
            "finish_reason": _finish(completion),
        }
        for completion in completions
    ]


def _finish(completion: Completion) -> str:
    return "length" if completion.finish == "length" else "stop"


def _usage(completions: Sequence[Completion]) -> dict[str, int]:
    """The prompt counts once, however many choices it has."""
    prompt, new = completions[0].prompt_tokens, sum(len(completion.token_ids) for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def _chunks(stream: Stream, head: dict[str, Any], choices: int, usage: bool) -> AsyncIterator[str]:
    head = {**head, "object": "chat.completion.chunk"}
    # With usage asked for, every other chunk has it as null.
    extra: dict[str, Any] = {"usage": None} if usage else {}

    def chunk(index: int, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **extra})

    for index in range(choices):
        yield chunk(index, {"role": "assistant", "content": ""})
    async for piece in stream.pieces():
        yield chunk(piece.sample, {"content": piece.text})
    completions = stream.result()
    if not completions:
        raise SreError("the engine gave no answer")
    for completion in completions:
        yield chunk(completion.sample, {}, _finish(completion))
    if usage:
        yield event({**head, "choices": [], "usage": _usage(completions)})
    yield event("[DONE]")
