"""What the recipe asks of an engine that runs a model, and what comes back.

Nothing here imports a model library. `tests/scripted.py` is a small example of a Generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from recipe.data.records import Message

Quantization = Literal["none", "nf4"]


@dataclass(frozen=True)
class Sampling:
    """How to draw. temperature 0 is exact argmax. `n` samples share one prefill of the prompt.

    Attributes:
        seed: every draw's stream is derived from (seed, request id, sample index), so a result depends on its
            neighbours by rounding at the most.
        logprobs: record each drawn token's raw log-softmax (nats), end token included.
        stop_at_label: stop right after a complete label (judging); training samples run to the end token.
        ignore_end: an end token ends nothing, every sample has exactly max_tokens tokens (measurements of speed).
        top_p: draw among the most probable tokens that have this share of the probability together.
        stop: texts that end the answer; they are not part of it.
        alternatives: record each drawn token as a Token with so many alternatives; None records none.
        schema: a JSON schema (as text) that the answer must follow.
        fit: cut max_tokens to what the context leaves.

    Only llama.cpp's sessions, which answer a server's requests, follow the last five.
    """

    temperature: float = 1.0
    n: int = 1
    max_tokens: int = 256
    seed: int = 0
    logprobs: bool = False
    stop_at_label: bool = False
    ignore_end: bool = False
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    alternatives: int | None = None
    schema: str = ""
    fit: bool = False


@dataclass(frozen=True)
class Token:
    """A drawn token: the bytes it writes, its log-probability (nats, raw softmax), the most probable in its place."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt. `labels` are the allowed labels: their log-probabilities are recorded at the label's place.

    force_label: when the model ends (or reaches max_tokens) without a well-formed label, the marker is appended and
    the most probable allowed label is taken: constrained decoding, nothing malformed (finish is then "forced").
    label_only: no decoding at all; the marker is appended to the prompt and the label read from one prefill.
    choices: answer with exactly one of these strings, token by token with the most probable one that leads to a choice.
    None of them may begin with another.
    prompt: a text (or token ids) to go on from, in place of messages under a chat template.
    """

    id: str
    messages: tuple[Message, ...]
    labels: tuple[int, ...] = ()
    force_label: bool = False
    label_only: bool = False
    choices: tuple[str, ...] = ()
    prompt: str | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Completion:
    """What came back for one sample of one request.

    token_ids and token_logprobs (when asked for) have one entry per drawn token, end token included.
    label_logprobs: log-probability (nats, normalised over the whole vocabulary) of each allowed label at the label's
    place; empty when the text reached no label. finish: "stop" (end token or label), "length", "forced", or "error"
    (then `error` says why, e.g. a prompt longer than the context). tokens: those drawn, where Sampling.alternatives
    asks for them, without the end token.
    """

    request_id: str
    sample: int
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "forced", "error"]
    prompt_tokens: int
    token_logprobs: tuple[float, ...] = ()
    label_logprobs: dict[int, float] = field(default_factory=dict)
    error: str = ""
    tokens: tuple[Token, ...] = ()


@dataclass
class Stats:
    """What one call of `generate` did.

    Attributes:
        prompt_tokens_total: of every prompt once, however many samples it has.
        prompt_tokens_decoded: those that were computed; the others were shared.
        new_tokens: drawn.
    """

    prompt_tokens_total: int = 0
    prompt_tokens_decoded: int = 0
    new_tokens: int = 0


class Generator(Protocol):
    """RUNS a model: a stream of completions, in any order. Use as a context manager; closing twice is fine."""

    name: str

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Generator: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class Piece:
    """Text that one sample of a request has just written (whole characters only), for callers that stream."""

    request_id: str
    sample: int
    text: str


class Session(Protocol):
    """Requests batched together as they come (a server). One thread owns it; it is not thread-safe.

    `step` does one decode and returns what came of it: pieces in the order written, and finished completions (one per
    sample; an "error" completion for a request that can't fit). A result depends on (seed, request id, sample index)
    and on nothing that runs beside it, beyond floating-point noise.
    """

    def submit(self, request: Request, sampling: Sampling) -> None: ...

    def cancel(self, request_id: str) -> None:
        """Drop a request; nothing more comes of it, its places are free. Unknown ids are ignored."""
        ...

    def step(self) -> list[Piece | Completion]: ...

    @property
    def busy(self) -> bool:
        """True while a submitted request is unfinished."""
        ...

    def close(self) -> None:
        """Drop every request; the generator stays open."""
        ...


class SessionGenerator(Generator, Protocol):
    """A generator that also takes requests as they come: what a server needs."""

    def session(self) -> Session: ...


def completions_by_request(completions: Iterable[Completion]) -> dict[str, list[Completion]]:
    """Group a stream by request id, each list in sample order."""
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.request_id, []).append(completion)
    return {key: sorted(group, key=lambda c: c.sample) for key, group in groups.items()}
