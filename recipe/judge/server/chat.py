"""The model behind the judge as OpenAI's API: the same engine, the same queue, without the judge's prompts.

`POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models` and `GET /v1/models/{name}`.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import Request as HttpRequest

from recipe.inference.base import Completion, Request, Sampling, Token
from recipe.judge.server.chat_bodies import ChatBody, CommonBody, CompletionBody
from recipe.judge.server.errors import Problem
from recipe.judge.server.waiting import Stream, event, events, whole
from recipe.judge.service import OnPiece, Service
from recipe.storage import hash_object


@dataclass(frozen=True)
class Shape:
    """How an answer is written, as a chat's or as plain text. places: request id -> the index of its first choice."""

    chat: bool
    head: Mapping[str, Any]
    places: Mapping[str, int]

    def choice(self, done: Completion, text: str | None = None, name: str = "message") -> dict[str, Any]:
        """An answer; `text` in place of its own."""
        told = (_chat_logprobs if self.chat else _text_logprobs)(done.tokens) if done.tokens else None
        finish = "length" if done.finish == "length" else "stop"
        index = self.places[done.request_id] + done.sample
        return self.part(index, done.text if text is None else text, name, "assistant", told, finish)

    def part(
        self, index: int, text: str, name: str = "delta", role: str = "", told: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        """A choice, or what comes next in one."""
        content = {name: {"content": text, **({"role": role} if role else {})}} if self.chat else {"text": text}
        return {"index": index, **content, "logprobs": told, "finish_reason": finish}


class ChatRoutes:
    """Routes on the service's engine."""

    def __init__(self, service: Service, timeout: float) -> None:
        self._service, self._timeout = service, timeout
        self._model = service.owner.name
        self._begin = int(time.time())
        self._numbers = itertools.count()

    async def models(self) -> dict[str, Any]:
        """The one model that answers here."""
        return {"object": "list", "data": [await self.model(self._model)]}

    async def model(self, name: str) -> Any:
        """The model of that name."""
        if name != self._model:
            return self._unknown().response()
        return {"id": self._model, "object": "model", "created": self._begin, "owned_by": "sre"}

    async def chat(self, body: ChatBody, http: HttpRequest) -> Any:
        """Chat with the model as it stands; temperature 1 and at most 512 new tokens unless asked otherwise."""
        messages = tuple(turn.message() for turn in body.messages)
        content = [[message.role, message.content] for message in messages]
        request = Request(self._name(body, content), messages)
        return await self._answer(body, [request], http, body.sampling())

    async def complete(self, body: CompletionBody, http: HttpRequest) -> Any:
        """Let the model go on from a text, or from each of several, without its chat template."""
        name = self._name(body, body.prompts)
        requests = [Request(f"{name}-{number}", (), prompt=text) for number, text in enumerate(body.prompts)]
        return await self._answer(body, requests, http, body.sampling())

    async def _answer(
        self, body: CommonBody, requests: Sequence[Request], http: HttpRequest, sampling: Sampling
    ) -> Any:
        if body.model != self._model:
            return self._unknown().response()

        def submit(on_piece: OnPiece | None = None) -> Future[list[Completion]]:
            return self._service.submit(requests, sampling, on_piece=on_piece)

        chat = isinstance(body, ChatBody)
        name = "chat.completion" + ".chunk" * body.stream if chat else "text_completion"
        head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "object": name}
        places = {request.id: number * sampling.n for number, request in enumerate(requests)}
        shape = Shape(chat, {**head, "created": int(time.time()), "model": self._model}, places)
        if body.stream:
            choices = len(requests) * sampling.n
            return events(
                _chunks(Stream(http.scope, submit, self._timeout), shape, choices, body.stream_options.include_usage)
            )
        done = await whole(http.scope, submit(), self._timeout)
        return {**shape.head, "choices": [shape.choice(one) for one in done], "usage": _usage(done)}

    def _name(self, body: CommonBody, content: object) -> str:
        """The request's id: the same for the same content where a seed must give the same draws again."""
        if body.reproducible:
            return f"chat-{hash_object(content)[:16]}"
        return f"chat-{next(self._numbers)}"

    def _unknown(self) -> Problem:
        return Problem(404, "model_not_found", f"expected {self._model!r}, the model served here", "model")


def _chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    told = [
        {**_told(one.piece, one.logprob), "top_logprobs": [_told(piece, value) for piece, value in one.top]}
        for one in tokens
    ]
    return {"content": told, "refusal": None}


def _told(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _shown(piece), "logprob": _finite(logprob), "bytes": list(piece)}


def _text_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    pieces = [_shown(one.piece) for one in tokens]
    return {
        "tokens": pieces,
        "token_logprobs": [_finite(one.logprob) for one in tokens],
        "top_logprobs": [{_shown(piece): _finite(value) for piece, value in one.top} for one in tokens],
        "text_offset": list(itertools.accumulate(map(len, pieces[:-1]), initial=0)),
    }


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI's API gives this number for what is all but impossible."""
    return max(logprob, -9999.0)


def _usage(completions: Sequence[Completion]) -> dict[str, int]:
    """A prompt counts once, however many choices it has."""
    prompt = sum({completion.request_id: completion.prompt_tokens for completion in completions}.values())
    new = sum(len(completion.token_ids) for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def _chunks(stream: Stream, shape: Shape, choices: int, usage: bool) -> AsyncIterator[str]:
    # With usage asked for, every other chunk has it as null.
    extra: dict[str, Any] = {"usage": None} if usage else {}

    def chunk(choice: dict[str, Any]) -> str:
        return event({**shape.head, "choices": [choice], **extra})

    for index in range(choices):
        yield chunk(shape.part(index, "", role="assistant"))
    async for piece in stream.pieces():
        yield chunk(shape.part(shape.places[piece.request_id] + piece.sample, piece.text))
    completions = stream.result()
    for completion in completions:
        yield chunk(shape.choice(completion, "", "delta"))
    if usage:
        yield event({**shape.head, "choices": [], "usage": _usage(completions)})
    yield event("[DONE]")
