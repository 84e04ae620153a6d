"""The Generator on a server that speaks OpenAI's chat API: vLLM, llama-server, `sre serve`, OpenAI's own.

OpenAI's client sends the requests, retries them and parses the replies. A reply that can't be read is an error of its
row. Such a server forces no label and tells no token ids: a text comes back as the model wrote it, and `token_ids` are
empty.
"""

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import accumulate
from threading import Lock
from typing import Any, Literal
from urllib.parse import urlsplit

from recipe.errors import SreError, install
from recipe.inference.base import Completion, Generator, Request, Sampling
from recipe.inference.chat_template import folded
from recipe.system import read_table
from recipe.verdict import find_verdict

KEY_VARIABLE = "OPENAI_API_KEY"
RETRIES = 6  # of one request, 20 s in all; longer where the server asks for it
_ALTERNATIVES = 20  # asked for at each token
_AT = re.compile("@|%40")  # ends a name and a password
_SAMPLES = 32  # asked for at once; some servers allow no more
_ADVICE: dict[str, str] = read_table(__file__)
_log = logging.getLogger("recipe.inference")


class OpenAIGenerator(Generator):
    """Asks a server, `parallel` requests at once. The variable OPENAI_API_KEY holds its key, if it wants one.

    base_url: up to /v1, which is added where there is no path. model: None takes the only one that the server has.
    Raises SreError, here or later, where the server can't be reached or refuses the key. What it refuses of a single
    request is that request's "error".
    """

    def __init__(self, base_url: str, *, model: str | None = None, parallel: int = 16) -> None:
        try:
            import openai
        except ImportError:
            raise SreError(f"this engine needs the extra: {install('openai')}") from None
        self.base_url = _address(base_url)
        self._openai = openai
        self._parallel = parallel
        self._connection = {"base_url": self.base_url, "api_key": os.environ.get(KEY_VARIABLE) or "none"}
        self._tells_logprobs = True
        self._folds = False  # whether the model's chat template has no place for a system turn
        self._closed = False
        self._lock = Lock()
        self.name = self._find_model(model)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        if self._closed:
            raise SreError(f"the connection to {self.base_url} has been closed")
        if any(request.choices for request in requests):
            raise SreError("a server can't be held to choices; use a GGUF file")
        pool = ThreadPoolExecutor(self._parallel)
        with self._openai.OpenAI(**self._connection, max_retries=RETRIES) as client:
            try:
                running = [pool.submit(self._complete, client, request, sampling) for request in requests]
                for done in as_completed(running):
                    yield from done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._closed = True

    def _find_model(self, wanted: str | None) -> str:
        """Ask for the list of models, so that a wrong address or key is known before any row is read."""
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
        if isinstance(error, self._openai.APIConnectionError):
            why = f"no answer ({error.__cause__ or error}); is the server running, is the address right?"
        else:
            why = f"{_message(error)}; {_ADVICE.get(str(getattr(error, 'status_code', 404)), _ADVICE['404'])}"
        return SreError(f"{self.base_url}: {why}")

    def _complete(self, client: Any, request: Request, sampling: Sampling) -> list[Completion]:
        """All samples of one request. Servers that give fewer at a time than asked for are asked again."""
        count = request.samples(sampling)
        found: list[Completion] = []
        error = ""
        try:
            while len(found) < count:
                reply = self._ask(client, request, sampling, len(found), count - len(found))
                if not isinstance(getattr(reply, "choices", None), list) or not reply.choices:
                    raise ValueError(f"expected a chat completion, not {str(reply)[:80]!r}")
                size = getattr(reply.usage, "prompt_tokens", None) or 0
                for choice in reply.choices:
                    found.append(_completion(request, len(found), choice, size, sampling))
        except self._openai.APIStatusError as refusal:
            if str(refusal.status_code) in _ADVICE:
                raise self._trouble(refusal) from refusal
            error = f"the server refused it ({refusal.status_code}): {_message(refusal)}"
        except self._openai.APIConnectionError as gone:
            raise self._trouble(gone) from gone
        except (self._openai.OpenAIError, ValueError, AttributeError) as unread:
            error = f"the server's answer can't be read: {unread}"
        lost = range(len(found), count)
        return found[:count] + [Completion(request.id, k, "", (), "error", 0, error=error) for k in lost]

    def _ask(self, client: Any, request: Request, sampling: Sampling, begin: int, count: int) -> Any:
        """The server's reply. What a server doesn't offer is left out and asked for no more."""
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
            if self._tells_logprobs and request.labels:
                asked |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
            try:
                return client.chat.completions.create(**asked)
            except self._openai.APIStatusError as error:
                refusal = f"{error.param} {_message(error)}"
                if error.status_code not in (400, 403, 422, 500) or not self._do_without(asked, refusal):
                    raise

    def _do_without(self, asked: Mapping[str, Any], refusal: str) -> bool:
        """Whether asking in another way may help. Other requests may have met the same refusal meanwhile."""
        if re.search("system|alternat", refusal, re.IGNORECASE) and asked["messages"][0]["role"] == "system":
            self._folds = True
            return True
        if "logprobs" not in refusal or "top_logprobs" not in asked:
            return False
        with self._lock:
            if self._tells_logprobs:
                _log.warning("%s tells no log-probabilities: judgements have a label alone", self.base_url)
            self._tells_logprobs = False
        return True


def _address(url: str) -> str:
    """The address with its path. Raises SreError for anything else, without showing a password in it."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        right = right and not _AT.search(parts.netloc)
    except ValueError:  # e.g. a port that is no number
        right = False
    if not right:
        shown = _AT.split(url)[-1]
        raise SreError(f"expected an address such as http://127.0.0.1:8000/v1, not {shown!r}", field="base-url")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error)


def _completion(request: Request, sample: int, choice: Any, size: int, sampling: Sampling) -> Completion:
    content = choice.message.content
    if not isinstance(content, str | None):
        raise ValueError(f"expected a text, not {str(content)[:80]!r}")
    text = (content or "").encode("utf-8", "replace").decode()
    if choice.finish_reason == "content_filter":
        return Completion(request.id, sample, "", (), "error", size, error="the server's content filter withheld it")
    finish: Literal["stop", "length"] = "length" if choice.finish_reason == "length" else "stop"
    verdict = find_verdict(text, request.labels)
    labels = _label_logprobs(choice, text, verdict.span("label"), request.labels) if verdict else {}
    if verdict and sampling.stop_at_label:
        text, finish = text[: verdict.end("label")], "stop"
    return Completion(request.id, sample, text, (), finish, size, labels)


def _label_logprobs(choice: Any, text: str, place: tuple[int, int], labels: Sequence[int]) -> dict[int, float]:
    """Those of the allowed labels that the server tells of at the label's place in `text`.

    {} where the label isn't a token of its own, where nothing can be read, and where no alternatives are told: one
    label alone would look certain.
    """
    try:
        tokens = [
            (_bytes(one), {_bytes(other): float(other.logprob) for other in (*one.top_logprobs, one)})
            for one in choice.logprobs.content
        ]
    except (AttributeError, TypeError, ValueError):
        return {}
    # The tokens may begin with more than the text: blanks, or reasoning that is kept apart.
    shift = b"".join(piece for piece, _ in tokens).find(text.encode())
    if shift < 0:
        return {}
    end = shift + len(text[: place[1]].encode())
    written = text[slice(*place)].encode()
    for (piece, told), stop in zip(tokens, accumulate(len(piece) for piece, _ in tokens), strict=True):
        if stop == end and piece.strip(b" \t") == written and len(told) > 1:
            forms = {label: piece.replace(written, str(label).encode()) for label in labels}
            if any(label > 9 and form not in told for label, form in forms.items()):
                return {}  # a 10 may be two tokens, of which the "1" counts both it and the label 1
            return {label: told[form] for label, form in forms.items() if math.isfinite(told.get(form, math.nan))}
    return {}


def _bytes(token: Any) -> bytes:
    return bytes(token.bytes) if token.bytes else str(token.token).encode()
