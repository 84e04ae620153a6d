"""The model behind the judge as OpenAI's API: the same engine, the same queue, without the judge's prompts.

Unknown fields of a request are ignored; what would change the answer and isn't offered is refused. Clients send many
fields with the value that changes nothing (null, [], 0, "text"): those are accepted.
"""

import itertools
import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import AfterValidator, AliasChoices, ConfigDict, Field

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Piece, Request, Sampling, Token
from recipe.judge.options import MAX_TOKENS
from recipe.judge.server.bodies import MOST_SAMPLES, Body, Text
from recipe.judge.server.errors import Problem
from recipe.judge.server.waiting import Streamed, event, whole
from recipe.storage import hash_object

MOST_ALTERNATIVES = 20
MOST_PROMPTS = 64
MOST_STOPS = 16
OTHER_FORMS = ("guided_json", "guided_choice", "guided_regex", "guided_grammar", "structured_outputs", "format")
_OPEN = {"logprobs": None, "finish_reason": None}  # of a choice that goes on
router = APIRouter()


def _nothing(value: Any) -> Any:
    if value:
        raise ValueError("not offered here; leave it out")
    return value


Nothing = Annotated[Any, AfterValidator(_nothing)]  # what may only have a value that changes nothing


class Loose(Body):
    model_config = ConfigDict(extra="ignore")


class TextPart(Loose):
    type: Literal["text", "input_text"]
    text: Text


class ChatTurn(Loose):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] = ""

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class Function(Loose):
    name: Text
    parameters: dict[str, Any] = Field(default={})


class Tool(Loose):
    type: Literal["function"] = "function"
    function: Function


class StreamOptions(Loose):
    include_usage: bool = False


class CommonBody(Loose):
    model: Text
    max_tokens: int = Field(default=0, ge=0, description="512 (chat) or 16; cut to what the context leaves.")
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] = Field(default=[])
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    presence_penalty: Nothing = 0
    frequency_penalty: Nothing = 0
    logit_bias: Nothing = None
    repetition_penalty: float = Field(default=1, ge=1, le=1, description="Other servers'; not offered here.")
    # What holds an answer to a form on other servers; here `response_format` does.
    grammar: Nothing = Field(default=None, validation_alias=AliasChoices("grammar", *OTHER_FORMS))

    def name(self, content: object) -> str:
        """A request's id: the same for the same content where a seed must give the same draws again."""
        reproducible = self.seed is not None and self.temperature != 0
        return f"chat-{hash_object(content)[:16] if reproducible else secrets.token_hex(12)}"

    def sampling(self) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            temperature=self.temperature,
            n=self.n,
            seed=(secrets.randbits(31) if self.seed is None else self.seed) % 2**63,
            top_p=self.top_p,
            stop=tuple(text for text in stops if text),
            fit=True,
        )


class ChatBody(CommonBody):
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_completion_tokens: int = Field(default=0, ge=0, description="The newer name of max_tokens.")
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    response_format: dict[str, Any] = Field(default={})
    tools: list[Tool] = Field(default=[], description="With one that must be called, its arguments are the answer.")
    tool_choice: Literal["none", "auto", "required"] | Tool = "auto"
    functions: Nothing = None
    audio: Nothing = None

    @property
    def called(self) -> Function | None:
        """The function that must be called. Raises SreError where the model would have to choose."""
        if not self.tools or self.tool_choice == "none":
            return None
        named = self.tool_choice.function.name if isinstance(self.tool_choice, Tool) else None
        found = [tool.function for tool in self.tools if named in (None, tool.function.name)]
        if len(found) != 1 or self.tool_choice == "auto":
            advice = "name one in tool_choice, ask for a json_schema, or set tool_choice to none"
            raise SreError(f"the model chooses no tools; {advice}", field="tools")
        return found[0]

    def requests(self) -> list[Request]:
        messages = tuple(turn.message() for turn in self.messages)
        name = self.name([[message.role, message.content] for message in messages])
        if self.called:
            return [Request(name, messages, grammar=json.dumps(self.called.parameters or {"type": "object"}))]
        match self.response_format:
            case {"type": "json_schema", "json_schema": {"schema": given}} | {"type": "json_object", "schema": given}:
                schema = json.dumps(given)
            case {"type": "json_object"}:
                schema = '{"type": "object"}'
            case form if form.get("type", "text") == "text":
                schema = ""
            case _:
                raise SreError("expected text, json_object, or json_schema with a schema", field="response_format")
        return [Request(name, messages, grammar=schema)]

    def sampling(self) -> Sampling:
        most = self.max_completion_tokens or self.max_tokens or MAX_TOKENS
        alternatives = self.top_logprobs if self.logprobs else None
        return replace(super().sampling(), max_tokens=most, alternatives=alternatives)

    def content(self, text: str, key: str = "delta", **role: str) -> dict[str, Any]:
        if self.called is None:
            return {key: {**role, "content": text}}
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if role:  # what begins a call
            call |= {"id": f"call_{secrets.token_hex(12)}", "type": "function"}
            call["function"]["name"] = self.called.name
            return {key: {**role, "content": None, "tool_calls": [call]}}
        return {key: {"tool_calls": [call]}}

    @staticmethod
    def told(tokens: Sequence[Token]) -> dict[str, Any]:
        shown = [
            {**_token(one.piece, one.logprob), "top_logprobs": [_token(piece, value) for piece, value in one.top]}
            for one in tokens
        ]
        return {"content": shown, "refusal": None}


class CompletionBody(CommonBody):
    prompt: Text | list[int] | list[Text | list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False
    suffix: Nothing = None

    def requests(self) -> list[Request]:
        """One for each text, or list of token ids, to go on from."""
        given: list[Any] = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if all(isinstance(one, int) for one in given):
            given = [given]
        if len(given) > MOST_PROMPTS:
            raise SreError(f"expected at most {MOST_PROMPTS} texts, not {len(given)}", field="prompt")
        prompts = [tuple(one) if isinstance(one, list) else one for one in given]
        name = self.name(given)
        return [Request(f"{name}-{k}", (), prompt=prompt, echo=self.echo) for k, prompt in enumerate(prompts)]

    def sampling(self) -> Sampling:
        asked = self.echo and "max_tokens" in self.model_fields_set  # for none, to measure the prompt
        most = self.max_tokens if asked else self.max_tokens or 16
        return replace(super().sampling(), max_tokens=most, alternatives=self.logprobs)

    @staticmethod
    def content(text: str, key: str = "", **role: str) -> dict[str, Any]:
        return {"text": text}

    @staticmethod
    def told(tokens: Sequence[Token]) -> dict[str, Any]:
        shown = [_token(one.piece, one.logprob) for one in tokens]
        tops = [[_token(piece, value) for piece, value in one.top] for one in tokens]
        lengths = [len(one["token"]) for one in shown]
        return {
            "tokens": [one["token"] for one in shown],
            "token_logprobs": [one["logprob"] for one in shown],
            "top_logprobs": [{one["token"]: one["logprob"] for one in top} or None for top in tops],
            "text_offset": list(itertools.accumulate(lengths[:-1], initial=0)),
        }


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
    return await _answer(body, http, "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion")


@router.post("/v1/completions")
async def complete(body: CompletionBody, http: HttpRequest) -> Any:
    """Let the model go on from a text, or from each of several, without its chat template."""
    return await _answer(body, http, "cmpl", "text_completion")


async def _answer(body: ChatBody | CompletionBody, http: HttpRequest, prefix: str, kind: str) -> Any:
    await model(body.model, http)
    requests, sampling = body.requests(), body.sampling()
    submit = partial(http.app.state.service.submit, requests, sampling)
    timeout = http.app.state.timeout
    name = f"{prefix}-{secrets.token_hex(12)}"
    head = {"id": name, "object": kind, "created": int(time.time()), "model": body.model}
    if not body.stream:
        done = await whole(http, submit())
        choices = [
            {"index": index, **body.content(one.text, "message", role="assistant"), **_end(body, one)}
            for index, one in enumerate(done)
        ]
        return {**head, "choices": choices, "usage": _usage(done)}

    first = {request.id: number * body.n for number, request in enumerate(requests)}  # the index of its first choice
    # With usage asked for, every other chunk has it as null.
    usage: dict[str, Any] = {"usage": None} if body.stream_options.include_usage else {}

    def chunk(index: int, content: Mapping[str, Any], end: Mapping[str, Any] = _OPEN) -> str:
        return event({**head, "choices": [{"index": index, **content, **end}], **usage})

    def piece(written: Piece) -> str:
        return chunk(first[written.request_id] + written.sample, body.content(written.text))

    def end(done: Sequence[Completion]) -> Iterator[str]:
        for index, one in enumerate(done):
            yield chunk(index, body.content(""), _end(body, one))
        if usage:
            yield event({**head, "choices": [], "usage": _usage(done)})
        yield event("[DONE]")

    begin = [chunk(index, body.content("", role="assistant")) for index in range(body.n * len(first))]
    return Streamed(submit, timeout, begin=begin, piece=piece, end=end)


def _end(body: ChatBody | CompletionBody, done: Completion) -> dict[str, Any]:
    came_to_end = "tool_calls" if isinstance(body, ChatBody) and body.called else "stop"
    finish = "length" if done.finish == "length" else came_to_end
    return {"logprobs": body.told(done.tokens) if done.tokens else None, "finish_reason": finish}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; OpenAI's API gives -9999 for what is all but impossible, null for what nothing predicts.
    told = None if math.isnan(logprob) else max(logprob, -9999.0)
    return {"token": piece.decode("utf-8", "replace"), "logprob": told, "bytes": list(piece)}


def _usage(completions: Sequence[Completion]) -> dict[str, int]:
    """A prompt counts once, however many choices it has."""
    prompt = sum({one.request_id: one.prompt_tokens for one in completions}.values())
    new = sum(len(one.token_ids) for one in completions)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
