"""A model that is a hash, and its cache: any mix-up of tokens changes what is drawn."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from recipe.inference.base import Request, Sampling
from recipe.inference.prompt import Prompt

VOCABULARY = 40
END = 0


class FakeTokenizer:
    vocab_size = VOCABULARY

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) % VOCABULARY for c in text]

    def piece(self, token: int) -> bytes:
        return b"" if token == END else chr(96 + token).encode()

    def is_end(self, token: int) -> bool:
        return token == END


class FakeCache(FakeTokenizer):
    """A cache of `cells`; the logits after a sequence are a hash of its tokens, so any mix-up changes what is drawn."""

    def __init__(self, cells: int, sequences: int, batch: int, *, shares: bool = True) -> None:
        self.cells, self.sequences, self.batch, self.shares = cells, sequences, batch, shares
        self.owners: list[tuple[int, int, set[int]]] = []  # decoded cells: token, position, sequences
        self.pending: list[tuple[int, int, set[int], bool]] = []
        self.positions: list[int] = []  # of all tokens that were ever added
        self.most = 0
        self.batches = 0
        self.damaged = False
        self.wiped = 0

    @property
    def filled(self) -> int:
        return len(self.pending)

    @property
    def room(self) -> int:
        return self.batch - len(self.pending)

    def add(self, tokens: Any, position: int, sequence: int, outputs: int) -> None:
        for place, token in enumerate(tokens):
            wanted = place >= len(tokens) - outputs
            self.pending.append((int(token), position + place, {sequence}, wanted))
            self.positions.append(position + place)
        assert len(self.pending) <= self.batch

    def share(self, source: int, target: int, length: int | None = None) -> None:
        cells = [*self.owners, *(cell[:3] for cell in self.pending)]
        assert not any(target in owners for _, __, owners in cells), "the target must be empty"
        for _, position, owners in cells:
            if source in owners and (length is None or position < length):
                owners.add(target)

    def drop(self, sequence: int) -> None:
        for _, __, owners in self.owners:
            owners.discard(sequence)
        self.owners = [cell for cell in self.owners if cell[2]]

    def wipe(self) -> None:
        assert not self.owners, "nothing may be in use"
        self.damaged = False
        self.wiped += 1

    def decode(self) -> NDArray[np.float32]:
        assert self.pending
        self.batches += 1
        self.owners += [cell[:3] for cell in self.pending]
        self.most = max(self.most, len(self.owners))
        assert len(self.owners) <= self.cells, "more cells than there are"
        rows = [
            logits([t for t, _, __ in sorted(self.seen(next(iter(owners)), position), key=lambda cell: cell[1])])
            for _, position, owners, wanted in self.pending
            if wanted
        ]
        self.pending = []
        return np.array(rows, np.float32).reshape(-1, VOCABULARY)

    def seen(self, sequence: int, position: int) -> list[tuple[int, int, set[int]]]:
        found = [cell for cell in self.owners if sequence in cell[2] and cell[1] <= position]
        assert sorted(cell[1] for cell in found) == list(range(position + 1)), "one token at each position"
        return found


def logits(tokens: list[int]) -> NDArray[np.float32]:
    digest = hashlib.blake2b(bytes(tokens), digest_size=VOCABULARY).digest()
    return np.frombuffer(digest, np.uint8).astype(np.float32)


def alone(ids: list[int], max_tokens: int) -> list[int]:
    """What greedy decoding of one prompt draws, with nothing beside it."""
    drawn: list[int] = []
    while len(drawn) < max_tokens and END not in drawn:
        drawn.append(int(logits([*ids, *drawn]).argmax()))
    return drawn


def prompt(name: str, ids: list[int], n: int = 1, max_tokens: int = 6, temperature: float = 0) -> Prompt:
    sampling = Sampling(temperature=temperature, n=n, max_tokens=max_tokens)
    return Prompt(Request(name, ()), sampling, np.array(ids, np.int32), max_tokens)


# Few tokens and short stems, so that prompts share beginnings, repeat and are beginnings of each other.
stems = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=3)
prompts = stems.flatmap(
    lambda found: st.lists(
        st.tuples(st.sampled_from(found), st.lists(st.integers(1, 3), max_size=8)).map(lambda two: two[0] + two[1]),
        min_size=1,
        max_size=12,
    )
)
