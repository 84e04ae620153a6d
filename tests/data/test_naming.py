"""The names of the responses in a rationale: rewritten, exchanged, read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.data.naming import exchange_names, stated_winner, to_prompt_names
from recipe.data.records import Example, Message, Rubric, exchanged

NAMES = (
    "Response A|response B's|Assistant A|answer (B)|Responses A and B|Response 1|responses 1 or 2|than B.|B's answer"
)
OTHERS = "a|A better one|A and B|B vitamins|R&B|(A) list|option 2|`A and B`|```Response A```|Response 1.5|is|,|.|\n"
PIECES = st.sampled_from([*NAMES.split("|"), *OTHERS.split("|")])
TEXTS = st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Response A is longer; response B's style wins.", "Response 1 is longer; response 2's style wins."),
        ("Assistant A and Answer B differ.", "Response 1 and Response 2 differ."),
        ("Both Responses A and B are short.", "Both Responses 1 and 2 are short."),
        ("Response 1 (A) wins.", "Response 1 wins."),
        ("RESPONSE B is terse.", "RESPONSE 2 is terse."),
        (
            "Between A and B, A is better than B.",
            "Between Response 1 and Response 2, Response 1 is better than Response 2.",
        ),
        ("A's answer is short.", "Response 1's answer is short."),
    ],
)
def test_names_become_the_prompts(text: str, expected: str) -> None:
    assert to_prompt_names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A good answer names a fruit.", "It lists B vitamins and R&B.", "A. First. B. Second.",
        "The response a user wants",
        "Use option 2 of the menu.", "`Response A` is a literal, `A and B` too", "A response is better.",
        "Response 1.5 mg",
        "```python\ndef f(A, B):\n    return A and B\n```", "vitamin A is better than none",
    ],
)  # fmt: skip
def test_what_names_no_response_stays(text: str) -> None:
    assert to_prompt_names(text) == text


@given(TEXTS)
def test_rewriting_twice_changes_nothing_more(text: str) -> None:
    once = to_prompt_names(text)
    assert to_prompt_names(once) == once


@given(TEXTS)
def test_exchanging_twice_gives_the_text_back(text: str) -> None:
    assert exchange_names(exchange_names(text)) == text


@given(TEXTS)
def test_exchanging_changes_digits_only(text: str) -> None:
    other = exchange_names(text)
    assert re.sub(r"[12]", "#", other) == re.sub(r"[12]", "#", text)


@given(TEXTS, st.sampled_from([1, 2, None]))
def test_an_exchanged_pair_exchanged_is_the_pair(text: str, label: int | None) -> None:
    pair = Example(
        "p", "pairwise", (Message("user", "?"),), ("one", "two"), Rubric("Better?"), label, to_prompt_names(text)
    )
    other = exchanged(pair)
    assert (other.responses, other.label) == (("two", "one"), None if label is None else 3 - label)
    assert exchanged(other) == pair
    assert replace(other, id="p") != pair


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("Response 1 is clear. Response 2 is better.", 2),
        ("In conclusion, Response 1 is more detailed than Response 2.", 1),
        ("Response 2 is not as detailed as Response 1.", 1),
        ("Response 1: 8/10\nResponse 2: 7/10", 1),
        ("Response 1 received a lower score.", 2),
        ("I choose the answer provided by Response 2.", 2),
        ("The better response is Response 1.", 1),
        ("I prefer response 2.", 2),
        ("Both are fine.", None),
        ("", None),
    ],
)
def test_the_stated_winner_is_read(text: str, winner: int | None) -> None:
    assert stated_winner(text) == winner
    assert stated_winner(exchange_names(text)) == (None if winner is None else 3 - winner)
