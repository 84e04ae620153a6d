"""RewardBench on rows of our own in its layout: weighting, ties and malformed rows against hand-computed cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.data.records import Example, Message, Rubric
from recipe.errors import SreError
from recipe.evaluation.benchmarks import REWARDBENCH, REWARDBENCH_PAIRWISE
from recipe.evaluation.benchmarks.base import Benchmark, Judged, load_rows
from recipe.evaluation.benchmarks.rewardbench import CATEGORIES, pointwise, weighted_figures
from recipe.evaluation.benchmarks.running import run_benchmark
from recipe.evaluation.trivial import RowVerdict
from recipe.inference.base import Request
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

SUBSETS = {
    "alpacaeval-easy": 4,
    "mt-bench-med": 2,
    "llmbar-natural": 2,
    "refusals-dangerous": 2,
    "xstest-should-respond": 2,
    "math-prm": 4,
    "hep-cpp": 2,
    "hep-go": 2,
}
# What the scripted judge gives the chosen and the rejected response of each row (None: it writes no score).
SCORES: dict[str, list[tuple[int | None, int | None]]] = {
    "alpacaeval-easy": [(5, 1), (4, 3), (3, 2), (2, 1)],  # 1
    "mt-bench-med": [(4, 2), (2, 4)],  # 1/2
    "llmbar-natural": [(3, 3), (3, 3)],  # 1/2, all ties
    "refusals-dangerous": [(5, 1), (None, 1)],  # 1/2: malformed is wrong
    "xstest-should-respond": [(5, None), (5, 5)],  # 1/4
    "math-prm": [(5, 1), (1, 5), (1, 5), (2, 3)],  # 1/4
    "hep-cpp": [(5, 4), (5, 4)],  # 1
    "hep-go": [(5, 4), (4, 5)],  # 1/2
}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Do {subset} task {number}.",
            "chosen": f"good {subset} {number}",
            "chosen_model": "a",
            "rejected": f"bad {subset} {number}",
            "rejected_model": "b",
            "subset": subset,
            "id": number,
        }
        for subset, count in SUBSETS.items()
        for number in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The published layout: data/filtered-00000-of-00001.parquet."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (tmp_path / "reward-bench" / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows())
    parquet.write_table(table, tmp_path / "reward-bench" / "data" / "filtered-00000-of-00001.parquet")
    return tmp_path / "reward-bench"


def scores(request: Request) -> list[str]:
    """What the script says about one response; which one it is stands in the prompt."""
    text = request.messages[-1].content
    for subset, pairs in SCORES.items():
        for number, (chosen, rejected) in enumerate(pairs):
            for kind, score in (("good", chosen), ("bad", rejected)):
                if f"{kind} {subset} {number}\n" in text:
                    return ["No idea." if score is None else f"A reason. [RESULT] {score}"]
    raise AssertionError(text)


def run(benchmark: Benchmark, folder: Path, script: Any, **options: Any) -> dict[str, Any]:
    with Judge(ScriptedGenerator(script), name="scripted") as judge:
        return run_benchmark(judge, benchmark, folder.parent / "out", data=folder, resamples=200, **options)


def values(figures: dict[str, Any]) -> dict[str, float | None]:
    return {name: figure["value"] for name, figure in figures["headline"].items()}


def test_pointwise_by_hand(folder: Path) -> None:
    result = run(REWARDBENCH, folder, scores)
    found = values(result["figures"])
    assert found["Chat"] == pytest.approx((100 * 1 + 40 * 0.5) / 140)
    assert found["Chat Hard"] == pytest.approx(0.5)
    assert found["Safety"] == pytest.approx((100 * 0.5 + 250 * 0.25) / 350)
    assert found["Reasoning"] == pytest.approx((984 * 0.25 + 164 * 1 + 164 * 0.5) / (984 + 2 * 164))
    four = [found[name] for name in ("Chat", "Chat Hard", "Safety", "Reasoning")]
    assert found["total"] == pytest.approx(sum(four) / 4)  # type: ignore[arg-type]
    details = result["figures"]["details"]
    assert (details["ties"], details["malformed"], details["n"]) == (3, 2, 20)
    assert details["subsets"]["math-prm"]["value"] == 0.25
    assert (result["rows"], result["judged"], result["malformed"], result["not_judged"]) == (20, 40, 2, 0)


def test_forced_labels_are_kept_apart(folder: Path) -> None:
    """The script's engine forces the first label, 1: a malformed rejected response now loses, a chosen one ties."""
    result = run(REWARDBENCH, folder, scores)
    assert values(result["constrained"])["Safety"] == pytest.approx((100 * 0.75 + 250 * 0.75) / 350)
    assert result["constrained"]["details"]["malformed"] == 0
    alone = run(REWARDBENCH, folder, scores, overwrite=True)
    assert alone == result


def test_expected_scores_break_ties_but_mend_no_malformed_row(folder: Path) -> None:
    rows = load_rows(REWARDBENCH, folder, None)
    said = {}
    for row in rows:
        for place in (1, 2):
            chosen = place == row.label
            label = None if chosen and row.aspect == "math-prm" else 3
            said[f"{row.id}:{place}"] = RowVerdict(label, 3.2 if chosen else 2.9, {}, "so")
    found = pointwise(Judged(rows, said, 0))
    assert {name: figure["value"] for name, figure in found["headline"].items()} == {
        "Chat": 0.5,
        "Chat Hard": 0.5,
        "Safety": 0.5,
        "Reasoning": pytest.approx(164 / (984 + 2 * 164)),
        "total": pytest.approx((1.5 + 164 / (984 + 2 * 164)) / 4),
        "total, expected score": pytest.approx((3 + 328 / (984 + 2 * 164)) / 4),
    }


def test_pairwise_by_hand_and_a_judge_of_one_place_gains_nothing(folder: Path) -> None:
    def better(request: Request) -> list[str]:
        text = request.messages[-1].content
        return [f"A reason. [RESULT] {1 if text.index('good ') < text.index('bad ') else 2}"]

    result = run(REWARDBENCH_PAIRWISE, folder, better)
    assert set(values(result["figures"]).values()) == {1.0}
    result = run(REWARDBENCH_PAIRWISE, folder, lambda request: ["A reason. [RESULT] 1"], overwrite=True)
    assert result["audit"]["models"]["scripted"]["pairwise"]["first"]["value"] == 1
    assert 0.2 < result["audit"]["models"]["scripted"]["pairwise"]["accuracy"]["value"] < 0.8


def test_a_category_without_rows_leaves_no_total(folder: Path) -> None:
    kept = load_rows(REWARDBENCH, folder, None)
    chat = [row for row in kept if row.aspect == "alpacaeval-easy"]
    found = weighted_figures([1.0] * 4, Judged(chat, {}, 10))
    assert found["Chat"]["value"] == 1
    assert found["Safety"]["value"] is None
    assert found["total"] == {"value": None, "low": None, "high": None, "n": 4}


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_math_weighs_as_all_code_together(math: float, code: float) -> None:
    outcomes = [math] + [code] * 6
    turns = (Message("user", "Ask."),)
    rows = [
        Example(subset, "pairwise", turns, ("a", "b"), Rubric("Better?"), 1, aspect=subset, prompt_id=subset)
        for subset in CATEGORIES["Reasoning"]
    ]
    found = weighted_figures(outcomes, Judged(rows, {}, 0))
    assert found["Reasoning"]["value"] == pytest.approx((math + code) / 2)


def test_the_weights_are_the_published_counts() -> None:
    totals = {name: sum(weights.values()) for name, weights in CATEGORIES.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 * 2}
    assert sum(totals.values()) - 984 + 447 == 2985  # the rows of the published split


def test_rows_of_another_benchmark_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**rows()[0], "subset": "shp"}) + "\n")
    with pytest.raises(SreError, match="the columns of allenai/reward-bench, with a subset of"):
        load_rows(REWARDBENCH, path, None)
    path.write_text(json.dumps({"input": "q", "output_1": "a", "output_2": "b", "label": 1}) + "\n")
    with pytest.raises(SreError, match=r"rows\.jsonl:1"):
        load_rows(REWARDBENCH, path, None)


def test_the_audit_of_scores_given_alone_is_that_of_the_pairs(folder: Path) -> None:
    audited = run(REWARDBENCH, folder, scores)["audit"]
    pairs = sum(map(len, SCORES.values()))
    assert audited["models"]["scripted"]["pairwise"]["n"] == pairs
    assert audited["baselines"]["longer response"]["pairwise"]["n"] == pairs
    assert audited["models"]["scripted"]["pointwise"]["n"] == 0
