"""What ends `sre judge`: counts, and agreement with given labels."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from recipe.judge.judge_file import Summary


def row(label: int | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {"id": "r", "label": label, "finish": finish, "error": "too long" if finish == "error" else "", **more}


def facts(summary: Summary) -> dict[str, str]:
    return {line[:22].strip(): line[22:] for line in str(summary).splitlines()}


def test_every_row_is_counted_as_one_thing() -> None:
    summary = Summary()
    for found in (
        row(4),
        row(2),
        row(4),
        row(None),
        row(None, "error"),
        row(None, consistent=False),
        row(1, consistent=False),
        row(1, consistent=True),
    ):
        summary.count(found)
    assert summary.labels == {1: 2, 2: 1, 4: 2}
    assert (summary.rows, summary.malformed, summary.errors) == (8, 1, 1)
    assert (summary.inconsistent, summary.ties) == (2, 1)


def test_the_first_failed_row_and_the_first_odd_label_are_shown() -> None:
    summary = Summary()
    summary.count(row(None, "error", id="a\x1b[2J"))
    summary.count(row(None, "error", id="b", truth_note="not 7"))
    shown = facts(summary)
    assert shown["errors"].startswith("2; the first is a")
    assert "too long" in shown["errors"]
    assert "\x1b" not in shown["errors"]
    assert shown["labels left out"].endswith("b: not 7")


def test_an_empty_summary_divides_by_nothing() -> None:
    assert Summary().rows_per_second == 0
    assert facts(Summary())["labels"] == "none"


def test_the_summary_has_a_line_for_each_fact() -> None:
    summary = Summary(rows=5, resumed=1, malformed=1, seconds=2.0, labels=Counter({3: 3, 1: 1}))
    assert [line.split(maxsplit=1)[0] for line in str(summary).splitlines()] == [
        *("rows", "malformed", "errors", "speed", "labels")
    ]
    assert facts(summary)["rows"] == "5 (1 kept from before)"
    assert facts(summary)["speed"] == "2.0 rows/s"
    assert facts(summary)["labels"] == "1: 1, 3: 3"


def test_agreement_counts_rows_without_a_label() -> None:
    summary = Summary()
    for label, truth in ((1, 1), (3, 2), (5, 5), (None, 4)):
        summary.count({**row(label), "task": "pointwise", "truth": truth})
    assert facts(summary)["agreement, pointwise"] == "2 of 4 given labels (50%)"


@pytest.mark.parametrize("task", ["pointwise", "pairwise"])
def test_agreement_with_labels_that_are_all_the_same_says_so(task: str) -> None:
    def agreement(*truths: int, **more: Any) -> str:
        summary = Summary()
        for truth in truths:
            summary.count({**row(1), **more, "task": task, "truth": truth})
        return facts(summary)[f"agreement, {task}"]

    assert "every given label is 1" in agreement(1, 1, 1)
    assert ("--swap" in agreement(1, 1)) == (task == "pairwise")
    for truths in ((1, 2), (1,)):
        assert "every" not in agreement(*truths)
    assert "every" not in agreement(1, 1, consistent=True)  # both orders: a judge that always says 1 contradicts itself


def test_labels_that_are_ties_and_those_that_are_none_are_counted_apart() -> None:
    summary = Summary()
    for note in ("tie", "tie", "not 7"):
        summary.count({**row(1), "task": "pairwise", "truth_note": note})
    assert (summary.tied_truths, summary.odd_truths, summary.unclear) == (2, 1, {})
    assert facts(summary)["labels left out"].startswith("3 ")


def test_one_thing_is_told_in_the_singular() -> None:
    summary = Summary(empty=1, not_utf8=1)
    summary.count({**row(1), "task": "pointwise", "truth": 1})
    summary.count({**row(1), "task": "pairwise", "truth_note": "tie"})
    summary.count({**row(1), "task": "pairwise", "truth_note": "off the scale: not 7"})
    assert not re.search(r"\b1 (?:given )?(?:rows|ties|labels)", str(summary))
