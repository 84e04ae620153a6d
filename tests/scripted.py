"""A Generator that runs no model: its answers come from a function or a table.

It keeps the contract of recipe/inference/base.py: labels are forced, text ends at the label or after max_tokens,
prompts may be too long. Token ids and log-probabilities are made up, but always the same for the same text.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Piece, Request, Sampling, Session, Token
from recipe.verdict import format_verdict, parse_verdict

Script = Callable[[Request], Sequence[str]] | Mapping[str, Sequence[str]]
END = 0  # the made-up id of the end token
_WORD = re.compile(r"\s*\S+|\s+$")
_SURE = 0.8  # share of the written label among the allowed


def any_judgement(request: Request) -> list[str]:
    """A well-formed answer to any request, one text per allowed label in an order that depends on its id."""
    if not request.labels:
        return ["A scripted answer. Judgment rating: 3"]
    start = zlib.crc32(request.id.encode()) % len(request.labels)
    labels = request.labels[start:] + request.labels[:start]
    return [format_verdict(f"A scripted reason for {label}.", label) for label in labels]


class ScriptedGenerator(Generator):
    """Answers sample k of a request with text k (modulo their number) of the script.

    script: request -> texts, or request id -> texts. context: prompts of more tokens (words) than that, with
    max_tokens, end in "error". pace: seconds that each step of a session takes. `seen` lists every request that came,
    in order.
    """

    def __init__(
        self,
        script: Script = any_judgement,
        *,
        name: str = "scripted",
        context: int | None = None,
        pace: float = 0.0,
    ) -> None:
        self.name = name
        self.seen: list[Request] = []
        self.closed = False
        self.pace = pace
        self._script, self._context = script, context

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream the completions in the order of the requests."""
        for request in requests:
            yield from self.answer(request, sampling)

    def answer(self, request: Request, sampling: Sampling) -> Iterator[Completion]:
        """The completions of one request, in the order of its samples."""
        if self.closed:
            raise SreError(f"the model {self.name!r} has been closed")
        self.seen.append(request)
        for sample in range(request.samples(sampling)):
            yield self._complete(request, sample, sampling)

    def session(self) -> ScriptedSession:
        return ScriptedSession(self)

    def close(self) -> None:
        self.closed = True

    def _complete(self, request: Request, sample: int, sampling: Sampling) -> Completion:
        prompt = (Message("user", str(request.prompt)),) if request.prompt is not None else request.messages
        # Words, and one token a message for its role.
        size = sum(len(_WORD.findall(message.content)) + 1 for message in prompt)
        if sampling.fit and self._context is not None and size < self._context:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self._context - size))
        empty = Completion(request.id, sample, "", (), "stop", size)
        if request.echo:
            sampling = replace(sampling, max_tokens=sampling.max_tokens + len(_WORD.findall(str(request.prompt))))
        if self._context is not None and size + sampling.max_tokens > self._context:
            why = f"the prompt has {size} tokens and its answer needs {sampling.max_tokens}"
            return replace(empty, finish="error", error=f"{why}, more than the context of {self._context}")
        text = self._text(request, sample)
        if request.echo:
            return _echo(_write(empty, f"{request.prompt} {text}", request, sampling), str(request.prompt))
        if request.choices:
            return _read(replace(empty, finish="forced"), _choice(request, text), (), sampling)
        if request.label_only:
            verdict = parse_verdict(text, request.labels, need_rationale=False)
            label = verdict.label if verdict else request.labels[0]
            return _read(replace(empty, finish="forced"), format_verdict("", label), request.labels, sampling)
        return _write(empty, text, request, sampling)

    def _text(self, request: Request, sample: int) -> str:
        if callable(self._script):
            texts: Sequence[str] = self._script(request)
        elif request.id in self._script:
            texts = self._script[request.id]
        else:
            raise SreError(f"the script has no answer to request {request.id!r}")
        if not texts:
            raise SreError(f"the script has no text for request {request.id!r}")
        return texts[sample % len(texts)]


class ScriptedSession(Session):
    """Every sample of every request writes one word a step; where a request is read (label only, choices) or refused,
    nothing but its completion comes."""

    def __init__(self, generator: ScriptedGenerator) -> None:
        self._generator = generator
        self._waiting: dict[str, tuple[Request, Sampling]] = {}
        self._writing: dict[str, list[tuple[Completion, list[str]]]] = {}

    def submit(self, request: Request, sampling: Sampling) -> None:
        if request.id in self._waiting or request.id in self._writing:
            raise SreError(f"a request with the id {request.id!r} is under way")
        self._waiting[request.id] = (request, sampling)

    def cancel(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)
        self._writing.pop(request_id, None)

    def step(self) -> list[Piece | Completion]:
        for key, (request, sampling) in self._waiting.items():
            silent = bool(request.label_only or request.choices)
            completions = self._generator.answer(request, sampling)
            self._writing[key] = [(done, [] if silent else _WORD.findall(done.text)[::-1]) for done in completions]
        self._waiting.clear()
        events: list[Piece | Completion] = []
        for key, samples in list(self._writing.items()):
            for done, words in samples:
                events += [Piece(key, done.sample, words.pop())] if words else []
                events += [] if words else [done]
            self._writing[key] = [(done, words) for done, words in samples if words]
            if not self._writing[key]:
                del self._writing[key]
        time.sleep(self._generator.pace)
        return events

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._writing)

    def close(self) -> None:
        self._waiting.clear()
        self._writing.clear()


def _choice(request: Request, text: str) -> str:
    return text if text in request.choices else request.choices[0]


def _write(empty: Completion, text: str, request: Request, sampling: Sampling) -> Completion:
    """What a model would leave of `text` under the request's and the sampling's limits."""
    cut = min((place for stop in sampling.stop if (place := text.find(stop)) >= 0), default=None)
    words = _WORD.findall(text[:cut])
    kept: list[str] = []
    for word in words[: sampling.max_tokens]:
        kept.append(word)
        ends = sampling.stop_at_label and any(map(str.isdigit, word))
        if ends and parse_verdict("".join(kept), request.labels, need_rationale=False):
            return _read(empty, "".join(kept), request.labels, sampling)
    written = "".join(kept)
    if request.force_label and not parse_verdict(written, request.labels, need_rationale=False):
        forced = format_verdict(written, request.labels[0])
        return _read(replace(empty, finish="forced"), forced, request.labels, sampling)
    # The end token counts too: a text of exactly max_tokens words has no room for it.
    ended = len(words) < sampling.max_tokens or cut is not None
    done = replace(empty, finish="stop" if ended else "length")
    return _read(done, written, request.labels, sampling, end=ended)


def _echo(done: Completion, prompt: str) -> Completion:
    """Nothing predicts an echoed prompt's first token, and only what comes after the prompt was drawn."""
    unknown = [replace(token, logprob=math.nan) for token in done.tokens[:1]]
    drawn = done.token_ids[len(_WORD.findall(prompt)) :]
    return replace(done, token_ids=drawn, tokens=(*unknown, *done.tokens[1:]))


def _read(base: Completion, text: str, labels: Sequence[int], sampling: Sampling, *, end: bool = False) -> Completion:
    """Give a completion its text and the made-up figures that go with it."""
    ids = [1 + zlib.crc32(word.encode()) % 49_151 for word in _WORD.findall(text)] + [END] * end
    verdict = parse_verdict(text, labels, need_rationale=False) if labels else None
    return replace(
        base,
        text=text,
        token_ids=tuple(ids),
        label_logprobs=_label_logprobs(labels, verdict.label) if verdict else {},
        tokens=tuple(map(_token, _WORD.findall(text))) if sampling.alternatives is not None else (),
    )


def _token(word: str) -> Token:
    """A word as a server tells of it; a score has the others as alternatives."""
    if not re.fullmatch(r" [1-5]", word):
        return Token(word.encode(), -0.1)
    told = _label_logprobs(range(1, 6), int(word))
    return Token(word.encode(), told[int(word)], tuple((f" {label}".encode(), value) for label, value in told.items()))


def _label_logprobs(labels: Sequence[int], written: int) -> dict[int, float]:
    rest = (1 - _SURE) / max(len(labels) - 1, 1)
    return {label: math.log(_SURE if label == written else rest) for label in labels}
