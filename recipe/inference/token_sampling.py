"""Draw tokens from logits in numpy, a whole batch at once. Pure; knows no model and no text."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

# Sums go over blocks first, then inside one block: no running sum over the whole vocabulary.
BLOCK = 256
NUCLEUS = 1024  # tokens sorted at first: nearly every nucleus is smaller
NO_TOKEN = -1
"""What is drawn from logits that are not finite numbers."""
NOT_FINITE = "the model's logits are not finite numbers: its weights are damaged, or it can't read this text"


def stream(seed: int, request_id: str, sample: int) -> np.random.Generator:
    """The random numbers of one sample: they depend on these three arguments and on nothing else."""
    digest = hashlib.blake2b(f"{seed}\0{request_id}\0{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def most_probable_tokens(row: NDArray[np.float32], count: int) -> list[int]:
    """The `count` tokens of the greatest logits [vocabulary], the first of equals first."""
    top = np.argpartition(-row, count)[:count] if count < len(row) else np.arange(len(row))
    found: list[int] = top[np.lexsort((top, -row[top]))].tolist()
    return found


def log_total(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log(sum(exp(logits))) of each row: [rows, vocabulary] -> [rows], in nats."""
    top = logits.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = top[:, 0] + np.log(total)
    return result


class Drawer:
    """Draws one token per row of logits, in buffers that are allocated once."""

    def __init__(self, vocabulary: int, rows: int) -> None:
        self._vocabulary = vocabulary
        self._weights = np.zeros((rows, -(-vocabulary // BLOCK) * BLOCK), np.float32)

    def draw(
        self,
        logits: NDArray[np.float32],
        uniforms: list[float],
        temperature: float,
        logprobs: bool = False,
        top_p: float = 1.0,
    ) -> tuple[list[int], list[float]]:
        """Draw from softmax(logits / temperature), or the first greatest logit at temperature 0.

        Args:
            logits: [rows, vocabulary].
            uniforms: one number in [0, 1) a row; not read at temperature 0.
            temperature: the same for all rows.
            logprobs: whether to record log-probabilities.
            top_p: draw among the most probable tokens that have this share together.

        Returns:
            The tokens (NO_TOKEN in rows that are not finite) and, when asked for, their log-softmax at temperature 1
            (nats); else an empty list.
        """
        tops = logits.max(axis=1)
        bad = np.flatnonzero(~np.isfinite(tops))
        if len(bad):
            logits = logits.copy()
            logits[bad] = tops[bad] = 0
        if temperature == 0:
            tokens = logits.argmax(axis=1)
        else:
            weights, sums = self._exponentials(logits, tops, temperature)
            if top_p < 1:
                sums = _keep_nucleus(weights, top_p)
            tokens = _pick(weights, sums, np.array(uniforms))
        found: list[float] = []
        if logprobs:
            if temperature != 1 or top_p < 1:
                _, sums = self._exponentials(logits, tops, 1.0)
            drawn = logits[np.arange(len(tokens)), tokens].astype(np.float64)
            found = (drawn - tops - np.log(sums.sum(axis=1))).tolist()
        tokens[bad] = NO_TOKEN
        return tokens.tolist(), found

    def _exponentials(
        self, logits: NDArray[np.float32], tops: NDArray[np.float32], temperature: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """exp((logits - top) / temperature), padded with zeros: [rows, blocks, BLOCK], and its sums [rows, blocks]."""
        padded = self._weights[: len(logits)]
        weights = padded[:, : self._vocabulary]
        np.subtract(logits, tops[:, None], out=weights)
        if temperature != 1:
            weights /= np.float32(temperature)
        np.exp(weights, out=weights)
        blocks = padded.reshape(len(logits), -1, BLOCK)
        return blocks, blocks.sum(axis=2).astype(np.float64)


def _keep_nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.float64]:
    """Set all but the most probable tokens of weights [rows, blocks, BLOCK] to 0; the sums of its blocks then."""
    for row in weights.reshape(len(weights), -1):
        wanted = top_p * row.sum(dtype=np.float64)
        for count in (min(NUCLEUS, len(row)), len(row)):
            top = np.argpartition(row, len(row) - count)[-count:]
            top = top[np.argsort(-row[top], kind="stable")]
            running = np.cumsum(row[top], dtype=np.float64)
            if running[-1] >= wanted:
                break
        kept = top[: int(np.searchsorted(running, wanted)) + 1]
        values = row[kept]
        row[:] = 0
        row[kept] = values
    sums: NDArray[np.float64] = weights.sum(axis=2).astype(np.float64)
    return sums


def _pick(weights: NDArray[np.float32], sums: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the running sum of each row of weights [rows, blocks, BLOCK] first exceeds its uniform of the total."""
    rows = np.arange(len(weights))
    running = np.cumsum(sums, axis=1)
    targets = uniforms * running[:, -1]
    blocks = np.minimum((running <= targets[:, None]).sum(axis=1), running.shape[1] - 1)
    inside = np.cumsum(weights[rows, blocks], axis=1, dtype=np.float64)
    rest = targets - np.where(blocks > 0, running[rows, blocks - 1], 0.0)
    # Rounding may carry `rest` past the block: its last token of non-zero weight then.
    last = (inside < inside[:, -1:]).sum(axis=1)
    found: NDArray[np.int64] = blocks * BLOCK + np.minimum((inside <= rest[:, None]).sum(axis=1), last)
    return found
