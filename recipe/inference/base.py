"""What the recipe asks of an engine that runs a model, and what comes back.

Nothing here imports a model library. `tests/scripted.py` is a small example of a Generator.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from recipe.data.records import Message

Quantization = Literal["none", "nf4"]


@dataclass(frozen=True)
class Sampling:
    """How to draw. The last four settings are for servers, and only llama.cpp follows them.

    Attributes:
        temperature: 0 takes the most probable token.
        n: Samples of each prompt, which is read once.
        max_tokens: The most tokens of one answer.
        seed: The draws of a sample follow from (seed, request id, sample index).
        stop_at_label: Stop right after a complete label.
        ignore_end: Every answer has exactly max_tokens tokens, for measurements of speed.
        top_p: Draw among the most probable tokens that have this share of the probability together.
        stop: Texts that end the answer; they are not part of it.
        alternatives: Record each drawn token as a Token with so many alternatives; None records none.
        fit: Cut max_tokens to what the context leaves.
    """

    temperature: float = 1.0
    n: int = 1
    max_tokens: int = 256
    seed: int = 0
    stop_at_label: bool = False
    ignore_end: bool = False
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    alternatives: int | None = None
    fit: bool = False


@dataclass(frozen=True)
class Token:
    """A drawn token: its bytes, its log-probability (nats), and the most probable tokens in its place."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
        id: Differs between the requests of one call.
        messages: The conversation, for the model's chat template.
        labels: The allowed labels. Their log-probabilities are recorded where the label stands.
        force_label: An answer that ends without a well-formed label goes on with the marker and the most probable
            allowed label.
        label_only: Nothing is drawn; the marker follows the prompt, and the label is read there.
        choices: The answer is one of these texts, written token by token with the most probable one that leads to a
            choice. No choice may begin with another.
        prompt: A text, or token ids, to go on from in place of `messages`.
        grammar: A JSON schema as text, or a grammar in llama.cpp's form (GBNF), that the answer follows on llama.cpp.
    """

    id: str
    messages: tuple[Message, ...]
    labels: tuple[int, ...] = ()
    force_label: bool = False
    label_only: bool = False
    choices: tuple[str, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    grammar: str = ""


@dataclass(frozen=True)
class Completion:
    """One sample of one request.

    Attributes:
        request_id: The request's id.
        sample: Its number among the request's samples.
        text: What was written.
        token_ids: The drawn tokens, the end token included.
        finish: "stop" (end token, stop text or label), "length", "forced" or "error".
        prompt_tokens: Tokens of the prompt.
        label_logprobs: The log-probability (nats) of each allowed label where the label stands; {} without a label.
        error: Why it failed, e.g. because the prompt is longer than the context.
        tokens: The drawn tokens without the end token, where Sampling.alternatives asks for them.
    """

    request_id: str
    sample: int
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "forced", "error"]
    prompt_tokens: int
    label_logprobs: dict[int, float] = field(default_factory=dict)
    error: str = ""
    tokens: tuple[Token, ...] = ()


class Generator(Protocol):
    """Runs a model. Use it as a context manager; closing it twice is fine."""

    name: str

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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

    def submit(self, request: Request, sampling: Sampling) -> None: ...

    def cancel(self, request_id: str) -> None:
        """Drop a request: nothing more comes of it. An unknown id is ignored."""
        ...

    def step(self) -> list[Piece | Completion]:
        """Decode once. Returns the pieces that were written, in order, and the completions that are finished."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a submitted request is unfinished."""
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
