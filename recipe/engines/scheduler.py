"""Continuous batching over one unified KV cache: which token of which sequence is decoded next.

Prompts are walked in sorted order, so that what a prompt shares with any later one is exactly what it shares
with the next. One sequence, the *trunk*, holds the current prompt: it is cut back to the shared beginning and
decoded on from there, and every sample forks from it (cells are shared, nothing is copied). While the samples
of one prompt are drawn, the next prompt rides along in their batches. Nothing depends on the clock: the same
call gives the same batches.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recipe.engines.base import Completion, Request, Sampling
from recipe.engines.drawing import Drawer, stream
from recipe.engines.kvcache import KVCache
from recipe.engines.labels import LabelPlaces, LabelTokens, label_logprobs, last_well_formed, shared_length
from recipe.verdict import parse_verdict

TRUNK = 0  # its sequence id; samples take 1, 2, ...
Finish = Literal["stop", "length", "forced"]


@dataclass
class Stats:
    """Counts of one call. prompt_tokens_total counts a prompt once, however many samples it has; the
    difference to prompt_tokens_decoded was shared. python_seconds is all time not spent inside llama.cpp (the
    caller's excluded).
    """

    prompt_tokens_total: int = 0
    prompt_tokens_decoded: int = 0
    new_tokens: int = 0
    steps: int = 0
    decode_seconds: float = 0.0
    python_seconds: float = 0.0


@dataclass(frozen=True)
class Prompt:
    """A request with its prompt's token ids. `reserve`: cells that one sample may need after the prompt."""

    request: Request
    ids: list[int]
    places: LabelPlaces | None
    reserve: int


@dataclass
class Sample:
    """One sequence being drawn. `pending` are the tokens to decode next; the last one's logits give the next
    token.

    found: labels met so far as (begin, end, log-probabilities), byte offsets of the label's token in
    `written`. forced: the label tokens to choose among once `pending` is decoded.
    """

    prompt: Prompt
    index: int
    slot: int
    position: int
    uniforms: np.random.Generator
    pending: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    written: bytearray = field(default_factory=bytearray)
    found: list[tuple[int, int, dict[int, float]]] = field(default_factory=list)
    forced: LabelTokens | None = None


class Trunk:
    """The sequence that holds the current prompt, and how much of it is decoded."""

    def __init__(self, cache: KVCache, stats: Stats) -> None:
        self._cache, self._stats = cache, stats
        self.ids: list[int] = []
        self.done = 0

    @property
    def missing(self) -> int:
        return len(self.ids) - self.done

    def move(self, ids: list[int]) -> None:
        """Turn to another prompt: keep what it shares, all but its last token, whose logits are wanted."""
        keep = min(shared_length(self.ids[: self.done], ids), len(ids) - 1)
        self.done = keep if keep == self.done else self._cache.cut(TRUNK, keep)
        self.ids = ids

    def feed(self, limit: int) -> bool:
        """Add at most `limit` tokens to the batch; True when they complete the prompt (its logits come)."""
        count = min(limit, self.missing, self._cache.room)
        if count <= 0:
            return False
        last = count == self.missing
        self._cache.add(self.ids[self.done : self.done + count], self.done, [TRUNK], int(last))
        self.done += count
        self._stats.prompt_tokens_decoded += count
        return last

    def finish(self) -> NDArray[np.float32]:
        """Decode the whole prompt alone; the logits [vocabulary] after its last token, a view until the next
        call.
        """
        while True:
            last = self.feed(self._cache.room)
            logits = timed_decode(self._cache, self._stats)
            if last:
                row: NDArray[np.float32] = logits[0]
                return row


def timed_decode(cache: KVCache, stats: Stats) -> NDArray[np.float32]:
    begin = time.perf_counter()
    logits = cache.decode()
    stats.decode_seconds += time.perf_counter() - begin
    stats.steps += 1
    return logits


class Scheduler:
    """Draws the samples of sorted prompts that all fit the context; `run` yields what is finished."""

    def __init__(
        self, cache: KVCache, prompts: Sequence[Prompt], sampling: Sampling, stats: Stats, *, ride_along: int
    ) -> None:
        self._cache, self._sampling, self._stats = cache, sampling, stats
        self._ride_along = ride_along
        self._prompts = prompts
        self._trunk = Trunk(cache, stats)
        self._current = -1  # index of the prompt that the trunk holds
        self._started = sampling.n  # samples of it that have begun
        self._logits: NDArray[np.float32] | None = None  # after its last token, once decoded
        self._free = deque(range(1, cache.sequences))
        self._active: list[Sample] = []
        self._drawer = Drawer(cache.vocab_size, cache.sequences)
        self._orders: dict[int, int] = {}  # slot -> index of its prompt
        runs = [p.ids for p in prompts]
        self._shared = [
            0,
            *(shared_length(a, b) for a, b in itertools.pairwise(runs)),
        ]  # with the prompt before

    def run(self) -> Iterator[Completion]:
        while True:
            yield from self._advance()
            if not self._active and self._trunk.missing == 0 and self._current + 1 >= len(self._prompts):
                return
            for sample in self._active:
                self._cache.add(sample.pending, sample.position, [sample.slot], 1)
                sample.position += len(sample.pending)
            batch, self._active = self._active, []
            # With places left free nothing else is worth the time: the prompt goes first.
            complete = self._trunk.feed(self._ride_along if not self._free else self._cache.room)
            logits = timed_decode(self._cache, self._stats)
            if complete:
                self._logits = logits[-1].copy()
            yield from self._draw(batch, logits[: len(batch)])

    def _advance(self) -> Iterator[Completion]:
        """Start every sample that finds a place; move the trunk on when its prompt has no sample left to
        start.
        """
        while True:
            if self._logits is not None and self._started < self._sampling.n:
                fresh = self._fork()
                if not fresh:
                    return
                yield from self._draw(fresh, np.broadcast_to(self._logits, (len(fresh), self._logits.size)))
            elif self._trunk.missing or self._current + 1 >= len(self._prompts) or not self._fits_next():
                return
            else:
                self._current, self._started, self._logits = self._current + 1, 0, None
                self._trunk.move(self._prompts[self._current].ids)

    def _fork(self) -> list[Sample]:
        """As many samples of the current prompt as places and cells allow."""
        prompt, fresh = self._prompts[self._current], []
        while self._free and self._started < self._sampling.n and self._cells(prompt.reserve) <= self._cache.cells:
            slot, index = self._free.popleft(), self._started
            self._cache.fork(TRUNK, slot)
            uniforms = stream(self._sampling.seed, prompt.request.id, index)
            fresh.append(Sample(prompt, index, slot, len(prompt.ids), uniforms))
            self._orders[slot] = self._current
            self._started += 1
        return fresh

    def _fits_next(self) -> bool:
        following = self._current + 1
        return self._cells(self._prompts[following].reserve, following) <= self._cache.cells

    def _cells(self, extra: int, following: int | None = None) -> int:
        """The most cells that can come into use: every living prompt (shared beginnings once) and its
        samples.
        """
        living = sorted({*self._orders.values(), self._current if following is None else following})
        cells = extra + sum(self._prompts[order].reserve for order in self._orders.values())
        cells += sum(len(self._prompts[order].ids) for order in living)
        return cells - sum(min(self._shared[a + 1 : b + 1]) for a, b in itertools.pairwise(living))

    # --- drawing ---

    def _draw(self, samples: list[Sample], logits: NDArray[np.float32]) -> list[Completion]:
        """Draw the next token of each sample from its row: returns the completed, keeps the others active."""
        if not samples:
            return []
        free = [s.forced is None and len(s.tokens) < self._sampling.max_tokens for s in samples]
        uniforms = [s.uniforms.random() if drawn else 0.0 for s, drawn in zip(samples, free, strict=True)]
        tokens, logprobs = self._drawer.draw(logits, uniforms, self._sampling.temperature, self._sampling.logprobs)
        completions = []
        for row, sample in enumerate(samples):
            if free[row]:
                self._stats.new_tokens += 1
                sample.logprobs += logprobs[row : row + 1]
                completion = self._take(sample, tokens[row], logits[row])
            elif sample.forced is None:
                completion = self._end(sample, "length", logits[row])
            else:
                completion = self._force(sample, sample.forced, logits[row])
            if completion is None:
                self._active.append(sample)
            else:
                completions.append(completion)
                self._cache.drop(sample.slot)
                self._free.append(sample.slot)
                del self._orders[sample.slot]
        return completions

    def _take(self, sample: Sample, token: int, row: NDArray[np.float32]) -> Completion | None:
        """Take in a drawn token; `row` [vocabulary] are the logits that it was drawn from."""
        sample.tokens.append(token)
        if self._cache.is_end(token):
            sample.pending = []
            return self._end(sample, "stop", row)
        piece = self._cache.piece(token)
        tokens = sample.prompt.places.at(sample.written, piece) if sample.prompt.places else None
        if tokens:
            begin = len(sample.written)
            sample.found.append((begin, begin + len(piece), label_logprobs(row, tokens)))
        sample.written += piece
        sample.pending = [token]
        if tokens and self._sampling.stop_at_label:
            return self._completion(sample, "stop")
        if len(sample.tokens) >= self._sampling.max_tokens:
            return self._end(sample, "length", row)
        return None

    def _end(self, sample: Sample, finish: Finish, row: NDArray[np.float32]) -> Completion | None:
        """The model came to its end: complete, or lead on to a label where one must follow.

        `row` are the logits before `pending`, so they are the label's own only if nothing is pending.
        """
        request, places = sample.prompt.request, sample.prompt.places
        text = sample.written.decode("utf-8", "replace")
        if not (request.force_label and places) or parse_verdict(text, request.labels, need_rationale=False):
            return self._completion(sample, finish)
        if finish == "stop":
            sample.tokens.pop()
        lead, forced = places.lead_in(sample.written)
        sample.tokens += lead
        sample.written += b"".join(map(self._cache.piece, lead))
        sample.pending += lead
        if not sample.pending:
            return self._force(sample, forced, row)
        sample.forced = forced
        return None

    def _force(self, sample: Sample, tokens: LabelTokens, row: NDArray[np.float32]) -> Completion:
        """Write the most probable label (the lowest of equals)."""
        logprobs = label_logprobs(row, tokens)
        token = tokens[max(logprobs, key=lambda label: (logprobs[label], -label))]
        begin = len(sample.written)
        sample.written += self._cache.piece(token)
        sample.tokens.append(token)
        sample.found.append((begin, len(sample.written), logprobs))
        sample.logprobs = []
        return self._completion(sample, "forced")

    def _completion(self, sample: Sample, finish: Finish) -> Completion:
        request = sample.prompt.request
        return Completion(
            request_id=request.id,
            sample=sample.index,
            text=sample.written.decode("utf-8", "replace"),
            token_ids=tuple(sample.tokens),
            finish=finish,
            prompt_tokens=len(sample.prompt.ids),
            token_logprobs=tuple(sample.logprobs),
            label_logprobs=last_well_formed(bytes(sample.written), sample.found, request.labels),
        )
