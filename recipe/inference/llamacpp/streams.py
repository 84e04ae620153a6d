"""Batching with a stream of the KV cache for each place: which prompt is read where, and what is decoded next.

For llama.cpp's own attention, where ours (`kernels.py`) isn't at work. A *stream* holds one sequence and nothing else,
so that attention passes over no other sequence's cells; llama.cpp looks at every cell of a shared cache, and at the
lengths of judgements that costs a quarter of the time. A prompt is read in a stream that holds the longest beginning of
it, or gets a copy of that beginning: a copy costs as much as decoding a few tokens. Nothing depends on the clock: the
same requests give the same batches.

For calls whose requests are all known. `scheduler.py` takes requests as they come, prompts too long for a stream each,
and recurrent models.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion
from recipe.inference.labels import shared_length
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.sequence import Prompt, Row, Sample, draw_next, labelled
from recipe.inference.stats import Stats, read_on, timed_decode
from recipe.inference.token_sampling import Drawer

# Copying a stream, and making llama.cpp's graph anew after it, costs about as much as decoding so many tokens.
COPY_TOKENS = 8


@dataclass(eq=False)
class Place:
    """A stream of the cache: it begins with the tokens of `prompt`, which `sample` continues."""

    stream: int
    prompt: Prompt | None = None
    sample: Sample | None = None

    def takes_over(self, prompt: Prompt) -> int:
        """Tokens with which `prompt` can begin here: never its last, whose logits are still to come."""
        return min(shared_length(self.prompt.ids, prompt.ids), len(prompt.ids) - 1) if self.prompt else 0


@dataclass
class Reading:
    """A prompt that has been read, the logits [vocabulary] after it, and how many of its samples have begun."""

    prompt: Prompt
    logits: Row
    started: int = 0


class StreamScheduler:
    """Draws the samples of submitted prompts, in the order submitted; each with its answer must fit a stream.

    copy_tokens: a copy of another stream is made where it saves decoding so many tokens.
    """

    def __init__(self, cache: KVCache, stats: Stats, *, places: int, copy_tokens: int = COPY_TOKENS) -> None:
        self._cache, self._stats, self._copy_tokens = cache, stats, copy_tokens
        self._waiting: deque[Prompt] = deque()
        self._places = [Place(number) for number in range(places)]
        self._reading: Reading | None = None
        self._drawer = Drawer(cache.vocab_size, places)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._reading or any(place.sample for place in self._places))

    def submit(self, prompt: Prompt) -> None:
        self._waiting.append(prompt)

    def step(self) -> list[Completion]:
        """Fill the free places, then decode a token of every sample; or read one label."""
        out: list[Completion] = []
        while (free := self._free()) and (self._reading or self._waiting):
            if self._reading:
                self._fork(self._reading, free, out)
                continue
            prompt = self._waiting.popleft()
            logits = self._read(prompt, free)
            if prompt.label_tokens is not None:
                return [*out, labelled(prompt, logits, self._cache.piece)]
            self._reading = Reading(prompt, logits.copy())
        self._close_ranks()
        samples = [place.sample for place in self._places if place.sample]
        if samples:
            for sample in samples:
                self._cache.add(sample.pending, sample.position, [sample.slot], 1)
                sample.position += len(sample.pending)
            self._draw(samples, timed_decode(self._cache, self._stats), out)
        return out

    def _free(self) -> list[Place]:
        return [place for place in self._places if place.sample is None]

    def _read(self, prompt: Prompt, free: list[Place]) -> NDArray[np.float32]:
        """Decode what a free place lacks of the prompt; the logits [vocabulary] after it, a view until the next
        decode.
        """
        place, source = (
            max(places, key=lambda place: (place.takes_over(prompt), -place.stream)) for places in (free, self._places)
        )
        own, done = place.takes_over(prompt), source.takes_over(prompt)
        if done >= own + self._copy_tokens:
            done = self._cache.copy(source.stream, place.stream, done)
        else:
            done = self._cache.cut(place.stream, own)
        place.prompt = prompt
        return read_on(self._cache, self._stats, prompt.ids, done, place.stream)

    def _fork(self, reading: Reading, free: list[Place], out: list[Completion]) -> None:
        """Begin as many samples of the prompt as there are free places, those first that hold it."""
        prompt, size = reading.prompt, len(reading.prompt.ids)
        source = next(place for place in self._places if place.prompt is prompt)
        fresh = []
        free.sort(key=lambda place: place.prompt is not prompt)
        for place in free[: prompt.samples - reading.started]:
            if place.prompt is prompt:
                self._cache.cut(place.stream, size)
            else:
                self._cache.copy(source.stream, place.stream, size)
            index, reading.started = reading.started, reading.started + 1
            vocabulary = (self._cache.piece, self._cache.is_end)
            place.prompt, place.sample = prompt, Sample(prompt, index, place.stream, *vocabulary)
            fresh.append(place.sample)
        if reading.started == prompt.samples:
            self._reading = None
        self._draw(fresh, np.broadcast_to(reading.logits, (len(fresh), reading.logits.size)), out)

    def _draw(self, samples: list[Sample], logits: NDArray[np.float32], out: list[Completion]) -> None:
        """Draw the next token of each sample; the completed go out and their places are free."""
        for sample, completion in zip(samples, draw_next(self._drawer, samples, logits, self._stats), strict=True):
            if completion is not None:
                out.append(completion)
                self._places[sample.slot].sample = None

    def _close_ranks(self) -> None:
        """Move the last samples to free places before them: llama.cpp decodes neighbouring streams together, and one
        after the other where some between them rest.
        """
        taken = [place for place in self._places if place.sample]
        for place in self._free():
            if not taken or taken[-1].stream < place.stream:
                return
            last = taken.pop()
            assert last.sample is not None
            self._cache.copy(last.stream, place.stream, last.sample.position)
            place.prompt, place.sample, last.sample = last.prompt, last.sample, None
            place.sample.slot = place.stream
