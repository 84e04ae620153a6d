"""One sequence being written: stop texts, what a stream shows, recorded tokens, and failures that stay its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.prompt import Prompt
from recipe.inference.sequence import Sample, draw_next

VOCABULARY = 300
END = 299


class Bytes:
    """A vocabulary with a token for each byte."""

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return b"" if token >= 256 else bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END


def sample_of(number: int = 0, *, grammar: Any = None, opened: bytes = b"", **sampling: Any) -> Sample:
    request, ids = Request(f"r{number}", ()), np.array([1], np.int32)
    return Sample(Prompt(request, Sampling(**sampling), ids, 99, opened=opened, grammar=grammar), 0, Bytes())


def row_for(token: int, other: int = 7) -> np.ndarray[Any, np.dtype[np.float32]]:
    row = np.full(VOCABULARY, -20, np.float32)
    row[token], row[other] = 5, 4
    return row


def write(sample: Sample, text: bytes) -> tuple[Completion | None, str]:
    """Let it draw these bytes and the end; its completion, and what a stream of it shows."""
    shown = ""
    for token in (*text, END):
        (done,) = draw_next([sample], row_for(token)[None, :])
        shown += sample.shown()
        if done is not None:
            return done, shown
    return None, shown


@given(
    st.text(alphabet="ab\né😀", max_size=20), st.lists(st.text(alphabet="ab\né", min_size=1, max_size=3), max_size=3)
)
def test_a_stop_text_ends_the_answer_and_a_stream_never_shows_it(text: str, stops: list[str]) -> None:
    done, shown = write(sample_of(temperature=0, stop=tuple(stops)), text.encode())
    assert done is not None
    # The first place at which one is complete counts, as tokens come one by one.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    first = [text.find(stop) for stop in stops if stop in text and text.find(stop) + len(stop) == min(ends)]
    assert done.text == shown == (text[: min(first)] if first else text)
    assert done.finish == "stop"


@given(st.binary(max_size=12), st.integers(1, 12))
def test_a_stream_shows_whole_characters_and_the_same_text(text: bytes, most: int) -> None:
    done, shown = write(sample_of(temperature=0, max_tokens=most), text)
    assert done is not None
    assert done.text == shown


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_half_a_character_at_the_end_is_left_out(cut: int) -> None:
    done, shown = write(sample_of(temperature=0, max_tokens=1 + cut), "a😀".encode())
    assert done is not None
    assert (done.text, shown, done.finish) == ("a", "a", "length")


def test_reasoning_that_the_prompt_opened_belongs_to_the_text() -> None:
    done, shown = write(sample_of(temperature=0, opened=b"<think>\n"), b"Hm.</think>Yes.")
    assert done is not None
    assert done.text == shown == "<think>\nHm.</think>Yes."


def test_drawn_tokens_are_recorded_with_their_alternatives() -> None:
    done, _ = write(sample_of(temperature=0, alternatives=2, stop=("c",)), b"abc")
    assert done is not None
    assert [token.piece for token in done.tokens] == [b"a", b"b"]
    (first, second) = done.tokens[0].top
    assert (first[0], second[0]) == (b"a", bytes([7]))
    assert math.exp(first[1]) + math.exp(second[1]) == pytest.approx(1, abs=1e-6)
    assert done.tokens[0].logprob == first[1]
    assert write(sample_of(temperature=0, alternatives=0), b"a")[0].tokens[0].top == ()  # type: ignore[union-attr]
    assert write(sample_of(temperature=0), b"a")[0].tokens == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_their_own_sample_alone(damage: float, temperature: float) -> None:
    samples = [sample_of(k, temperature=temperature) for k in range(3)]
    alone = [sample_of(k, temperature=temperature) for k in range(3)]
    rows = np.stack([row_for(97 + k, 100 + k) for k in range(3)])
    clean = rows.copy()
    rows[1, 5] = damage
    found = draw_next(samples, rows)
    assert found[0] is found[2] is None
    assert found[1] is not None
    assert (found[1].request_id, found[1].finish) == ("r1", "error")
    assert "not finite" in found[1].error
    draw_next(alone, clean)
    assert [samples[k].tokens for k in (0, 2)] == [alone[k].tokens for k in (0, 2)]


class Digits:
    """A grammar of digits alone, which allows nothing after `most` of them."""

    def __init__(self, most: int = 9) -> None:
        self.left = most

    def allows(self, token: int) -> bool:
        return self.left > 0 and 48 <= token < 58

    def masked(self, row: Any) -> Any:
        allowed = [self.allows(token) for token in range(len(row))]
        return np.where(allowed, row, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self.left -= 1


def test_a_grammar_replaces_what_it_does_not_allow() -> None:
    sample = sample_of(temperature=0, grammar=Digits, max_tokens=3)
    free = sample_of(1, temperature=0)
    for drawn in (97, 49, 98):
        rows = np.stack([row_for(drawn, 52), row_for(97)])
        done, other = draw_next([sample, free], rows)
    assert done is not None
    assert done.text == "414"
    assert other is None
    assert bytes(free.written) == b"aaa"


def test_a_text_that_its_grammar_lets_not_go_on_has_failed() -> None:
    sample = sample_of(temperature=0, grammar=lambda: Digits(1))
    assert draw_next([sample], row_for(49)[None, :]) == [None]
    (done,) = draw_next([sample], row_for(49)[None, :])
    assert done is not None
    assert done.finish == "error"


def choosing(*choices: bytes) -> Sample:
    request = Request("r", (), choices=tuple(choice.decode() for choice in choices))
    runs = tuple(list(choice) for choice in choices)
    return Sample(Prompt(request, Sampling(), np.array([1], np.int32), 9, choices=runs), 0, Bytes())


def test_a_choice_is_written_whatever_else_is_more_probable() -> None:
    sample = choosing(b"ab", b"ac", b"ba")
    row = row_for(ord("x"))
    row[ord("a")], row[ord("b")], row[ord("c")] = 1, 2, 3  # "b" leads, and can only go on with "a"
    assert draw_next([sample], row[None, :]) == [None]
    (done,) = draw_next([sample], row[None, :])
    assert done is not None
    assert (done.text, done.finish, list(done.token_ids)) == ("ba", "forced", list(b"ba"))


def test_no_choice_is_read_from_logits_that_are_not_finite() -> None:
    (done,) = draw_next([choosing(b"a", b"b")], np.full((1, VOCABULARY), np.nan))
    assert done is not None
    assert done.finish == "error"
    assert "not finite" in done.error
