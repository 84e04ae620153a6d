"""Nuclei and the most probable tokens."""

from __future__ import annotations

import numpy as np
import pytest

from recipe.inference.token_sampling import NUCLEUS, Drawer, most_probable_tokens


@pytest.mark.parametrize("size", [50, 4 * NUCLEUS])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
def test_only_tokens_of_the_nucleus_are_drawn_in_their_proportions(size: int, top_p: float) -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 0.3 if size > 50 else 2, size).astype(np.float32)
    weights = np.exp(logits.astype(np.float64))
    order = np.argsort(-weights)
    kept = order[: int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1]
    rows, uniforms = 2000, generator.random(2000)
    tokens, _ = Drawer(size, rows).draw(np.broadcast_to(logits, (rows, size)), uniforms.tolist(), 1.0, False, top_p)
    assert set(tokens) <= set(kept.tolist())
    expected = weights[order[0]] / weights[kept].sum()
    assert tokens.count(int(order[0])) / rows == pytest.approx(expected, abs=0.05)


def test_log_probabilities_are_those_of_the_whole_vocabulary() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    (token,), (logprob,) = Drawer(3, 1).draw(logits, [0.0], 1.0, True, 0.4)
    assert (token, np.exp(logprob)) == (0, pytest.approx(0.5))


def test_the_most_probable_tokens_come_in_order_the_first_of_equals_first() -> None:
    row = np.array([1, 3, 3, 0, 2], np.float32)
    assert most_probable_tokens(row, 3) == [1, 2, 4]
    assert most_probable_tokens(row, 9) == [1, 2, 4, 0, 3]
    assert most_probable_tokens(row, 0) == []
