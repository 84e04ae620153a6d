"""BiGGen Bench and Feedback Bench on rows of our own in their layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from recipe.evaluation.benchmarks import BIGGEN, FEEDBACK_BENCH
from recipe.evaluation.benchmarks.base import load_rows
from recipe.evaluation.benchmarks.running import run_benchmark
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

LEVELS = {f"score{k}_description": f"level {k}" for k in range(1, 6)}


def biggen_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"planning_{number // 2}",
        "capability": "planning",
        "task": "travel",
        "instance_idx": number // 2,
        "system_prompt": "You plan trips.",
        "input": f"Plan day {number // 2}.",
        "reference_answer": "Sleep in.",
        "score_rubric": {"criteria": "Is it a plan?", **LEVELS},
        "model_name": f"model-{number % 2}",
        "response": f"Response {number}.",
        "human_score": number % 5 + 1,
        "gpt4_score": (number * 7) % 9 / 2 + 1,
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def label_of(request: Any) -> list[str]:
    number = int(request.messages[-1].content.partition("Response ")[2].partition(".")[0])
    return [f"Response {number} is a plan. [RESULT] {(number * 3) % 5 + 1}"]


def run(benchmark: Any, data: Path, script: Any = label_of) -> dict[str, Any]:
    with Judge(ScriptedGenerator(script), name="scripted") as judge:
        return run_benchmark(judge, benchmark, data.parent / "out", data=data, resamples=100)


def test_biggen_is_measured_against_people(tmp_path: Path) -> None:
    rows = [biggen_row(k) for k in range(40)]
    data = write(tmp_path / "bench" / "data" / "human_eval-00000-of-00001.jsonl", rows).parents[1]
    result = run(BIGGEN, data)
    labels = [(k * 3) % 5 + 1 for k in range(40)]
    found = {name: figure["value"] for name, figure in result["figures"]["headline"].items()}
    assert found["Pearson"] == pytest.approx(stats.pearsonr([r["human_score"] for r in rows], labels).statistic)
    assert found["Pearson, expected score"] == pytest.approx(found["Pearson"])
    # Two models answered each prompt: their rows are resampled together.
    assert len({row.prompt_id for row in load_rows(BIGGEN, data, None)}) == 20


def test_feedback_bench_in_the_collections_columns(tmp_path: Path) -> None:
    rows = [
        {
            "orig_instruction": f"Ask {k}",
            "orig_response": f"Response {k}.",
            "orig_reference_answer": "The best.",
            "orig_criteria": "Is it a plan?",
            **{f"orig_{name}": text for name, text in LEVELS.items()},
            "orig_score": str((k * 3) % 5 + 1),
            "orig_feedback": "",
        }
        for k in range(25)
    ]
    data = write(tmp_path / "Feedback-Bench" / "data" / "train-00000-of-00001.jsonl", rows).parents[1]
    result = run(FEEDBACK_BENCH, data)
    headline = result["figures"]["headline"]
    for name in ("Pearson", "Spearman", "Kendall", "accuracy", "Pearson, expected score"):
        assert headline[name]["value"] == pytest.approx(1), name
    assert result["figures"]["details"]["calibration"]["n"] == 25
