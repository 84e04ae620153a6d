"""Requests become prompts: what can't be read, or doesn't fit, belongs to its own request."""

from __future__ import annotations

from typing import Any

import pytest

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Request, Sampling
from recipe.inference.prompt import PromptReader


class Letters:
    """A vocabulary of characters."""

    def tokenize(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def piece(self, token: int) -> bytes:
        return chr(token).encode()

    def is_end(self, token: int) -> bool:
        return False


def encode(request: Request) -> tuple[list[int], bytes]:
    """The request's text; a digit is what its code is divided by."""
    text = request.messages[0].content
    return [ord(c) // int(c) if c.isdigit() else ord(c) for c in text], b""


READER = PromptReader(Letters(), encode, context=20)


def ask(name: str, text: str, **more: Any) -> Request:
    return Request(name, (Message("user", text),), **more)


def test_what_a_template_raises_belongs_to_one_request() -> None:
    requests = [ask("a", "one"), ask("b", "two 0"), ask("c", "three", labels=(1, 100), force_label=True)]
    prompts, refused = READER.read_all(requests, Sampling(n=2, max_tokens=4))
    assert [prompt.request.id for prompt in prompts] == ["a"]
    assert [(c.request_id, c.sample, c.finish) for c in refused] == [
        (name, k, "error") for name in ("b", "c") for k in (0, 1)
    ]
    assert refused[0].error.startswith("ZeroDivisionError")
    assert "[1, 100]" in refused[2].error


@pytest.mark.parametrize(("text", "why"), [("", "the prompt is empty"), ("x" * 17, "17 tokens"), ("x" * 16, "")])
def test_a_prompt_that_is_empty_or_too_long_is_an_error_of_each_sample(text: str, why: str) -> None:
    prompts, refused = READER.read_all([ask("a", text)], Sampling(n=3, max_tokens=4))
    assert [c.finish for c in refused] == ["error"] * (3 if why else 0)
    assert all(why in c.error for c in refused)
    assert len(prompts) == (not why)


def test_a_prompt_that_is_too_long_names_the_option_and_the_answer_only_where_it_takes_tokens() -> None:
    (_, refused) = READER.read_all([ask("a", "x" * 30)], Sampling(max_tokens=4))
    assert "answer needs 4" in refused[0].error
    (_, refused) = READER.read_all([ask("a", "x" * 30, labels=(1, 2), label_only=True)], Sampling())
    assert "--context" in refused[0].error
    assert "answer" not in refused[0].error


def test_a_label_alone_ends_the_prompt_with_its_marker() -> None:
    prompt = READER.read(ask("a", "word", labels=(1, 2), label_only=True), Sampling(n=3, max_tokens=99))
    assert "".join(map(chr, prompt.ids)) == "word[RESULT] "
    assert (prompt.size, prompt.reserve, prompt.samples) == (4, 0, 1)
    assert prompt.label_tokens == {1: (ord("1"),), 2: (ord("2"),)}


def test_max_tokens_are_cut_to_what_the_context_leaves_where_asked() -> None:
    prompt = READER.read(ask("a", "x" * 15), Sampling(max_tokens=99, fit=True))
    assert prompt.sampling.max_tokens == prompt.reserve == 5


def test_two_requests_of_one_id_are_refused() -> None:
    with pytest.raises(SreError, match="same id"):
        READER.read_all([ask("a", "x"), ask("a", "y")], Sampling())


def test_a_label_that_is_not_named_is_refused() -> None:
    with pytest.raises(SreError, match="names none"):
        READER.read(ask("a", "x", label_only=True), Sampling())
