"""One grammar: what is formatted is parsed back, what is not well-formed is malformed and never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.verdict import MARKER, format_verdict, gbnf, parse_pick, parse_rating, parse_verdict, pick_gbnf

SCORES = (1, 2, 3, 4, 5)


@given(st.text(min_size=1).map(str.strip).filter(bool), st.sampled_from(SCORES))
def test_parse_is_the_inverse_of_format(rationale, label):
    assert parse_verdict(format_verdict(rationale, label), SCORES) == (rationale, label)


@given(st.text())
def test_no_text_raises_and_no_label_is_made_up(text):
    verdict = parse_verdict(text, SCORES)
    assert verdict is None or f"{verdict.label}" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no verdict at all, 4",
        "reason [RESULT]",
        "reason [RESULT] five",
        "reason [RESULT] 0",
        "reason [RESULT] 6",
        "reason [RESULT] 35",
        "reason [RESULT] 3.5",
        "reason [RESULT] 3,5",
        "reason [RESULT] 3/5",
        "reason [RESULT] 3rd",
        "reason [result] 3",
        "reason [RESULT]\n3",
        "[RESULT] 3",
    ],
)
def test_malformed(text):
    assert parse_verdict(text, SCORES) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [("a [RESULT] 3", 3), ("a [RESULT]3", 3), ("a [RESULT] 3.", 3), ("a [RESULT] 3)", 3), ("a [RESULT] 2\nmore", 2)],
)
def test_well_formed(text, label):
    assert parse_verdict(text, SCORES).label == label


def test_the_last_well_formed_result_counts():
    assert parse_verdict("one [RESULT] 2, no: two [RESULT] 4", SCORES) == ("one [RESULT] 2, no: two", 4)
    assert parse_verdict("one [RESULT] 2, no: [RESULT] 9", SCORES) == ("one", 2)


def test_a_label_that_the_task_does_not_allow_is_malformed():
    assert parse_verdict("a [RESULT] 3", (1, 2)) is None


def test_a_bare_label_is_well_formed_only_without_rationales():
    assert parse_verdict(f"{MARKER} 4", SCORES, need_rationale=False) == ("", 4)
    assert format_verdict("", 4) == f"{MARKER} 4"


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Judgment rating: 4", 4),
        ("Judgment rating: 1 ... Judgment rating: 5", 5),
        ("Judgment rating: 7", None),
        ("Judgment rating: 4.5", None),
        ("rating 4", None),
    ],
)
def test_ratings(text, rating):
    assert parse_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ('["ITEM3", "ITEM1"]', (2, 0)),
        ('so ["ITEM1","ITEM2"] then ["ITEM2", "ITEM1"]', (1, 0)),
        ('["ITEM1", "ITEM1"]', None),
        ('["ITEM4", "ITEM1"]', None),
        ('["ITEM0", "ITEM1"]', None),
        ("ITEM1, ITEM2", None),
    ],
)
def test_picks_name_two_different_existing_items(text, pick):
    assert parse_pick(text, items=3) == pick


def test_grammars_name_every_label_and_every_pair():
    assert '"1" | "2"' in gbnf((1, 2))
    assert pick_gbnf(3).count("ITEM") == 12
