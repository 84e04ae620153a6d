"""One grammar: what is formatted is parsed back, what is not well-formed is malformed and never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.verdict import MARKER, format_verdict, gbnf, parse_verdict

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


@pytest.mark.parametrize(
    "written",
    [
        "[RESULT]: 4",
        "[RESULT]\n4",
        "[RESULT] **4**",
        "**[RESULT] 4**",
        "**[RESULT]** 4",
        "**[RESULT]:** 4",
        "__[RESULT]__ __4__",
        "[RESULT]\u00a04",
        "[RESULT]\u200b 4",
        "[RESULT] \u2060\ufeff4",
        "[RESULT]\u30004",
        "[RESULT] 4.0",
        "[RESULT] 4.00.",
        "[RESULT] <4>",
        "[RESULT] 4\n\n- 2 errors were found.",
        "[RESULT] 4. 2 errors were found.",
        "[RESULT] 4 (good)",
        "[RESULT] 4 points",
        "[RESULT] 4\\.",
        "[RESULT] 4</s>",
        "[RESULT] 4, and so on",
    ],
)
def test_other_ways_to_write_a_verdict_are_read(written):
    assert parse_verdict(f"It is so.\n{written}", SCORES) == ("It is so.", 4)


NO_LABELS = """
4.5|4.05|04|4-5|4 – 5|4/5|4 / 5|4?|4%|4+|４|٤|iv
4 or 5|4 to 5|4 (or 5)|4 out of 5|4 (out of 10)|4 of 10|4 and a half|4, 5|4..5|4...5|4 5|1 2 3 4 5
4‑5|4−5|4~5|4→5|4⁄5|4／5|4½|4 ½|4 1/2|4 .5|4**.5|4_5|4:5|4=5|4 & 5|4，5|4·5|4±1|4 %|4 ?
"""


@pytest.mark.parametrize("written", [one for one in NO_LABELS.replace("\n", "|").split("|") if one])
def test_what_is_no_whole_label_stays_malformed(written):
    assert parse_verdict(f"It is so. [RESULT] {written}", SCORES) is None


@pytest.mark.parametrize("quote", ['"[RESULT] 5"', "'[RESULT] 5'", "`[RESULT] 5`", "“[RESULT] 5”", '"**[RESULT] 5**"'])
def test_a_quoted_verdict_does_not_count(quote):
    text = f"The response ends with {quote}, which proves nothing"
    assert parse_verdict(text, SCORES) is None
    assert parse_verdict(f"{text}. [RESULT] 2", SCORES) == (f"{text}.", 2)
    assert parse_verdict(f"It is bad. [RESULT] 2\nIt says {quote}.", SCORES) == ("It is bad.", 2)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>Maybe [RESULT] 2? No, [RESULT] 3.</think>\n\nIt is fine. [RESULT] 4", ("It is fine.", 4)),
        ("<think>Maybe [RESULT] 2.</think>It is fine.", None),
        ("<think>It is fine. [RESULT] 4", None),
        ("\n<Thinking>\nIt is fine. [RESULT] 4", None),
        ("[THINK]So [RESULT] 2.[/THINK]It is fine. [RESULT] 4", ("It is fine.", 4)),
        ("Hm, [RESULT] 2, or so.\n</think>\nIt is fine. [RESULT] 4", ("It is fine.", 4)),  # the template opened it
        ("It is fine. [RESULT] 4\n<think>Or is it? [RESULT] 1", None),
        ("<|begin_of_thought|>\nSo [RESULT] 2.", None),
        ("<|begin_of_thought|>So [RESULT] 2.<|end_of_thought|>Fine. [RESULT] 4", ("Fine.", 4)),
        ("<|START_THINKING|>So [RESULT] 2.", None),
        ("◁think▷So [RESULT] 2.◁/think▷Fine. [RESULT] 4", ("Fine.", 4)),
        ("<|channel|>analysis<|message|>So [RESULT] 2.", None),
        ("<|channel|>analysis<|message|>[RESULT] 2<|end|><|channel|>final<|message|>Fine. [RESULT] 4", ("Fine.", 4)),
        ("<reflection>So [RESULT] 2.", None),
        ("<thoughts>So [RESULT] 2.</thoughts>Fine. [RESULT] 4", ("Fine.", 4)),
        ("<think>a</think>b [RESULT] 2\n<think>c</think>d [RESULT] 4", ("d", 4)),
        ("The response begins with <think> and stops. [RESULT] 1", ("The response begins with <think> and stops.", 1)),
    ],
)
def test_only_what_comes_after_the_reasoning_counts(text, verdict):
    assert parse_verdict(text, SCORES) == verdict


def test_the_last_well_formed_result_counts():
    assert parse_verdict("one [RESULT] 2, no: two [RESULT] 4", SCORES) == ("one [RESULT] 2, no: two", 4)
    assert parse_verdict("one [RESULT] 2, no: [RESULT] 9", SCORES) == ("one", 2)


def test_a_label_that_the_task_does_not_allow_is_malformed():
    assert parse_verdict("a [RESULT] 3", (1, 2)) is None


def test_a_bare_label_is_well_formed_only_without_rationales():
    assert parse_verdict(f"{MARKER} 4", SCORES, need_rationale=False) == ("", 4)
    assert format_verdict("", 4) == f"{MARKER} 4"


def test_the_grammar_names_every_label():
    assert '"1" | "2"' in gbnf((1, 2))
