"""What the recipe asks of an engine that runs a model, and what comes back.

Nothing here imports a model library. `tests/scripted.py` is a small example of a Generator.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from recipe.data.records import Example, Judgement, Message
from recipe.verdict import parse_verdict

Quantization = Literal["none", "nf4"]


@dataclass(frozen=True)
class Sampling:
    """How to draw. The last four settings are for servers, and only llama.cpp follows them."""

    temperature: float = 1.0  # 0 takes the most probable token
    n: int = 1  # samples of each prompt, which is read once
    max_tokens: int = 256  # the most of one answer
    seed: int = 0  # the draws of a sample follow from (seed, request id, sample index)
    stop_at_label: bool = False  # stop right after a complete label
    top_p: float = 1.0  # draw among the most probable tokens that have this share of the probability together
    stop: tuple[str, ...] = ()  # texts that end the answer; they are not part of it
    alternatives: int | None = None  # record each drawn token as a Token with so many alternatives; None records none
    fit: bool = False  # cut max_tokens to what the context leaves


@dataclass(frozen=True)
class Token:
    """A drawn token: its bytes, its log-probability (nats), and the most probable tokens in its place.

    NaN is the log-probability of the first token of an echoed prompt.
    """

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt."""

    id: str  # differs between the requests of one call
    messages: tuple[Message, ...]  # the conversation, for the model's chat template
    labels: tuple[int, ...] = ()  # the allowed ones; their log-probabilities are recorded where the label stands
    # An answer that ends without a well-formed label goes on with the marker and the most probable allowed label.
    force_label: bool = False
    label_only: bool = False  # nothing is drawn: the marker follows the prompt, and the label is read there
    # The answer is one of these texts, written token by token with the most probable one that leads to a choice. No
    # choice may begin with another.
    choices: tuple[str, ...] = ()
    prompt: str | tuple[int, ...] | None = None  # a text, or token ids, to go on from in place of `messages`
    echo: bool = False  # the answer begins with `prompt`, read token by token and recorded as if it were drawn
    grammar: str = ""  # a JSON schema, or llama.cpp's GBNF, that the answer follows on llama.cpp

    def samples(self, sampling: Sampling) -> int:
        """How many completions it gets. What is read and not drawn comes once."""
        return 1 if self.label_only or self.choices else sampling.n


@dataclass(frozen=True)
class Completion:
    """One sample of one request."""

    request_id: str
    sample: int  # its number among the request's samples
    text: str
    token_ids: tuple[int, ...]  # the drawn tokens, the end token included
    finish: Literal["stop", "length", "forced", "error"]  # "stop": at the end token, a stop text or the label
    prompt_tokens: int
    # The log-probability (nats) of each allowed label where the label stands; {} without a label.
    label_logprobs: dict[int, float] = field(default_factory=dict)
    error: str = ""  # why it failed, e.g. because the prompt is longer than the context
    tokens: tuple[Token, ...] = ()  # those drawn before the end token, where Sampling.alternatives asks for them


class Closing(ABC):
    """Closes itself at the end of its `with` block. Closing it twice is fine."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Generator(Closing):
    """Runs a model. One that also takes requests as they come, for a server, has a method `session() -> Session`."""

    name: str

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order."""


@dataclass(frozen=True)
class Piece:
    """Text that one sample of a request has just written (whole characters only), for callers that stream."""

    request_id: str
    sample: int
    text: str


class Session(Protocol):
    """Requests batched together as they come (a server). It belongs to one thread.

    A result depends on (seed, request id, sample index); what runs beside it changes rounding alone.
    """

    def submit(self, request: Request, sampling: Sampling) -> None:
        """Queue a request. Raises SreError for one that this engine can't take, e.g. a prompt that is too long."""

    def cancel(self, request_id: str) -> None:
        """Drop a request: nothing more comes of it. An unknown id is ignored."""

    def step(self) -> list[Piece | Completion]:
        """Decode once. Returns the pieces that were written, in order, and the completions that are finished."""

    @property
    def busy(self) -> bool:
        """Whether a submitted request is unfinished."""

    def close(self) -> None:
        """Drop every request; the generator stays open."""


def completions_by_request(completions: Iterable[Completion]) -> dict[str, list[Completion]]:
    """Group a stream by request id, each list in sample order."""
    ordered = sorted(completions, key=lambda completion: (completion.request_id, completion.sample))
    return {key: list(group) for key, group in itertools.groupby(ordered, key=lambda one: one.request_id)}


def to_judgement(example: Example, completion: Completion, origin: str, *, need_rationale: bool = True) -> Judgement:
    """What `completion` says about `example`. The label is None where the text is malformed, or the engine failed.

    origin: who judged, e.g. "iter-1". need_rationale: whether a verdict without a rationale is malformed.
    """
    failed = completion.finish == "error"
    verdict = None if failed else parse_verdict(completion.text, example.labels, need_rationale=need_rationale)
    return Judgement(
        id=f"{example.id}:{origin}:{completion.sample}",
        example_id=example.id,
        task=example.task,
        text="" if failed else completion.text,
        rationale=verdict.rationale if verdict else "",
        label=verdict.label if verdict else None,
        truth=example.label,
        finish=completion.finish,
        tokens=len(completion.token_ids),
        label_logprobs=dict(completion.label_logprobs),
        origin=origin,
    )
