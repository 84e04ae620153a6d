"""Whether a round made the judge better: the paired difference on dev rows, by prompt, and the rule that keeps it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.evaluation.rounds import compare_on_dev, is_kept

SCORES = [
    Example(f"s{k}", "pointwise", (Message("user", "ask"),), ("answer",), Rubric("Good?"), 1 + k % 5, prompt_id=f"p{k}")
    for k in range(20)
]
PAIRS = [
    Example(f"d{k}", "pairwise", (Message("user", "ask"),), ("a", "b"), Rubric("Good?"), 1 + k % 2, prompt_id=f"q{k}")
    for k in range(20)
]


def said(rows, labels, finish="stop"):
    return [
        Judgement(f"{row.id}:j:0", row.id, row.task, "text", "because", label, row.label, finish=finish)
        for row, label in zip(rows, labels, strict=True)
    ]


def right(rows):
    return said(rows, [row.label for row in rows])


def constant(rows):
    return said(rows, [1] * len(rows))


def test_figures_are_pearson_accuracy_and_their_mean():
    rows = SCORES + PAIRS
    found = compare_on_dev(rows, constant(rows), right(rows), 200)
    assert found["rows"] == 40
    assert found["figures"] == {"before": 0.25, "after": pytest.approx(1.0)}
    assert found["gain"]["value"] == pytest.approx(0.75)
    assert 0 < found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]


def test_one_task_alone_is_its_own_figure():
    found = compare_on_dev(PAIRS, right(PAIRS), constant(PAIRS), 200)
    assert found["gain"]["value"] == -0.5


def test_expected_scores_are_finer_than_labels_and_malformed_ones_are_counted():
    same = said(SCORES, [3] * 20)
    finer = [
        replace(judgement, label_logprobs={1: math.log(1 - row.label / 10), 5: math.log(row.label / 10)})
        for judgement, row in zip(same, SCORES, strict=True)
    ]
    found = compare_on_dev(SCORES, same, finer, 200)
    assert found["gain"]["value"] == pytest.approx(1.0)
    forced = said(SCORES, [row.label for row in SCORES], finish="forced")
    assert compare_on_dev(SCORES, same, forced, 200)["malformed"] == {"before": 0, "after": 20}


def test_rows_of_one_prompt_are_drawn_together():
    one_prompt = [replace(row, prompt_id="p") for row in PAIRS]
    found = compare_on_dev(one_prompt, constant(one_prompt), right(one_prompt), 200)
    assert (found["gain"]["value"], found["gain"]["low"]) == (0.5, None)


@pytest.mark.parametrize(
    ("value", "low", "kept"),
    [
        (0.1, 0.01, {"better", "significant", "all"}),
        (0.1, -0.1, {"better", "all"}),
        (0.1, None, {"better", "all"}),
        (0.0, 0.0, {"all"}),
        (None, None, {"all"}),
    ],
)
def test_the_rule_keeps_what_it_says(value, low, kept):
    gain = {"value": value, "low": low, "high": None, "n": 9}
    assert {rule for rule in ("better", "significant", "all") if is_kept(gain, rule)} == kept
