"""One sequence being written: what a drawn token does to it, and when its judgement is complete.

Knows no model and no cache: it is given each token with its bytes, and the logits that it was drawn from.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion, Request, Sampling, Token
from recipe.inference.labels import LabelPlaces, LabelTokens, label_logprobs, last_well_formed, whole_characters
from recipe.inference.stats import Stats
from recipe.inference.token_sampling import DamagedLogitsError, Drawer, log_total, most_probable_tokens, stream
from recipe.verdict import parse_verdict

Finish = Literal["stop", "length", "forced"]
Row = NDArray[np.float32]


@dataclass(frozen=True)
class Prompt:
    """A request with its prompt's token ids and how to draw. `reserve`: cells one sample may need after the prompt.

    A label-only prompt ends with the marker, and `label_tokens` are the labels of which one comes next. opened: the tag
    of reasoning (`<think>`) that the prompt ends with, part of the answer. grammar: makes one for a sample.
    """

    request: Request
    ids: NDArray[np.int32]
    places: LabelPlaces | None
    reserve: int
    sampling: Sampling
    label_tokens: LabelTokens | None = None
    opened: bytes = b""
    grammar: Callable[[], Any] | None = None

    @property
    def samples(self) -> int:
        return 1 if self.label_tokens else self.sampling.n


@dataclass
class Sample:
    """`pending` are the tokens to decode next; the last one's logits give the next token.

    slot: its sequence in the cache. position: of the next token there. uniforms: what it draws with. piece, is_end:
    the model's vocabulary. found: labels met so far as (begin, end, log-probabilities), byte offsets of the label's
    token in `written`. forced: the label tokens to choose among once `pending` is decoded.
    """

    prompt: Prompt
    index: int
    slot: int
    piece: Callable[[int], bytes]
    is_end: Callable[[int], bool]
    pending: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    written: bytearray = field(default_factory=bytearray)
    found: list[tuple[int, int, dict[int, float]]] = field(default_factory=list)
    forced: LabelTokens | None = None
    told: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.position = len(self.prompt.ids)
        self.uniforms = stream(self.prompt.sampling.seed, self.prompt.request.id, self.index)
        self.written += self.prompt.opened
        self.grammar = self.prompt.grammar() if self.prompt.grammar else None
        self._stops = [text.encode() for text in self.prompt.sampling.stop]
        self._shown = self._held = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def draws(self) -> bool:
        """Whether the next token is drawn freely."""
        return self.forced is None and len(self.tokens) < self.prompt.sampling.max_tokens

    def advance(self, token: int, logprob: list[float], row: Row) -> Completion | None:
        """Go on with `token`, drawn from `row` [vocabulary], or with what is forced; the completion, if this ends it.

        `logprob` holds the token's log-probability where it is recorded.
        """
        if self.forced is not None:
            return self._force(self.forced, row)
        if not self.draws:
            return self._end("length", row)
        self.logprobs += logprob
        return self._take(token, row)

    def shown(self) -> str:
        """What was written since the last call: whole characters, and nothing that may become a stop text."""
        end = len(self.written) - self._held
        fresh = self._decoder.decode(bytes(self.written[self._shown : end]))
        self._shown = max(self._shown, end)
        return fresh

    def _take(self, token: int, row: Row) -> Completion | None:
        sampling, places = self.prompt.sampling, self.prompt.places
        self.tokens.append(token)
        if self.is_end(token) and not sampling.ignore_end:
            self.pending = []
            return self._end("stop", row)
        piece = self.piece(token)
        tokens = places.at(self.written, piece) if places else None
        if tokens:
            begin = len(self.written)
            self.found.append((begin, begin + len(piece), label_logprobs(row, tokens)))
        self.written += piece
        self.pending = [token]
        if sampling.alternatives is not None:
            self.told.append(self._token(token, row, sampling.alternatives))
        if self._stops and self._stopped(len(piece)):
            return self._completion("stop")
        if self.grammar:
            self.grammar.accept(token)
        if tokens and sampling.stop_at_label:
            return self._completion("stop")
        if len(self.tokens) >= sampling.max_tokens:
            return self._end("length", row)
        return None

    def _token(self, token: int, row: Row, alternatives: int) -> Token:
        total = float(log_total(row[None, :])[0])
        top = ((self.piece(other), float(row[other]) - total) for other in most_probable_tokens(row, alternatives))
        return Token(self.piece(token), float(row[token]) - total, tuple(top))

    def _stopped(self, fresh: int) -> bool:
        """Whether a stop text stands in what was written, of which `fresh` bytes are new; it is taken away then."""
        longest = max(map(len, self._stops))
        begin = max(0, len(self.written) - fresh - longest)
        places = [place for stop in self._stops if (place := self.written.find(stop, begin)) >= 0]
        if places:
            del self.written[min(places) :]
            return True
        sizes = range(min(longest - 1, len(self.written)), 0, -1)
        self._held = next((n for n in sizes if any(stop.startswith(self.written[-n:]) for stop in self._stops)), 0)
        return False

    def _end(self, finish: Finish, row: Row) -> Completion | None:
        """The model came to its end: complete, or lead on to a label where one must follow.

        `row` are the logits before `pending`, so they are the label's own only if nothing is pending.
        """
        request, places = self.prompt.request, self.prompt.places
        text = self.written.decode("utf-8", "replace")
        if not (request.force_label and places) or parse_verdict(text, request.labels, need_rationale=False):
            return self._completion(finish)
        if finish == "stop":
            self.tokens.pop()
        lead, forced = places.lead_in(self.written)
        self.tokens += lead
        self.written += b"".join(map(self.piece, lead))
        self.pending += lead
        if not self.pending:
            return self._force(forced, row)
        self.forced = forced
        return None

    def _force(self, tokens: LabelTokens, row: Row) -> Completion:
        """Write the most probable label (the lowest of equals)."""
        if not np.isfinite(row.max()):
            return self.failed(str(DamagedLogitsError([])))
        token, logprobs = most_probable(tokens, row)
        begin = len(self.written)
        self.written += self.piece(token)
        self.tokens.append(token)
        self.found.append((begin, len(self.written), logprobs))
        self.logprobs = []
        return self._completion("forced")

    def failed(self, why: str) -> Completion:
        """The completion of a sample that can't go on."""
        return Completion(self.prompt.request.id, self.index, "", (), "error", len(self.prompt.ids), error=why)

    def _completion(self, finish: Finish) -> Completion:
        request = self.prompt.request
        self._held = 0
        sizes = accumulate(len(token.piece) for token in self.told)
        return Completion(
            request_id=request.id,
            sample=self.index,
            text=whole_characters(bytes(self.written)),
            token_ids=tuple(self.tokens),
            finish=finish,
            prompt_tokens=len(self.prompt.ids),
            token_logprobs=tuple(self.logprobs),
            label_logprobs=last_well_formed(bytes(self.written), self.found, request.labels),
            tokens=tuple(token for token, end in zip(self.told, sizes, strict=True) if end <= len(self.written)),
        )


def most_probable(tokens: LabelTokens, row: Row) -> tuple[int, dict[int, float]]:
    """The token of the most probable label (the lowest of equals), and every label's log-probability (nats)."""
    logprobs = label_logprobs(row, tokens)
    return tokens[max(logprobs, key=lambda label: (logprobs[label], -label))], logprobs


def labelled(prompt: Prompt, row: Row, piece: Callable[[int], bytes]) -> Completion:
    """`[RESULT] k` with the most probable label k, read from the logits after a label-only prompt."""
    assert prompt.places is not None
    assert prompt.label_tokens is not None
    lead, _ = prompt.places.lead_in(prompt.opened)
    size = len(prompt.ids) - len(lead)
    if not np.isfinite(row.max()):
        return Completion(prompt.request.id, 0, "", (), "error", size, error=str(DamagedLogitsError([])))
    token, logprobs = most_probable(prompt.label_tokens, row)
    ids = (*lead, token)
    text = b"".join(map(piece, ids)).decode().strip()
    return Completion(prompt.request.id, 0, text, ids, "forced", size, label_logprobs=logprobs)


def draw_next(
    drawer: Drawer, samples: list[Sample], logits: NDArray[np.float32], stats: Stats
) -> list[Completion | None]:
    """Draw the next token of each sample from its row of logits [samples, vocabulary]; the completion of each that it
    ends. Where a row can't be drawn from, that sample alone has failed.
    """
    drawn: dict[int, tuple[int, list[float]]] = {}
    failed: dict[int, Completion | None] = {}
    for how, rows in _groups(samples).items():
        uniforms = [samples[row].uniforms.random() for row in rows]
        chosen = logits if len(rows) == len(samples) else logits[rows]
        try:
            tokens, found = drawer.draw(chosen, uniforms, *how)
        except DamagedLogitsError as error:
            failed |= {rows[place]: samples[rows[place]].failed(str(error)) for place in error.rows}
            whole = [place for place in range(len(rows)) if place not in error.rows]
            rows, uniforms = [rows[place] for place in whole], [uniforms[place] for place in whole]
            tokens, found = drawer.draw(logits[rows], uniforms, *how) if rows else ([], [])
        drawn |= {row: (tokens[k], found[k : k + 1]) for k, row in enumerate(rows)}
        for row in rows:
            if samples[row].grammar:
                try:
                    drawn[row] = (_hold_to(drawer, samples[row], drawn[row][0], logits[row], how), [])
                except DamagedLogitsError:
                    failed[row] = samples[row].failed("the text can't go on in the form that was asked for")
    stats.new_tokens += len(drawn)
    return [
        failed[row] if row in failed else sample.advance(*drawn.get(row, (-1, [])), logits[row])
        for row, sample in enumerate(samples)
    ]


def _hold_to(drawer: Drawer, sample: Sample, token: int, row: Row, how: tuple[float, bool, float]) -> int:
    """The token, or where the sample's grammar doesn't allow it one that it does."""
    assert sample.grammar is not None
    if sample.grammar.allows(token):
        return token
    masked = sample.grammar.masked(row)
    return drawer.draw(masked[None, :], [sample.uniforms.random()], *how)[0][0]


def _groups(samples: list[Sample]) -> dict[tuple[float, bool, float], list[int]]:
    """Rows that are drawn alike, by (temperature, whether log-probabilities are recorded, top_p)."""
    groups: dict[tuple[float, bool, float], list[int]] = {}
    for row, sample in enumerate(samples):
        if sample.draws:
            sampling = sample.prompt.sampling
            groups.setdefault((sampling.temperature, sampling.logprobs, sampling.top_p), []).append(row)
    return groups
