"""Draws, ties, nuclei, and rows that are not finite."""

from __future__ import annotations

import numpy as np
import pytest

from recipe.inference.token_sampling import NO_TOKEN, NUCLEUS, draw, most_probable_tokens, stream


@pytest.mark.parametrize("size", [50, 4 * NUCLEUS])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
def test_only_tokens_of_the_nucleus_are_drawn_in_their_proportions(size: int, top_p: float) -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 0.3 if size > 50 else 2, size).astype(np.float32)
    weights = np.exp(logits.astype(np.float64))
    order = np.argsort(-weights)
    kept = order[: int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1]
    rows, uniforms = 2000, generator.random(2000)
    tokens = draw(np.broadcast_to(logits, (rows, size)), uniforms.tolist(), 1.0, top_p)
    assert set(tokens) <= set(kept.tolist())
    expected = weights[order[0]] / weights[kept].sum()
    assert tokens.count(int(order[0])) / rows == pytest.approx(expected, abs=0.05)


def test_the_most_probable_tokens_come_in_order_the_first_of_equals_first() -> None:
    row = np.array([1, 3, 3, 0, 2], np.float32)
    assert most_probable_tokens(row, 3) == [1, 2, 4]
    assert most_probable_tokens(row, 9) == [1, 2, 4, 0, 3]
    assert most_probable_tokens(row, 0) == []


def test_temperatures_and_ties() -> None:
    logits = np.full((1, 300), -5.0, np.float32)
    logits[0, [17, 260]] = 2.0
    assert draw(logits, [0.9], 0.0) == [17]
    shares = np.exp(logits[0].astype(np.float64) / 0.5)
    shares /= shares.sum()
    uniforms = stream(0, "a", 0).random(2000)
    drawn = [draw(logits, [u], 0.5)[0] for u in uniforms]
    assert drawn.count(17) / 2000 == pytest.approx(shares[17], abs=0.04)
    assert drawn.count(260) / 2000 == pytest.approx(shares[260], abs=0.04)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_not_finite_give_no_token_and_change_no_other(damage: float, temperature: float) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    uniforms = [0.2, 0.5, 0.8]
    tokens = draw(logits, uniforms, temperature)
    logits[1, 7] = damage
    assert draw(logits, uniforms, temperature) == [tokens[0], NO_TOKEN, tokens[2]]
    assert draw(logits[1:2], uniforms[:1], temperature) == [NO_TOKEN]
