"""What cells hold: missing values, labels in every dress, turns, rubrics."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.data.records import Message, Rubric
from recipe.data.values import (
    TIE,
    missing,
    no_label,
    parsed,
    short,
    to_conversation,
    to_preference,
    to_rubric,
    to_score,
    turns_in,
    whole,
    writable,
)
from recipe.errors import SreError

NAN = float("nan")
SCALE = (1, 2, 3, 4, 5)


@pytest.mark.parametrize("value", [None, NAN, Decimal("NaN")])
def test_nothing_is_missing(value: Any) -> None:
    assert missing(value)
    assert no_label(value)


def test_what_pandas_and_numpy_write_for_nothing_is_missing() -> None:
    numpy = pytest.importorskip("numpy")
    assert missing(numpy.float32("nan"))
    assert missing(numpy.float64("nan"))
    pandas = pytest.importorskip("pandas")
    assert all(missing(value) for value in (pandas.NaT, pandas.NA))


@pytest.mark.parametrize("value", ["", "nan", "NaN", "NaT", "None", "null", "<NA>", " n/a ", "NA", "#N/A", "-nan"])
def test_texts_for_nothing_are_no_label_and_yet_texts(value: str) -> None:
    assert no_label(value)
    assert not missing(value)


@pytest.mark.parametrize(
    "value",
    [4, 4.0, "4", "4.0", " 4 ", "4.", "\u00a04", Decimal("4.00"), Decimal(4), Fraction(4), "4\n", "4,0", "4,00"],
)
def test_a_whole_number_in_any_dress_is_a_score(value: Any) -> None:
    assert to_score(value, SCALE, "score") == 4


def test_numpys_numbers_are_scores() -> None:
    numpy = pytest.importorskip("numpy")
    for kind in ("int8", "int64", "uint16", "float32", "float64"):
        assert to_score(numpy.dtype(kind).type(3), SCALE, "score") == 3
    assert whole(numpy.bool_(True)) is None


@pytest.mark.parametrize(
    "value",
    [
        0,
        6,
        3.5,
        "3.5",
        True,
        "four",
        "4/5",
        "٤",
        [4],
        {"a": 4},
        -1,
        "1e0",
        "1,000",
        "4,5",
        Decimal("4.5"),
        float("inf"),
        b"4",
    ],
)
def test_other_values_are_no_score_and_the_error_names_field_and_scale(value: Any) -> None:
    with pytest.raises(SreError, match="from 1 to 5") as caught:
        to_score(value, SCALE, "my score")
    assert caught.value.field == "my score"


@pytest.mark.parametrize(
    ("value", "scale"), [("0", (0, 1)), (1.0, (0, 1)), ("3", (1, 2, 3)), ("10", tuple(range(1, 11)))]
)
def test_scores_of_other_scales(value: Any, scale: tuple[int, ...]) -> None:
    assert to_score(value, scale, "score") == whole(value)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *(
            (value, 1)
            for value in (
                "left",
                "A is better",
                "candidate_1",
                "'A'",
                1,
                1.0,
                "1",
                "1.0",
                "A",
                "a",
                "A>B",
                "A>>B",
                "[[A]]",
                "Response A",
                "model_a",
                " a ",
                1.2,
            )
        ),
        *(
            (value, 2)
            for value in (
                2,
                "2",
                "B",
                "b",
                "B>A",
                "A<B",
                "response_2",
                "Assistant B",
                "right",
                "**B**",
                "Option B",
                Decimal(2),
                "1.98",
                1.98,
            )
        ),
        *(
            (value, TIE)
            for value in (
                1.5,
                "1.5",
                "tie",
                "Tie",
                "A=B",
                "draw",
                "tie (bothbad)",
                "both",
                "equal",
                0.5,
                "both_bad",
                "tie_bothbad",
                "both good",
                "tie (both good)",
                "=",
                "A~B",
                "TIE!",
                "No preference",
            )
        ),
        *((value, None) for value in (None, "", NAN, "nan")),
    ],
)
def test_preferences_ties_and_half_preferences(value: Any, label: int | None) -> None:
    assert to_preference(value, "winner") == label


@pytest.mark.parametrize("value", [0, "0", 0.0, True, False, "True", "false"])
def test_0_and_truth_values_can_be_read_in_two_ways(value: Any) -> None:
    with pytest.raises(SreError) as caught:
        to_preference(value, "winner")
    assert all(f"--map {name}=" in str(caught.value) for name in ("better_index", "first_is_better"))
    assert caught.value.field == "winner"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (4.5, "round(score)"),
        ("0.75", "0 to 1"),
        ("4,5", "round(score)"),
        *((value, "--rubric that describes each score") for value in (8, "10", 0)),
        *((value, "within 0 to 10") for value in (85, "20", float("inf"))),
        *((value, "score + 3 of -2 to 2") for value in (-2, "-1", -0.5)),
        *((value, "describes both") for value in (True, "FALSE", False)),
        *((value, "number alone") for value in ("4/5", "4 stars", "80%", "04-May", "★★★★☆", "yes", [4], {"value": 4})),
    ],
)
def test_a_score_of_another_scale_says_how_to_go_on(value: Any, advice: str) -> None:
    with pytest.raises(SreError) as caught:
        to_score(value, (1, 2, 3, 4, 5), "score")
    assert advice in str(caught.value)


@pytest.mark.parametrize("value", [3, "C", [1], {"a": 1}, "much", float("inf"), 10**400, -1, 1j, b"A"])
def test_other_values_are_no_preference(value: Any) -> None:
    with pytest.raises(SreError, match="A or B") as caught:
        to_preference(value, "winner")
    assert caught.value.field == "winner"


def test_conversations_come_from_text_dicts_or_messages() -> None:
    assert to_conversation("Hi") == (Message("user", "Hi"),)
    turns = [{"role": "system", "content": "s"}, Message("user", "u")]
    assert to_conversation(turns) == (Message("system", "s"), Message("user", "u"))
    for bad in (
        [],
        5,
        [("user", "x")],
        [{"role": "user"}],
        {"role": "user", "content": "x"},
        [{"role": [], "content": ""}],
    ):
        with pytest.raises(SreError, match="conversation"):
            to_conversation(bad)


@pytest.mark.parametrize(
    ("role", "ours"),
    [("developer", "system"), ("human", "user"), ("gpt", "assistant"), ("tool", "tool"), ("AI", "assistant")],
)
def test_roles_of_other_programs(role: str, ours: str) -> None:
    assert to_conversation([{"role": role, "content": "x", "name": "Ann"}]) == (Message(ours, "x"),)
    assert to_conversation([{"from": role, "value": "x"}]) == (Message(ours, "x"),)


def test_content_in_parts_is_joined_and_other_kinds_of_parts_are_refused() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert to_conversation([{"role": "user", "content": parts}])[0].content == "one\ntwo"
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(SreError, match="no images"):
        to_conversation([{"role": "user", "content": [*parts, picture]}])


def test_a_turn_that_only_calls_tools_shows_the_calls() -> None:
    calls = [{"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    (turn,) = to_conversation([{"role": "assistant", "content": None, "tool_calls": calls}])
    assert json.loads(turn.content) == calls


def test_turns_are_found_in_lists_and_in_their_texts_alone() -> None:
    turns = [{"role": "user", "content": "it's"}]
    for value in (turns, json.dumps(turns), str(turns)):
        assert turns_in(value) == turns
    for text in ("Hi", "[1] a footnote", '[{"value": 3}]', "[", '[{"role": "user"', 5, None, ["a"], {"role": "user"}):
        assert turns_in(text) == []
    with pytest.raises(SreError, match="list of turns"):
        turns_in("[{'content': 'Hi', 'role': 'user'}\n {'content': 'Yes', 'role': 'assistant'}]")


def test_a_transcript_of_hh_rlhf_is_turns() -> None:
    transcript = "\n\nHuman: Hi\nthere\n\nAssistant: Hello.\n\nHuman: Name a fruit.\n\nAssistant: Apple."
    assert [(turn["role"], turn["content"]) for turn in turns_in(transcript)] == [
        ("Human", "Hi\nthere"),
        ("Assistant", "Hello."),
        ("Human", "Name a fruit."),
        ("Assistant", "Apple."),
    ]
    assert len(turns_in("\n\nHuman: Hi\n\nAssistant:")) == 1  # the answer is still to come
    for text in ("Human: Hi", "\n\nHuman: Hi", "I said\n\nHuman: Hi\n\nAssistant: Hello", "\n\nAssistant: Hello"):
        assert turns_in(text) == []


def test_rubrics_come_from_text_mappings_or_rubrics() -> None:
    assert to_rubric("Is it kind?") == Rubric("Is it kind?")
    assert to_rubric({"criteria": "c", "descriptions": {"1": "a", 5: "b"}}) == Rubric("c", {1: "a", 5: "b"})
    assert to_rubric({"criteria": "c", "score1_description": "a", "score2_description": "b"}) == Rubric(
        "c", {1: "a", 2: "b"}
    )
    assert to_rubric({"criteria": "c", "descriptions": {"1": "a", "2": "b", "3": None}}) == Rubric(
        "c", {1: "a", 2: "b"}
    )
    assert to_rubric(Rubric("c", {1: "a", 2: "b"})) == Rubric("c", {1: "a", 2: "b"})
    ten = {str(score): f"level {score}" for score in range(1, 11)}
    assert to_rubric({"criteria": "c", "descriptions": ten}).scores == tuple(range(1, 11))
    for bad in (
        "",
        5,
        {"descriptions": {}},
        Rubric("c", {1: "", 2: "b"}),
        {"criteria": "c", "descriptions": {11: "a", 2: "b"}},
        {"criteria": "c", "descriptions": ["a", "b"]},
        {"criteria": "c", "descriptions": {"one": "a"}},
        {"criteria": "c", "descriptions": {"1": "a"}},
    ):
        with pytest.raises(SreError, match="rubric"):
            to_rubric(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.decimals() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_value_can_be_written_and_shown(value: Any) -> None:
    text = json.dumps(writable(value), allow_nan=False)
    text.encode()
    assert writable(json.loads(text)) == json.loads(text)
    assert len(short(value)) <= 60
    short(value).encode()


@given(json_values)
def test_any_value_is_a_label_or_an_error(value: Any) -> None:
    for read in (
        lambda: to_score(value, SCALE, "f"),
        lambda: to_preference(value, "f"),
        lambda: to_conversation(value),
    ):
        try:
            read()
        except SreError:
            continue


def test_values_without_a_json_form_are_written_as_text() -> None:
    assert writable({"day": datetime.date(2024, 5, 1), "x": [NAN, float("inf")]}) == {
        "day": "2024-05-01",
        "x": [None, None],
    }
    assert writable("a\ud800b") == "a?b"


@given(st.text())
def test_any_text_is_parsed_or_is_none(text: str) -> None:
    parsed(text)
