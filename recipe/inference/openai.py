"""The Generator on a server that speaks OpenAI's chat API: vLLM, llama-server, `sre serve`, OpenAI's own.

OpenAI's client does the talking and the retries: pauses that grow, or as long as the server's Retry-After says. Such a
server forces no label and tells no token ids: a text comes back as the model wrote it, and `token_ids` are empty.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

from recipe.data.records import Message
from recipe.errors import SreError, install
from recipe.inference.base import Completion, Generator, Request, Sampling
from recipe.verdict import MARKER, parse_verdict

Finish = Literal["stop", "length"]
KEY_VARIABLE = "OPENAI_API_KEY"
RETRIES = 6
"""Of one request, 20 s in all; longer where the server asks for it."""
_ALTERNATIVES = 20  # the most that OpenAI's API and vLLM tell of one place
_SAMPLES = 32  # asked for at once; some servers allow no more
_NOT_THE_ROWS_FAULT = (401, 403, 404, 429, 502, 503)
_log = logging.getLogger("recipe.inference")


@dataclass
class Stats:
    """Tokens of the last call of `generate`, as the server counted them."""

    prompt_tokens_total: int = 0
    prompt_tokens_decoded: int = 0
    new_tokens: int = 0


class OpenAIGenerator(Generator):
    """Asks the server at `base_url`, `parallel` requests at a time.

    base_url: up to /v1, which is added where there is no path. model: None takes the only one that the server has.
    api_key: None takes OPENAI_API_KEY, or none at all. Raises SreError when the server can't be reached or refuses the
    key, here and while it generates; what it refuses of a single request is that request's "error".
    """

    def __init__(
        self, base_url: str, *, model: str | None = None, api_key: str | None = None, parallel: int = 16
    ) -> None:
        try:
            import openai
        except ImportError:
            message = f"this engine needs the extra: {install('openai')}"
            raise SreError(message) from None
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise SreError(f"expected an address such as http://127.0.0.1:8000/v1, not {base_url!r}", field="base-url")
        self.base_url = base_url if address.path.strip("/") else f"{base_url.rstrip('/')}/v1"
        self.stats = Stats()
        self._openai = openai
        self._parallel = parallel
        self._connection: dict[str, Any] = {
            "base_url": self.base_url,
            "api_key": api_key or os.environ.get(KEY_VARIABLE) or "none",
        }
        self._tells_logprobs = True
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

    def count_tokens(self, messages: Sequence[Message]) -> int:
        raise SreError("a server tells the number of tokens only with its answer; use a GGUF file")

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
        except (self._openai.OpenAIError, ValueError, AttributeError) as error:
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
            while len(found) < count and not error:
                reply = await self._ask(client, request, sampling, len(found), count - len(found))
                choices = getattr(reply, "choices", None) or []
                found += [_completion(request, len(found) + k, c, reply, sampling) for k, c in enumerate(choices)]
                error = "" if choices else f"expected a chat completion, not {str(reply)[:80]!r}"
        except self._openai.APIStatusError as refusal:
            if refusal.status_code in _NOT_THE_ROWS_FAULT:
                raise self._trouble(refusal) from refusal
            error = f"the server refused it ({refusal.status_code}): {_message(refusal)}"
        except self._openai.APIConnectionError as gone:
            raise self._trouble(gone) from gone
        except (self._openai.OpenAIError, json.JSONDecodeError) as unread:
            error = f"the server's answer can't be read: {unread}"
        lost = range(len(found), count)
        return found[:count] + [Completion(request.id, k, "", (), "error", 0, error=error) for k in lost]

    async def _ask(self, client: Any, request: Request, sampling: Sampling, begin: int, count: int) -> Any:
        options: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed + begin,
            "n": min(count, _SAMPLES),
        }
        more = {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        if self._tells_logprobs and (request.labels or sampling.logprobs):
            try:
                reply = await client.chat.completions.create(**options, **more)
            except self._openai.APIStatusError as error:
                if error.status_code not in (400, 403, 422) or "logprobs" not in f"{error.param} {_message(error)}":
                    raise
                if self._tells_logprobs:
                    _log.warning("%s tells no log-probabilities: judgements have a label alone", self.base_url)
                self._tells_logprobs = False
                reply = await client.chat.completions.create(**options)
        else:
            reply = await client.chat.completions.create(**options)
        self._count(getattr(reply, "usage", None))
        return reply

    def _count(self, usage: Any) -> None:
        if usage is None:
            return
        cached = getattr(usage.prompt_tokens_details, "cached_tokens", 0) or 0
        self.stats.prompt_tokens_total += usage.prompt_tokens
        self.stats.prompt_tokens_decoded += usage.prompt_tokens - cached
        self.stats.new_tokens += usage.completion_tokens


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error)


def _completion(request: Request, sample: int, choice: Any, reply: Any, sampling: Sampling) -> Completion:
    text = (choice.message.content or "").encode("utf-8", "replace").decode()
    size = reply.usage.prompt_tokens if reply.usage else 0
    if choice.finish_reason == "content_filter":
        return Completion(request.id, sample, "", (), "error", size, error="the server's content filter withheld it")
    tokens = (choice.logprobs and choice.logprobs.content) or []
    finish: Finish = "length" if choice.finish_reason == "length" else "stop"
    place = _label_place(text, request.labels, first=sampling.stop_at_label)
    labels = _label_logprobs(tokens, text, place, request.labels) if place else {}
    if place and sampling.stop_at_label:
        text, finish = text[: place[1]], "stop"
    drawn = tuple(token.logprob for token in tokens) if sampling.logprobs else ()
    return Completion(request.id, sample, text, (), finish, size, drawn, labels)


def _label_place(text: str, labels: Sequence[int], *, first: bool) -> tuple[int, int] | None:
    """Where the first (or the last) well-formed label begins and ends, None without one."""
    markers = [found.start() for found in re.finditer(re.escape(MARKER), text)]
    parts = list(zip(markers, [*markers, len(text)][1:], strict=True))
    for begin, end in parts if first else reversed(parts):
        if parse_verdict(text[begin:end], labels, need_rationale=False):
            digits = re.compile(r"\d+").search(text, begin)
            return digits.span() if digits else None
    return None


def _label_logprobs(
    tokens: Sequence[Any], text: str, place: tuple[int, int], labels: Sequence[int]
) -> dict[int, float]:
    """Those of the allowed labels that the server tells of at the label's place.

    {} where the label isn't a token of its own, and where no alternatives are told: one label alone would look certain.
    """
    pieces = [_bytes(token) for token in tokens]
    # The tokens may begin with more than the text: blanks, or thoughts that are kept apart.
    shift = b"".join(pieces).find(text.encode())
    if shift < 0:
        return {}
    end = shift + len(text[: place[1]].encode())
    written = text[slice(*place)].encode()
    for token, piece, stop in zip(tokens, pieces, accumulate(map(len, pieces)), strict=True):
        if stop == end and piece.strip(b" \t") == written and len(token.top_logprobs or ()) > 1:
            told = {_bytes(other): other.logprob for other in (*token.top_logprobs, token)}
            forms = {label: piece.replace(written, str(label).encode()) for label in labels}
            return {label: told[form] for label, form in forms.items() if form in told}
    return {}


def _bytes(token: Any) -> bytes:
    return bytes(token.bytes) if token.bytes else str(token.token).encode()
