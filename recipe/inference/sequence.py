"""One answer being written: what a drawn token adds to it, and when it is complete. llama.cpp and PyTorch share it."""

import codecs
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion, Token
from recipe.inference.labels import (
    LabelTokens,
    Tokenizer,
    label_logprobs,
    last_well_formed,
    shared_token,
    whole_logprobs,
)
from recipe.inference.prompt import Prompt
from recipe.inference.token_sampling import NO_TOKEN, NOT_FINITE, draw, log_total, most_probable_tokens, stream
from recipe.verdict import parse_verdict

_STUCK = "the text can't go on in the form that was asked for"

Logits = Callable[[], NDArray[np.float32]]
"""Fetches the logits [vocabulary] of one place; called only where probabilities are read."""


@dataclass(eq=False)
class Sample:
    """One answer. Where a prompt asks for the label alone, its marker is written already."""

    prompt: Prompt
    index: int  # its number among the prompt's samples
    tokenizer: Tokenizer
    pending: list[int] = field(default_factory=list)  # to decode next; the last one's logits give the next token
    tokens: list[int] = field(default_factory=list)  # all so far, the pending ones included
    written: bytearray = field(default_factory=bytearray)
    # The labels met so far: the byte offset in `written` where each ends -> its log-probabilities.
    found: dict[int, dict[int, float]] = field(default_factory=dict)
    recorded: list[Token] = field(default_factory=list)  # the drawn tokens, where they are asked for

    def __post_init__(self) -> None:
        prompt = self.prompt
        # The label tokens to choose among once `pending` is decoded.
        self.forced: LabelTokens | None = prompt.label_tokens
        # Where labels have two tokens, until the logits after the one that they share are read: that token, the tokens
        # of all labels, and the log-probabilities of the first ones.
        self._begun: tuple[int, LabelTokens, dict[int, float]] | None = None
        self._peeks = False  # whether the pending token is decoded for its logits alone and isn't part of the answer
        self.uniforms = stream(prompt.sampling.seed, prompt.request.id, self.index)
        self.grammar = prompt.grammar() if prompt.grammar else None
        self._stops = [text.encode() for text in prompt.sampling.stop]
        self._shown = self._held = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if self.forced is None:
            self.written += prompt.opened
        self._write(prompt.ids[prompt.size :].tolist())
        if prompt.request.echo:
            self.written += (first := self.tokenizer.piece(int(prompt.ids[0])))
            self.recorded += [Token(first, math.nan)] if prompt.sampling.alternatives is not None else []

    @property
    def echoes(self) -> bool:
        """Whether the next token is one of the prompt's."""
        return len(self.tokens) < len(self.prompt.follow)

    @property
    def draws(self) -> bool:
        """Whether the next token is drawn freely."""
        bound = self.prompt.choices or self.forced is not None or self._peeks
        # A label that has begun may end.
        return not bound and len(self.tokens) < self.prompt.sampling.max_tokens + (self._begun is not None)

    @property
    def position(self) -> int:
        """The place of the first pending token in the sequence."""
        return self.prompt.size + len(self.tokens) - len(self.pending)

    def advance(self, token: int, logits: Logits) -> Completion | None:
        """Go on with `token`, or with what is forced; the completion, if this ends the answer.

        `token` was drawn from the logits after `pending`; it is NO_TOKEN where none could be.
        """
        if self.prompt.choices:
            return self._choose(logits())
        if self._peeks:
            return self._end_peek(logits())
        if self.forced is not None:
            return self._force(self.forced, logits)
        if not self.draws:
            return self._end("length", logits)
        if token == NO_TOKEN:
            return self.prompt.failed(self.index, _STUCK if self.grammar else NOT_FINITE)
        return self._take(token, logits)

    def shown(self) -> str:
        """What was written since the last call: whole characters, and nothing that may become a stop text."""
        end = len(self.written) - self._held
        fresh = self._decoder.decode(bytes(self.written[self._shown : end]))
        self._shown = max(self._shown, end)
        return fresh

    def completion(self, finish: Literal["stop", "length", "forced"]) -> Completion:
        """What came of it, without half a character at its end."""
        request = self.prompt.request
        self._held = 0
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self.written))
        sizes = accumulate(len(token.piece) for token in self.recorded)
        return Completion(
            request_id=request.id,
            sample=self.index,
            text=text.strip() if request.label_only else text,
            token_ids=tuple(self.tokens[len(self.prompt.follow) :]),
            finish=finish,
            prompt_tokens=self.prompt.size + len(self.prompt.follow),
            label_logprobs=last_well_formed(bytes(self.written), self.found, request.labels),
            tokens=tuple(token for token, end in zip(self.recorded, sizes, strict=True) if end <= len(self.written)),
        )

    def _take(self, token: int, logits: Logits) -> Completion | None:
        sampling = self.prompt.sampling
        echoed = self.echoes
        piece = self.tokenizer.piece(token)
        if begun := self._begun:
            self.found[len(self.written)] = self.found[len(self.written) + len(piece)] = self._whole(logits())
            if not piece[:1].isdigit():  # the label, if it is one, is complete without this token
                if sampling.stop_at_label and (begun[0],) in begun[1].values():
                    return self.completion("stop")
                if len(self.tokens) >= sampling.max_tokens:
                    self.pending = []
                    return self._end("length", logits)
        self.tokens.append(token)
        if self.tokenizer.is_end(token) and not echoed:
            self.pending = []
            return self._end("stop", logits)
        complete = self._meet_label(piece, begun[1] if begun else {}, logits)
        self.pending = [token]
        if sampling.alternatives is not None:
            self.recorded.append(self._record(token, logits(), sampling.alternatives))
        if self._stops and not echoed and self._stopped(len(piece)):
            return self.completion("stop")
        if self.grammar:
            self.grammar.accept(token)
        if complete and sampling.stop_at_label:
            if not self._begun:
                return self.completion("stop")
            self._peek(self._begun[0])
            return None
        if len(self.tokens) - (self._begun is not None) >= sampling.max_tokens:
            return self._end("length", logits)
        return None

    def _meet_label(self, piece: bytes, begun: LabelTokens, logits: Logits) -> bool:
        """Write `piece`; whether it completes a label. begun: the labels, where the shared token stands before it.

        Where labels share a token, another label's log-probabilities are known only if the answer stops here: then the
        shared token is decoded in its place.
        """
        places = self.prompt.places
        labels = places.at(self.written, piece) if places else None
        self.written += piece
        if not labels:
            return piece in {self.tokenizer.piece(run[1]) for run in begun.values() if len(run) > 1}
        first, shared = label_logprobs(logits(), labels), shared_token(labels)
        if shared is None:
            self.found[len(self.written)] = first
            return True
        begins = piece == self.tokenizer.piece(shared)
        if begins or self.prompt.sampling.stop_at_label:
            self._begun = shared, labels, first
        return not begins

    def _whole(self, row: NDArray[np.float32]) -> dict[int, float]:
        """The log-probabilities of the labels that have begun, from the logits after their shared token."""
        assert self._begun is not None
        assert self.prompt.places is not None
        (_, labels, first), self._begun = self._begun, None
        return whole_logprobs(first, row, labels, self.prompt.places.digits)

    def _peek(self, shared: int) -> None:
        """Decode this token in the place of the last one, for its logits."""
        self.pending, self._peeks = [shared], True

    def _end_peek(self, row: NDArray[np.float32]) -> Completion:
        """Complete the answer with the label that was drawn, or with the forced one."""
        if not np.isfinite(row.max()):
            return self.prompt.failed(self.index, NOT_FINITE)
        logprobs = self._whole(row)
        if self.forced is None:
            self.found[len(self.written)] = logprobs
            return self.completion("stop")
        self.tokens.pop()
        return self._write_label(self.forced, logprobs)

    def _record(self, token: int, row: NDArray[np.float32], alternatives: int) -> Token:
        total = float(log_total(row[None, :])[0])
        piece = self.tokenizer.piece
        top = ((piece(other), float(row[other]) - total) for other in most_probable_tokens(row, alternatives))
        return Token(piece(token), float(row[token]) - total, tuple(top))

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

    def _end(self, finish: Literal["stop", "length"], logits: Logits) -> Completion | None:
        """The model came to its end: complete, or lead on to a label where one must follow.

        `logits` are those before `pending`: they are the label's own only if nothing is pending.
        """
        request, places = self.prompt.request, self.prompt.places
        text = self.written.decode("utf-8", "replace")
        if not (request.force_label and places) or parse_verdict(text, request.labels, need_rationale=False):
            return self.completion(finish)
        if finish == "stop":
            self.tokens.pop()
        lead, forced = places.lead_in(self.written)
        self._write(lead)
        self.pending += lead
        self.forced = forced
        return None if self.pending else self._force(forced, logits)

    def _force(self, labels: LabelTokens, logits: Logits) -> Completion | None:
        """Write the most probable label (the lowest of equals), once its probability is known."""
        row = logits()
        if not np.isfinite(row.max()):
            return self.prompt.failed(self.index, NOT_FINITE)
        logprobs = label_logprobs(row, labels)
        shared = shared_token(labels)
        if shared is None:
            return self._write_label(labels, logprobs)
        self._begun = shared, labels, logprobs
        self.tokens.append(shared)
        self._peek(shared)
        return None

    def _write_label(self, labels: LabelTokens, logprobs: dict[int, float]) -> Completion:
        self._write(labels[max(logprobs, key=lambda label: (logprobs[label], -label))])
        self.found[len(self.written)] = logprobs
        return self.completion("forced")

    def _choose(self, row: NDArray[np.float32]) -> Completion | None:
        """Go on with the most probable token (the first of equals) that leads to a choice."""
        size = len(self.tokens)
        possible = [run for run in self.prompt.choices if run[:size] == self.tokens]
        if not np.isfinite(row.max()):
            return self.prompt.failed(self.index, NOT_FINITE)
        token = max((run[size] for run in possible), key=lambda token: row[token])
        self._write([token])
        self.pending = [token]
        return self.completion("forced") if self.tokens in possible else None

    def _write(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        self.written += b"".join(map(self.tokenizer.piece, tokens))


def draw_next(samples: list[Sample], logits: NDArray[np.float32]) -> list[Completion | None]:
    """Draw the next token of each sample from its row of logits [samples, vocabulary]; the completion of each that it
    ends. Where a row can't be drawn from, its sample alone has failed.
    """
    tokens: dict[int, int] = {}
    alike: dict[tuple[float, float], list[int]] = {}
    for row, sample in enumerate(samples):
        if sample.echoes:
            tokens[row] = sample.prompt.follow[len(sample.tokens)]
        elif sample.draws:
            sampling = sample.prompt.sampling
            alike.setdefault((sampling.temperature, sampling.top_p), []).append(row)
    for (temperature, top_p), rows in alike.items():
        uniforms = [samples[row].uniforms.random() for row in rows]
        chosen = logits if len(rows) == len(samples) else logits[rows]
        for row, token in zip(rows, draw(chosen, uniforms, temperature, top_p), strict=True):
            tokens[row] = token
            sample = samples[row]
            if sample.grammar and token != NO_TOKEN and not sample.grammar.allows(token):
                masked = sample.grammar.masked(logits[row])[None, :]
                (tokens[row],) = draw(masked, [sample.uniforms.random()], temperature, top_p)
    return [
        sample.advance(tokens.get(row, NO_TOKEN), partial(logits.__getitem__, row))
        for row, sample in enumerate(samples)
    ]
