"""Continuous batching over one KV cache: which token of which sequence is decoded next.

A *lane* is a prompt being read. It begins with the tokens that it shares with another prompt in the cache, which are
neither decoded again nor copied. When a lane is read, its samples fork from it and are drawn side by side, while the
next lanes are read in the same batches. Finished lanes stay, for others to begin with, until the room is needed: the
least recently used goes first. Nothing depends on the clock: the same requests give the same batches.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion, Piece
from recipe.inference.labels import shared_length
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.prompt import Prompt
from recipe.inference.sequence import Sample, draw_next

NO_SLOT = -1  # the slot of a sample that is complete as soon as it is drawn: a label read from the prompt's logits


@dataclass(eq=False)
class Lane:
    prompt: Prompt
    slot: int  # its sequence in the cache
    source: Lane | None = None  # the lane that it begins with, until that one has read as much
    shared: int = 0  # how many of the source's tokens it begins with
    done: int = 0  # how many of its tokens are decoded or in the next batch
    started: int = 0  # how many samples have forked from it
    logits: NDArray[np.float32] | None = None  # those after its last token [vocabulary]

    @property
    def missing(self) -> int:
        return len(self.prompt.ids) - (self.shared if self.source else self.done)


class Scheduler:
    """Draws the samples of submitted prompts, in the order submitted. Every prompt alone must fit the cache."""

    def __init__(self, cache: KVCache, *, parallel: int, ride_along: int, keep: int = 1, stream: bool = False) -> None:
        """Draw `parallel` samples side by side on an open cache.

        ride_along: the most prompt tokens in a batch while every place is taken. keep: prompts that stay in the cache
        after their samples began. stream: also return the pieces of text as they come.
        """
        self._cache = cache
        self._ride_along, self._keep, self._stream = ride_along, keep, stream
        self._waiting: deque[Prompt] = deque()
        self._lanes: list[Lane] = []
        self._kept: list[Lane] = []  # least recently used first
        self._active: dict[Sample, int] = {}  # its slot
        self._places = parallel
        self._free = deque(range(cache.sequences))

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._lanes or self._active)

    def submit(self, prompt: Prompt) -> None:
        self._waiting.append(prompt)

    def cancel(self, request_id: str) -> None:
        """Forget a request: its places and cells are free again."""
        self._waiting = deque(prompt for prompt in self._waiting if prompt.request.id != request_id)
        for lane in [lane for lane in self._lanes if lane.prompt.request.id == request_id]:
            self._lanes.remove(lane)
            for place, other in enumerate(self._lanes):
                if other.source is lane:
                    other.source, other.shared = None, 0
                    self._find_source(other, self._lanes[:place])
            self._release(lane.slot)
        for sample in [sample for sample in self._active if sample.prompt.request.id == request_id]:
            self._release(self._active.pop(sample))

    def step(self) -> list[Piece | Completion]:
        """Start what can start, decode one batch, draw from it; what came of it."""
        out: list[Piece | Completion] = []
        if self._cache.damaged and not (self._lanes or self._active):
            self._drop_kept(0)
            self._cache.wipe()
        self._admit()
        self._fork(out)
        if not self._fill():
            return out
        logits = self._cache.decode()
        batch, self._active = self._active, {}
        for row, lane in enumerate(self._complete, len(batch)):
            lane.logits = logits[row].copy()
        self._draw(batch, logits[: len(batch)], out)
        self._fork(out)
        return out

    def _release(self, slot: int) -> None:
        if slot != NO_SLOT:
            self._cache.drop(slot)
            self._free.append(slot)

    # --- prompts ---

    def _admit(self) -> None:
        """Open lanes for waiting prompts: for the places that are free and one more, or, where only labels are read,
        for as many as fill a batch. None while the cache is damaged: it is wiped once it is unused.
        """
        while self._waiting and not self._cache.damaged:
            prompt = self._waiting[0]
            unread = sum(lane.prompt.samples - lane.started for lane in self._lanes if not lane.prompt.at_once)
            if not prompt.at_once and unread > self._places - len(self._active):
                return
            if sum(lane.missing for lane in self._lanes) >= self._cache.batch or not self._make_room(prompt):
                return
            lane = Lane(self._waiting.popleft(), self._free.popleft())
            self._find_source(lane, self._lanes)
            self._lanes.append(lane)

    def _find_source(self, lane: Lane, others: list[Lane]) -> None:
        """Let the lane begin with what it shares most with: one of the lanes `others`, a kept one, a sample's."""
        if not self._cache.shares:
            return
        written = [Lane(s.prompt, slot, done=len(s.prompt.ids)) for s, slot in self._active.items()]
        for other in (*self._kept, *others, *written):
            length = common(lane.prompt.ids, other.prompt.ids)
            if length > lane.shared:
                lane.source, lane.shared = other, length
        if lane.source in self._kept:
            self._kept.append(self._kept.pop(self._kept.index(lane.source)))
        self._begin(lane)

    def _begin(self, lane: Lane) -> None:
        """Give the lane what it shares, once its source has read that much."""
        if lane.source is not None and lane.source.done >= lane.shared:
            self._cache.share(lane.source.slot, lane.slot, lane.shared)
            lane.source, lane.done = None, lane.shared

    def _make_room(self, prompt: Prompt) -> bool:
        """Whether a lane for the prompt fits, after dropping kept prompts as far as needed."""
        while True:
            if len(self._free) > self._places - len(self._active) and self._cells(prompt) <= self._cache.cells:
                return True
            if not self._kept:
                return False
            self._drop_kept(len(self._kept) - 1)

    def _drop_kept(self, count: int) -> None:
        """Drop kept prompts until `count` are left."""
        while len(self._kept) > count:
            self._release(self._kept.pop(0).slot)

    def _cells(self, extra: Prompt | None = None) -> int:
        """The most cells that can come into use: every living prompt (shared beginnings once), its samples, and one
        sample more of each lane that has begun none.
        """
        lanes = [lane.prompt for lane in self._lanes]
        living = {*lanes, *(lane.prompt for lane in self._kept), *(sample.prompt for sample in self._active)}
        first = [lane.prompt for lane in self._lanes if not lane.started]
        if extra is not None:
            living.add(extra)
            first.append(extra)
        reserved = sum(prompt.reserve for prompt in first) + sum(s.prompt.reserve for s in self._active)
        return reserved + tree_size([prompt.ids for prompt in living])

    def _fill(self) -> bool:
        """Fill the next batch: the samples' pending tokens, then prompts. False when there is nothing to decode."""
        for sample, slot in self._active.items():
            self._cache.add(sample.pending, sample.position, slot, 1)
        self._complete: list[Lane] = []
        # With places left free nothing else is worth the time: prompts go first.
        full = len(self._active) >= self._places
        room = self._cache.batch - self._cache.filled
        limit = min(room, self._ride_along) if full else room
        for lane in self._lanes:
            self._begin(lane)
            count = min(limit, len(lane.prompt.ids) - lane.done)
            if lane.source is not None or count <= 0:
                continue
            last = lane.done + count == len(lane.prompt.ids)
            self._cache.add(lane.prompt.ids[lane.done : lane.done + count], lane.done, lane.slot, int(last))
            lane.done += count
            limit -= count
            if last:
                self._complete.append(lane)
        return self._cache.filled > 0

    # --- samples ---

    def _fork(self, out: list[Piece | Completion]) -> None:
        """Start samples of the lanes that are read, as many as places and cells allow; close lanes with none left."""
        for lane in list(self._lanes):
            if lane.logits is None:
                continue
            fresh = self._samples(lane)
            self._draw(fresh, np.broadcast_to(lane.logits, (len(fresh), lane.logits.size)), out)
            if lane.started == lane.prompt.samples:
                self._lanes.remove(lane)
                self._kept.append(lane)
                self._drop_kept(self._keep)

    def _samples(self, lane: Lane) -> dict[Sample, int]:
        """New samples of a lane, and their slots."""
        prompt, fresh = lane.prompt, dict[Sample, int]()
        if prompt.at_once:
            lane.started = 1
            return {Sample(prompt, 0, self._cache): NO_SLOT}
        wanted = min(prompt.samples - lane.started, self._places - len(self._active), len(self._free))
        if not wanted:
            return fresh
        # A lane's first sample has its cells since the lane was opened.
        cells = (self._cache.cells - self._cells()) // max(prompt.reserve, 1) + (not lane.started)
        for _ in range(min(wanted, cells)):
            slot = self._free.popleft()
            self._cache.share(lane.slot, slot)
            fresh[Sample(prompt, lane.started, self._cache)] = slot
            lane.started += 1
        return fresh

    def _draw(self, samples: Mapping[Sample, int], logits: NDArray[np.float32], out: list[Piece | Completion]) -> None:
        """Draw the next token of each sample from its row; the completed go out, the others are active."""
        done = draw_next(list(samples), logits)
        for (sample, slot), completion in zip(samples.items(), done, strict=True):
            if self._stream and (text := sample.shown()):
                out.append(Piece(sample.prompt.request.id, sample.index, text))
            if completion is None:
                self._active[sample] = slot
                continue
            out.append(completion)
            self._release(slot)
            # What is not a number may spread from the cells of a sample that failed.
            self._cache.damaged |= completion.finish == "error"


def common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Tokens that two prompts can share: never the last of either, whose logits are its own."""
    return max(0, min(shared_length(a, b), len(a) - 1, len(b) - 1))


def tree_size(runs: list[NDArray[np.int32]]) -> int:
    """Cells that prompts take which begin with each other's tokens: what several share counts once."""
    ordered = sorted(runs, key=lambda ids: ids.astype(">i4").tobytes())
    return sum(map(len, ordered)) - sum(common(a, b) for a, b in itertools.pairwise(ordered))
