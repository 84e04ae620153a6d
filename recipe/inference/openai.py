"""The Generator on a server that speaks OpenAI's chat API: vLLM, llama-server, `sre serve`, OpenAI's own.

OpenAI's client sends the requests and retries them, with pauses that grow or as long as Retry-After says. Its replies
are read as plain JSON here, because servers differ in them: what can't be read is an error of its row. Such a server
forces no label and tells no token ids, so a text comes back as the model wrote it and `token_ids` are empty.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from queue import SimpleQueue
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from recipe.errors import SreError, install
from recipe.inference.base import Completion, Generator, Request, Sampling, Stats
from recipe.inference.chat_template import folded
from recipe.verdict import find_verdict

Finish = Literal["stop", "length"]
_Kind = TypeVar("_Kind")
KEY_VARIABLE = "OPENAI_API_KEY"
RETRIES = 6
"""Of one request, 20 s in all; longer where the server asks for it."""
_ALTERNATIVES = {20: 5, 5: 0}
"""Alternatives asked for at each token; a server that refuses so many is asked for the next number."""
_SAMPLES = 32  # asked for at once; some servers allow no more
_NOT_THE_ROWS_FAULT = (401, 403, 404, 429, 502, 503)
_log = logging.getLogger("recipe.inference")


@dataclass(frozen=True)
class _Token:
    """A token that the server tells of; others: the alternatives at its place."""

    piece: bytes
    logprob: float
    others: Mapping[bytes, float]


class OpenAIGenerator(Generator):
    """Asks the server at `base_url`, `parallel` requests at a time.

    Args:
        base_url: up to /v1, which is added where there is no path. A user and password in it are sent, never shown.
        model: None takes the only one that the server has.
        api_key: None takes OPENAI_API_KEY, or none at all.
        parallel: requests under way at once.

    Raises SreError when the server can't be reached or refuses the key, here and while it generates. What the server
    refuses of a single request is that request's "error".
    """

    def __init__(
        self, base_url: str, *, model: str | None = None, api_key: str | None = None, parallel: int = 16
    ) -> None:
        try:
            import openai
        except ImportError:
            message = f"this engine needs the extra: {install('openai')}"
            raise SreError(message) from None
        address = _address(base_url)
        user, _, host = address.netloc.rpartition("@")
        path = address.path.rstrip("/") or "/v1"
        self.base_url = f"{address.scheme}://{host}{path}"
        self.stats = Stats()
        self._openai = openai
        self._parallel = parallel
        self._connection: dict[str, Any] = {
            "base_url": self.base_url,
            "default_query": dict(parse_qsl(address.query)),
            "api_key": api_key or os.environ.get(KEY_VARIABLE) or "none",
        }
        if user:
            login = base64.b64encode(unquote(user).encode()).decode()
            self._connection["default_headers"] = {"Authorization": f"Basic {login}"}
        self._alternatives = max(_ALTERNATIVES)
        self._folds = False  # whether the model's chat template has no place for a system turn
        self._closed = False
        self.name = self._find_model(model)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order. Raises SreError when the server is gone; `stats` counts while it runs."""
        from anyio.from_thread import start_blocking_portal

        if self._closed:
            raise SreError(f"the connection to {self.base_url} has been closed")
        if sampling.ignore_end or any(request.choices for request in requests):
            raise SreError("a server can't read choices or write past the end; use a GGUF file")
        self.stats = Stats()
        waiting = iter(requests)
        results: SimpleQueue[list[Completion] | Exception] = SimpleQueue()
        client = self._openai.AsyncOpenAI(**self._connection, max_retries=RETRIES)

        async def work() -> None:
            for request in waiting:
                try:
                    results.put(await self._complete(client, request, sampling))
                except Exception as error:
                    results.put(error)

        # A loop in a thread of its own: this works in notebooks too, and leaving it ends what is under way.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            for _ in range(min(self._parallel, len(requests))):
                portal.start_task_soon(work)
            for _ in requests:
                found = results.get()
                if isinstance(found, Exception):
                    raise found
                yield from found

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> OpenAIGenerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find_model(self, wanted: str | None) -> str:
        """Asks for the list of models first, so that a wrong address or key is known before any row is read."""
        try:
            with self._openai.OpenAI(**self._connection) as client:
                models = [model.id for model in client.models.list()]
        except self._openai.NotFoundError as error:
            if wanted:
                return wanted  # a server without a list
            raise self._trouble(error) from error
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise self._trouble(error) from error
        if wanted is None and len(models) != 1:
            raise SreError(f"name one of the models of {self.base_url}: {', '.join(models) or 'none'}", field="model")
        return wanted or str(models[0])

    def _trouble(self, error: Exception) -> SreError:
        """What to tell the user when there is no use in asking on."""
        code = getattr(error, "status_code", None)
        if isinstance(error, self._openai.APIConnectionError):
            said = f"no answer ({error.__cause__ or error}); is the server running, is the address right?"
        elif code in (401, 403):
            said = f"refused: {_message(error)}; put the server's key into the variable {KEY_VARIABLE}"
        elif code == 429:
            said = f"too many requests: {_message(error)}; ask for fewer at a time (parallel), or later"
        elif code in (502, 503):
            said = f"the server is down or overloaded: {_message(error)}; try later"
        else:
            said = f"{_message(error)}; is the model's name right, and does the address end in /v1?"
        return SreError(f"{self.base_url}: {said}")

    async def _complete(self, client: Any, request: Request, sampling: Sampling) -> list[Completion]:
        """All samples of one request; servers that give fewer at a time than asked for are asked again."""
        count = 1 if request.label_only else sampling.n
        found: list[Completion] = []
        error = ""
        try:
            while len(found) < count:
                reply = await self._ask(client, request, sampling, len(found), count - len(found))
                choices, size = _part(reply, "choices", list), self._count(reply)
                if not choices:
                    raise ValueError(f"expected a chat completion, not {str(reply)[:80]!r}")
                for choice in choices:
                    found.append(_completion(request, len(found), choice, size, sampling))
        except self._openai.APIStatusError as refusal:
            if refusal.status_code in _NOT_THE_ROWS_FAULT:
                raise self._trouble(refusal) from refusal
            error = f"the server refused it ({refusal.status_code}): {_message(refusal)}"
        except self._openai.APIConnectionError as gone:
            raise self._trouble(gone) from gone
        except (self._openai.OpenAIError, ValueError) as unread:
            error = f"the server's answer can't be read: {unread}"
        lost = range(len(found), count)
        return found[:count] + [Completion(request.id, k, "", (), "error", 0, error=error) for k in lost]

    async def _ask(self, client: Any, request: Request, sampling: Sampling, begin: int, count: int) -> object:
        """The server's JSON. What a server doesn't offer is left out and asked for no more."""
        while True:
            messages = folded(request.messages) if self._folds else request.messages
            asked: dict[str, Any] = {
                "model": self.name,
                "messages": [{"role": m.role, "content": m.content} for m in messages],
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "seed": sampling.seed + begin,
                "n": min(count, _SAMPLES),
            }
            if self._alternatives and (request.labels or sampling.logprobs):
                asked |= {"logprobs": True, "top_logprobs": self._alternatives}
            try:
                reply = await client.chat.completions.with_raw_response.create(**asked)
            except self._openai.APIStatusError as error:
                refusal = f"{error.param} {_message(error)}"
                if error.status_code not in (400, 403, 422, 500) or not self._do_without(asked, refusal):
                    raise
            else:
                try:
                    return json.loads(reply.content)
                except ValueError:
                    raise ValueError(f"expected JSON, not {reply.content[:80].decode('utf-8', 'replace')!r}") from None

    def _do_without(self, asked: Mapping[str, Any], refusal: str) -> bool:
        """Whether asking in another way may help. Other requests may have met the same refusal meanwhile."""
        if re.search("system|alternat", refusal, re.IGNORECASE) and asked["messages"][0]["role"] == "system":
            self._folds = True
            return True
        if "logprobs" not in refusal or "top_logprobs" not in asked:
            return False
        fewer = _ALTERNATIVES[asked["top_logprobs"]]
        if fewer < self._alternatives:
            self._alternatives = fewer
            if not fewer:
                _log.warning("%s tells no log-probabilities: judgements have a label alone", self.base_url)
        return True

    def _count(self, reply: object) -> int:
        """Add up the tokens that the server counted; those of the prompt."""
        usage = _part(reply, "usage", dict)
        prompt, new = (_part(usage, f"{kind}_tokens", int) or 0 for kind in ("prompt", "completion"))
        self.stats.prompt_tokens_total += prompt
        self.stats.prompt_tokens_decoded += prompt - (
            _part(_part(usage, "prompt_tokens_details", dict), "cached_tokens", int) or 0
        )
        self.stats.new_tokens += new
        return prompt


def _address(url: str) -> SplitResult:
    with contextlib.suppress(ValueError):  # e.g. a port that is no number
        address = urlsplit(url)
        if address.scheme in ("http", "https") and address.hostname and address.port != 0:
            return address
    shown = re.sub(r"//.*@", "//", url)
    raise SreError(f"expected an address such as http://127.0.0.1:8000/v1, not {shown!r}", field="base-url")


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error)


def _part(value: object, key: str, kind: type[_Kind]) -> _Kind | None:
    """The value at `key`, if it is of that kind; servers leave parts out, or give null."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, kind) else None


def _completion(request: Request, sample: int, choice: object, size: int, sampling: Sampling) -> Completion:
    message = _part(choice, "message", dict)
    if message is None:
        raise ValueError(f"expected a choice with a message, not {str(choice)[:80]!r}")
    text = _text(message.get("content"))
    reason = _part(choice, "finish_reason", str)
    if reason == "content_filter":
        return Completion(request.id, sample, "", (), "error", size, error="the server's content filter withheld it")
    tokens = _tokens(_part(choice, "logprobs", dict) or {})
    finish: Finish = "length" if reason == "length" else "stop"
    verdict = find_verdict(text, request.labels)
    labels = _label_logprobs(tokens, text, verdict.span("label"), request.labels) if verdict else {}
    if verdict and sampling.stop_at_label:
        text, finish = text[: verdict.end("label")], "stop"
    drawn = tuple(token.logprob for token in tokens) if sampling.logprobs else ()
    return Completion(request.id, sample, text, (), finish, size, drawn, labels)


def _text(content: object) -> str:
    """A message's text: a string, or a list of parts, of which those that are no text are left out."""
    if isinstance(content, list):
        content = "".join(_part(part, "text", str) or "" for part in content)
    if not isinstance(content, str | None):
        raise ValueError(f"expected text, not {str(content)[:80]!r}")
    return (content or "").encode("utf-8", "replace").decode()


def _tokens(logprobs: Mapping[str, Any]) -> list[_Token]:
    """The tokens told; none where they can't be read."""
    try:
        return [_token(one, one.get("top_logprobs") or ()) for one in logprobs.get("content") or ()]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def _token(told: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> _Token:
    return _Token(_bytes(told), float(told["logprob"]), {_bytes(one): float(one["logprob"]) for one in others})


def _bytes(token: Mapping[str, Any]) -> bytes:
    return bytes(token["bytes"]) if token.get("bytes") else str(token["token"]).encode()


def _label_logprobs(
    tokens: Sequence[_Token], text: str, place: tuple[int, int], labels: Sequence[int]
) -> dict[int, float]:
    """Those of the allowed labels that the server tells of at the label's place.

    {} where the label isn't a token of its own, and where no alternatives are told: one label alone would look certain.
    """
    pieces = [token.piece for token in tokens]
    # The tokens may begin with more than the text: blanks, or reasoning that is kept apart.
    shift = b"".join(pieces).find(text.encode())
    if shift < 0:
        return {}
    end = shift + len(text[: place[1]].encode())
    written = text[slice(*place)].encode()
    for token, stop in zip(tokens, accumulate(map(len, pieces)), strict=True):
        if stop == end and token.piece.strip(b" \t") == written and len(token.others) > 1:
            told = {**token.others, token.piece: token.logprob}
            forms = {label: token.piece.replace(written, str(label).encode()) for label in labels}
            return {label: told[form] for label, form in forms.items() if math.isfinite(told.get(form, math.nan))}
    return {}
