"""One sequence being written: stop texts, what a stream shows, recorded tokens, and failures that stay its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.prompt import Prompt, PromptReader
from recipe.inference.sequence import Sample, draw_next
from recipe.verdict import parse_verdict

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


# --- labels of two tokens: in this vocabulary a 10 is "1" and "0" ---

TO_TEN = tuple(range(1, 11))
LEAD = "Fine. [RESULT] "
Row = np.ndarray[Any, np.dtype[np.float32]]


def model_row(seed: int, ids: list[int], script: bytes) -> Row:
    """The logits after `ids`, the first of which is the prompt: the script's next byte is sure to come; after the
    script, digits and the end are probable.
    """
    if len(ids) <= len(script):
        return row_for(script[len(ids) - 1], script[len(ids) - 1]) * 4
    row = np.random.default_rng([seed, *ids]).normal(size=VOCABULARY).astype(np.float32)
    row[[*range(48, 58), END, 32]] += 4
    row[[ord("0"), ord("1")]] += 3
    row[256:END] = -20  # tokens that write nothing
    return row


def run(seed: int, script: str, *, labels: tuple[int, ...] = TO_TEN, **asked: Any) -> tuple[Completion, bytes]:
    """An answer after a prompt of one token, and its drawn bytes."""
    sampling = Sampling(
        seed=seed, **{name: asked.pop(name) for name in ("stop_at_label", "max_tokens") if name in asked}
    )
    reader = PromptReader(Bytes(), lambda request: ([1], b""), context=200)
    prompt = reader.read(Request("a", (), labels, **asked), sampling)
    sample = Sample(prompt, 0, Bytes())
    ids, decoded = [int(token) for token in prompt.ids], 0
    while True:
        (done,) = draw_next([sample], model_row(seed, ids, script.encode())[None, :])
        if done is not None:
            assert decoded <= prompt.reserve
            return done, bytes(sample.written)
        decoded += len(sample.pending)
        # Where a token is decoded for its logits alone it stands in the last one's place.
        ids = [1, *sample.tokens[: len(sample.tokens) - len(sample.pending)], *sample.pending]


def direct(seed: int, before: bytes, script: str) -> dict[int, float]:
    """The probability of each label after `before`, from the model's rows."""

    def shares(ids: list[int]) -> Any:
        weights = np.exp(model_row(seed, ids, script.encode()).astype(float))
        return weights / weights.sum()

    at = shares([1, *before])
    after = shares([1, *before, ord("1")])
    found = {k: at[ord(str(k))] for k in range(1, 10)}
    found[10], found[1] = found[1] * after[ord("0")], found[1] * (1 - after[48:58].sum())
    return found


@pytest.mark.parametrize("way", ["drawn", "forced", "alone"])
def test_labels_of_two_tokens_have_the_probabilities_of_their_texts(way: str) -> None:
    more = {"drawn": {"stop_at_label": True, "max_tokens": 24}, "forced": {"force_label": True, "max_tokens": 0}}
    asked: dict[str, Any] = more.get(way, {"label_only": True})
    labels = []
    for seed in range(200):
        script = LEAD if way == "drawn" else ""
        done, written = run(seed, script, **asked)
        verdict = parse_verdict(done.text, TO_TEN, need_rationale=False)
        if verdict is None:
            assert done.label_logprobs == {}
            continue
        labels.append(verdict.label)
        if not done.label_logprobs:
            continue
        assert written.endswith(str(verdict.label).encode())
        before = written.removesuffix(str(verdict.label).encode())
        found = {label: math.exp(value) for label, value in done.label_logprobs.items()}
        assert found == pytest.approx(direct(seed, before, script), rel=1e-4)
        if way != "drawn":
            assert verdict.label == max(found, key=lambda label: found[label])
    assert {1, 10} < set(labels)


@pytest.mark.parametrize(
    ("text", "most", "stopped", "free"),
    [
        ("10 of", 99, "10", "10 of"),
        ("1 of", 99, "1", "1 of"),
        ("11 of", 99, "11 of", "11 of"),
        ("12", 99, "12", "12"),
        ("7 of", 99, "7", "7 of"),
        ("10 of", 1, "10", "10"),  # a label that has begun ends
        ("1 of", 1, "1", "1"),
        ("11 of", 1, "11", "11"),
        ("10 of", 2, "10", "10"),
    ],
)
@pytest.mark.parametrize("labels", [TO_TEN, (0, 5, 10)])
def test_where_labels_of_two_tokens_end(text: str, most: int, stopped: str, free: str, labels: tuple[int, ...]) -> None:
    script = LEAD + text
    label = int(text.split()[0])
    for stop, wanted in ((True, stopped), (False, free)):
        if label not in labels and most == 99:
            wanted = free
        done, _ = run(0, script + "\0" * 120, labels=labels, max_tokens=len(LEAD) + most, stop_at_label=stop)
        assert done.text.rstrip("\0") == LEAD + wanted
        verdict = parse_verdict(done.text, labels)
        assert (verdict.label if verdict else None) == (label if label in labels else None)
        told = label in labels and (stop or label in (1, 10))
        assert set(done.label_logprobs) == (set(labels) if told else set())
        if told:
            assert max(done.label_logprobs, key=lambda k: done.label_logprobs[k]) == label


@pytest.mark.parametrize("text", ["11", "1", "Hm", "Hm [RESULT] 1"])
def test_a_label_that_is_none_is_led_on_to_one(text: str) -> None:
    for most in range(len(text) + 1):
        labels = (0, 5, 10) if text.endswith("1") else TO_TEN
        done, _ = run(3, text + "\0" * 40, labels=labels, max_tokens=most, force_label=True, stop_at_label=True)
        verdict = parse_verdict(done.text, labels, need_rationale=False)
        assert verdict is not None
        assert done.finish == "forced"
        assert set(done.label_logprobs) == set(labels)
