"""A rubric as one text gives the scale that it writes, or an error; never another scale."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.data.records import Rubric
from recipe.data.values import split_rubric, to_rubric
from recipe.errors import SreError

SHAPES = {
    "lines": "Score {}: {}\n",
    "list": "- Score {}: {}\n",
    "starred list": "  * Score {}: {}\n",
    "bold": "**Score {}**: {}\n",
    "bold with colon": "**Score {}:** {}\n",
    "bold list": "- **Score {}**: {}\n",
    "lower case": "score {}: {}\n",
    "capitals": "SCORE {} : {}\n",
    "dash": "Score {} - {}\n",
    "of": "A score of {}: {}\n",
    "bare": "{}: {}\n",
    "bare bold": "**{}**: {}\n",
    "bare dash": "{} – {}\n",
    "points": "- {} points: {}\n",
    "list of numbered": "- Level {} -> {}\n",
    "with a full stop": "Score {}. {}\n",
    "wide colon": "Score {}：{}\n",
    "headings": "### Score {}\n{}\n\n",
    "bare arrow": "{} -> {}\n",
    "table rows": "| {} | {} |\n",
    "Windows line ends": "Score {}: {}\r\n",
    "one line": " Score {}: {}",
    "one line, bare": " {}: {};",
    "one line, equals": " {}={},",
}


@pytest.mark.parametrize("scores", [(1, 2, 3, 4, 5), (0, 1), (5, 4, 3, 2, 1), tuple(range(1, 11))], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_written_scale_is_the_scale(shape: str, scores: tuple[int, ...]) -> None:
    if "A score" in shape:
        shape = shape.removeprefix("A ")
    text = "[Are both items fruits?]\n" + "".join(shape.format(score, f"Level {chr(97 + score)}.") for score in scores)
    found = split_rubric(text)
    assert found["criteria"] == "Are both items fruits?"
    assert list(found["descriptions"]) == list(scores)
    assert {text.rstrip(".") for text in found["descriptions"].values()} == {f"Level {chr(97 + k)}" for k in scores}


def test_a_table_with_a_header_and_names_of_scores() -> None:
    table = "Is it good?\n\n| Score | Means |\n|:--|---|\n| 1 | bad |\n| 2 | fine |\n"
    assert split_rubric(table) == {"criteria": "Is it good?", "descriptions": {1: "bad", 2: "fine"}}
    for score in ("{}", "Score {}", "**Score {}", "- {}"):
        named = "".join(f"{score.format(k)} ({name}): it is so.\n" for k, name in ((1, "Poor"), (2, "Good")))
        found = split_rubric(f"Is it good?\n{named}")
        assert found == {
            "criteria": "Is it good?",
            "descriptions": {1: "Poor: it is so.", 2: "Good: it is so."},
        }


def test_a_rubric_may_be_json_or_pythons_text_of_one() -> None:
    given = {"criteria": "Is it good?", "score1_description": "bad", "score2_description": "good"}
    for text in (
        json.dumps(given),
        str(given),
        json.dumps({"criteria": "Is it good?", "descriptions": {1: "bad", 2: "good"}}),
    ):
        assert to_rubric(text) == Rubric("Is it good?", {1: "bad", 2: "good"})


@pytest.mark.parametrize(
    "text",
    [
        "Is it short?",
        "Is it right?\nStep 1: read it.\nStep 2: compare it.",
        "Is it right? Rule 1: no style. Rule 2: no length.",
        "Note 1: ignore style. Note 2: ignore length. Note 3: be strict.",
        "Is it short? Rate it on a scale of 1 to 5.",
        "Check:\n1. Is it short?\n2. Is it kind?",
        "1. Kind: is it?\n2. Short: is it?",
        "At 10:30, is the ratio 1:2? See John 3:16 and 4:2.",
        "Is it fit for grade 9-12 students?",
        "Does the score improve?",
    ],
)
def test_other_numbers_are_criteria(text: str) -> None:
    assert split_rubric(text) == {"criteria": text, "descriptions": {}}


@pytest.mark.parametrize(
    "text",
    [
        "c\nScore 1: a\nScore 1: b",
        "c\nScore 1: a\nScore 3: b",
        "c\nScore 1: a\nScore 5: b",
        "c\nScore 1-2: a\nScore 3-4: b",
        "Is it short? Score it from 1 to 10.",
        "Rate how short it is (1-7).",
        "Rate it from 0 (long) to 10 (short).",
        "Is it good? Give a score out of 10.",
        "Is it good? Rate it x/10.",
        "Use a 7-point Likert scale.",
        "c\nScore -1: a\nScore 0: b\nScore 1: d",
        "c\nScore 1: a\nScore 1.5: b\nScore 2: d",
        "c\n0: a\n0.5: b\n1: d",
        "c\nGrade A: a\nGrade B: b",
        "c\nScore one: a\nScore two: b",
        "c\n<score_1>a</score_1>\n<score_2>b</score_2>",
        "criteria: c\nscore1_description: a\nscore2_description: b",
    ],
)
def test_a_scale_that_can_not_be_told_is_an_error(text: str) -> None:
    with pytest.raises(SreError) as caught:
        split_rubric(text)
    assert caught.value.field == "rubric"


@given(st.text(alphabet="Score 1234-*_:=.\n[](); to", max_size=80))
def test_any_text_is_a_rubric_or_an_error(text: str) -> None:
    try:
        found = split_rubric(text)
    except SreError:
        return
    assert found["criteria"] in text
    assert all(each in text for each in found["descriptions"].values())
