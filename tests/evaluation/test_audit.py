"""The shortcut audit, by judges whose shortcut is known."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from recipe.data.records import Example, Judgement, Message, Rubric, exchanged, in_both_orders
from recipe.evaluation.audit import _both_orders, audit, degenerate, figures_by_task
from recipe.evaluation.tables import results_markdown
from recipe.evaluation.trivial import CRITERION, FITTED, LONGER, TIE, RowVerdict
from recipe.pipeline.results import write_results
from recipe.pipeline.stage_order import open_run

DRAW = random.Random(3)


def verdict(label: float | None, expected: float | None = None, rationale: str = "because") -> RowVerdict:
    return RowVerdict(label, label if expected is None else expected, {}, rationale)


def scored(number: int, score: int, criteria: str = "Good?", length: int = 5) -> Example:
    turns = (Message("user", f"Ask {number}"),)
    return Example(
        f"row-{number}", "pointwise", turns, ("x" * length,), Rubric(criteria), score, prompt_id=f"p{number}"
    )


def pair(number: int, better: int, lengths: tuple[int, int] = (5, 9)) -> Example:
    turns = (Message("user", f"Ask {number}"),)
    responses = tuple("x" * length for length in lengths)
    return Example(f"pair-{number}", "pairwise", turns, responses, Rubric("Better?"), better, prompt_id=f"p{number}")


PAIRS = [pair(k, 1 + (k % 3 > 0), (5, 9) if k % 2 else (9, 5)) for k in range(60)]


def test_a_judge_of_criteria_alone_correlates_but_not_within_them() -> None:
    rows = [scored(k, (1, 2)[k // 2 % 2] if k % 2 else (4, 5)[k // 2 % 2], f"criterion {k % 2}") for k in range(80)]
    by_criterion = [verdict(2 if row.rubric.criteria == "criterion 1" else 5) for row in rows]
    found = figures_by_task(rows, by_criterion, 200)["pointwise"]
    assert found["pearson"]["value"] > 0.9
    assert found["pearson_within"]["value"] is None
    right = [verdict(row.label) for row in rows]
    assert figures_by_task(rows, right, 200)["pointwise"]["pearson_within"]["value"] == pytest.approx(1)


def test_the_correlation_within_criteria_is_that_of_the_centred_values() -> None:
    rows = [scored(k, DRAW.randint(1, 5), f"criterion {k % 7}") for k in range(90)]
    said = [verdict(DRAW.randint(1, 5)) for _ in rows]
    truth, label = np.array([r.label for r in rows], float), np.array([v.label for v in said], float)
    for k in range(7):
        inside = np.arange(90) % 7 == k
        truth[inside] -= truth[inside].mean()
        label[inside] -= label[inside].mean()
    found = figures_by_task(rows, said, 500)["pointwise"]["pearson_within"]
    assert found["value"] == pytest.approx(np.corrcoef(truth, label)[0, 1])
    assert found["low"] < found["value"] < found["high"]


def test_a_judge_of_length_is_right_on_no_pair_whose_longer_response_is_worse() -> None:
    longer = [verdict(1 if len(row.responses[0]) > len(row.responses[1]) else 2) for row in PAIRS]
    found = figures_by_task(PAIRS, longer, 200)["pairwise"]
    worse = sum(len(row.responses[(row.label or 0) - 1]) == 5 for row in PAIRS)
    assert found["longer_is_worse"]["value"] == 0
    assert found["longer_is_worse"]["n"] == worse


def test_a_judge_of_position_has_no_accuracy_left_in_both_orders() -> None:
    rows = in_both_orders(PAIRS)
    found = figures_by_task(rows, [verdict(1) for _ in rows], 200)["pairwise"]
    assert found["accuracy"]["value"] == found["both_orders"]["value"] == 0.5
    assert found["both_orders"]["n"] == len(PAIRS)
    assert found["first"]["value"] == found["top_label"]["value"] == 1


def test_in_both_orders_the_averaged_probability_decides_and_malformed_is_none() -> None:
    rows = [pair(0, 2), exchanged(pair(0, 2)), pair(1, 2), exchanged(pair(1, 2)), pair(2, 1), exchanged(pair(2, 1))]
    # Both say position 1: of pair 0 the second order is surer, so its first response, pair 0's second, is better.
    said = [verdict(1, 1.4), verdict(1, 1.1), verdict(1, 1.2), verdict(1, 1.2), verdict(None), verdict(2, 1.9)]
    assert _both_orders(rows, said) == {0: 2, 2: TIE, 4: None}
    found = figures_by_task(rows, said, 200)["pairwise"]["both_orders"]
    assert found["value"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_orders_of_each_random_seed_stay_together() -> None:
    rows = [pair(0, 2), exchanged(pair(0, 2))] * 2
    assert _both_orders(rows, [verdict(2), verdict(1), verdict(1), verdict(2)]) == {0: 2, 2: 1}
    assert _both_orders([pair(0, 2)], [verdict(2)]) == {}


def test_what_the_rationale_prefers_is_compared_with_the_label_in_any_naming() -> None:
    rows = PAIRS[:4]
    words = ["Response 1 is better.", "Response A is better.", "Response B is better.", "Both are fine."]
    said = [verdict(label, rationale=text) for label, text in zip((1, 2, 2, 1), words, strict=True)]
    found = figures_by_task(rows, said, 200)["pairwise"]["stated"]
    assert (found["value"], found["n"]) == (pytest.approx(2 / 3), 3)


def test_a_judge_is_set_against_the_best_rule_on_its_own_rows() -> None:
    rows = [scored(k, 1 + k % 5, f"criterion {k % 2}", 10 * (1 + k % 5)) for k in range(60)]
    judged = [verdict(None if k < 10 else row.label) for k, row in enumerate(rows)]
    found = audit(rows, {"j1": (rows * 2, judged * 2)}, resamples=200)
    against = found["against_baselines"]["j1"]["pointwise"]["pearson"]
    assert (against["baseline"], against["n"]) == (LONGER, 100)
    assert against["value"] == pytest.approx(1 - found["baselines"][LONGER]["pointwise"]["pearson"]["value"], abs=0.02)
    assert found["baselines"][LONGER]["pointwise"]["accuracy"]["value"] is None
    assert found["baselines"][LONGER]["pointwise"]["malformed"] == 0


def test_pairs_are_set_against_the_best_rule_in_both_orders() -> None:
    rows = in_both_orders(PAIRS)
    right = [verdict(row.label) for row in rows]
    found = audit(rows, {"j1": (rows, right)}, PAIRS, resamples=200)
    longer = found["baselines"][LONGER]["pairwise"]["both_orders"]["value"]
    against = found["against_baselines"]["j1"]["pairwise"]["both_orders"]
    assert against["value"] == pytest.approx(1 - max(longer, 0.5))
    assert FITTED in found["baselines"]
    assert "pointwise" not in found["against_baselines"]["j1"]


def test_rows_without_a_label_are_left_out() -> None:
    rows = [scored(k, 1 + k % 5, length=5 + k) for k in range(30)]
    bare = Example("bare", "pointwise", rows[0].conversation, ("a",), Rubric("Good?"))
    said = [*(verdict(row.label) for row in rows), verdict(3)]
    found = audit([*rows, bare], {"j1": ([*rows, bare], said)}, resamples=200)
    assert found["against_baselines"]["j1"]["pointwise"]["pearson"]["n"] == 30
    assert figures_by_task([*rows, bare], said, 200)["pointwise"]["n"] == 30


def test_judgements_are_taken_as_they_are() -> None:
    rows = [scored(k, 1 + k % 5, length=5 + k) for k in range(30)]
    said = [Judgement(f"{r.id}:0", r.id, r.task, "text", "because", r.label, r.label) for r in rows]
    found = audit(rows, {"j1": (rows, said)}, resamples=200)
    assert found["against_baselines"]["j1"]["pointwise"]["pearson"]["n"] == 30


def test_the_results_of_a_run_set_every_judge_against_the_rules(finished_run: Path) -> None:
    found = write_results(open_run(finished_run))
    assert {LONGER, CRITERION, FITTED} <= found["baselines"].keys()
    assert found["against_baselines"]["j2"]["pairwise"]["both_orders"]["n"] == 24
    assert found["models"]["j2"]["pairwise"]["both_orders"]["value"] == 1
    tables = results_markdown(found)
    assert tables.count(f"| {LONGER} |") == 2


def faults(rows: list[Example], said: list[RowVerdict]) -> list[str]:
    return degenerate(figures_by_task(rows, said, 200))


def test_a_judge_of_one_score_or_one_position_is_announced() -> None:
    scores = [scored(k, 1 + k % 5) for k in range(40)]
    one_score = faults(scores, [verdict(3) for _ in scores])
    assert [text for text in one_score if "score 3" in text and "100%" in text]
    assert any("above chance" in text for text in one_score)
    pairs = in_both_orders(PAIRS)
    second = faults(pairs, [verdict(1 if k % 10 == 0 else 2) for k in range(len(pairs))])
    assert any("response 2" in text and "90%" in text for text in second)


def test_a_judge_that_judges_is_not_announced() -> None:
    rows = [*(scored(k, 1 + k % 5) for k in range(40)), *in_both_orders(PAIRS)]
    assert faults(rows, [verdict(row.label) for row in rows]) == []
    assert faults(rows[:10], [verdict(row.label) for row in rows[:10]]) == []


def test_a_judge_of_one_score_is_announced_on_few_rows_too() -> None:
    rows = [scored(k, 1 + k % 5) for k in range(10)]
    (found,) = faults(rows, [verdict(3) for _ in rows])
    assert all(part in found for part in ("score 3", "100% of the 10 rows", "not learnt"))
    assert faults(rows[:3], [verdict(3) for _ in rows[:3]]) == []


def test_a_truth_that_is_as_one_sided_is_no_fault_of_the_judge() -> None:
    rows = [scored(k, 5 if k % 10 else 2) for k in range(60)]
    assert faults(rows, [verdict(row.label) for row in rows]) == []


def test_a_judge_without_any_well_formed_verdict_is_not_above_chance() -> None:
    assert any("above chance" in text for text in faults(PAIRS, [verdict(None) for _ in PAIRS]))
