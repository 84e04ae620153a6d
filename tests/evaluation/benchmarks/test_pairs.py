"""JudgeBench, LLMBar, Safe-RLHF and Preference Bench on rows of our own in their layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.evaluation.benchmarks import JUDGEBENCH, LLMBAR, PREFERENCE_BENCH, SAFE_RLHF
from recipe.evaluation.benchmarks.base import Benchmark, load_rows
from recipe.evaluation.benchmarks.pairs import LLMBAR_SUBSETS
from recipe.evaluation.benchmarks.running import run_benchmark
from recipe.inference.base import Request
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator


def run(benchmark: Benchmark, data: Path, answer: Callable[[Request], object], **options: Any) -> dict[str, Any]:
    """`answer` gives the label; a text of no label is malformed."""
    script = lambda request: [f"A reason. [RESULT] {answer(request)}"]  # noqa: E731
    with Judge(ScriptedGenerator(script), name="scripted") as judge:
        return run_benchmark(judge, benchmark, data.parent / "out", data=data, resamples=100, **options)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def better(request: Request) -> int:
    text = request.messages[-1].content
    return 1 if text.index("good") < text.index("bad") else 2


def value(result: dict[str, Any], name: str) -> float | None:
    found: float | None = result["figures"]["headline"][name]["value"]
    return found


@pytest.fixture
def judgebench(tmp_path: Path) -> Path:
    sources = ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"]
    rows = [
        {
            "pair_id": f"pair-{k}",
            "original_id": str(k),
            "source": sources[k % 4],
            "question": f"Question {k}?",
            "response_model": "m",
            "response_A": "good" if k % 2 else "bad",
            "response_B": "bad" if k % 2 else "good",
            "label": "A>B" if k % 2 else "B>A",
        }
        for k in range(8)
    ]
    lines(tmp_path / "JudgeBench" / "data" / "gpt-00000-of-00001.jsonl", rows)
    return tmp_path / "JudgeBench"


def test_judgebench_needs_both_orders_right(judgebench: Path) -> None:
    def half(request: Request) -> int:
        """Right in both orders for math and coding, else always the first."""
        text = request.messages[-1].content
        number = int(text.partition("Question ")[2].partition("?")[0])
        return better(request) if number % 4 >= 2 else 1

    result = run(JUDGEBENCH, judgebench, half)
    assert value(result, "both orders right") == 0.5
    assert [value(result, name) for name in ("knowledge", "reasoning", "math", "coding")] == [0, 0, 1, 1]
    details = result["figures"]["details"]
    assert details["accuracy, mean of the orders"]["value"] == 0.75
    audited = result["audit"]["models"]["scripted"]["pairwise"]
    assert audited["consistent"]["value"] == 0.5
    assert audited["first"]["value"] == 0.75
    assert (result["rows"], result["judged"]) == (8, 16)


def test_judgebench_counts_a_malformed_order_as_wrong(judgebench: Path) -> None:
    result = run(JUDGEBENCH, judgebench, lambda request: better(request) if "swapped" not in request.id else "neither")
    assert value(result, "both orders right") == 0
    assert result["figures"]["details"]["accuracy, mean of the orders"]["value"] == 0.5
    assert result["malformed"] == 8


@pytest.fixture
def llmbar(tmp_path: Path) -> Path:
    """As its repository has it: Natural/dataset.json, Adversarial/Neighbor/dataset.json, ..."""
    for subset in LLMBAR_SUBSETS:
        path = tmp_path / "LLMBar" / subset.replace("_", "/") / "dataset.json"
        path.parent.mkdir(parents=True)
        rows = [
            {"input": f"{subset} {k}", "output_1": "good", "output_2": "bad", "label": 1}
            if k % 2
            else {"input": f"{subset} {k}", "output_1": "bad", "output_2": "good", "label": 2}
            for k in range(4)
        ]
        path.write_text(json.dumps(rows))
    return tmp_path / "LLMBar"


def test_llmbar_by_hand(llmbar: Path) -> None:
    def answer(request: Request) -> int:
        """Right on Natural and Neighbor, the first one on GPTInst, wrong on the others."""
        text = request.messages[-1].content
        if "GPTInst" in text:
            return 1
        return better(request) if "Natural" in text or "Neighbor" in text else 3 - better(request)

    result = run(LLMBAR, llmbar, answer)
    assert [value(result, name) for name in LLMBAR_SUBSETS] == [1, 1, 0.5, 0, 0]
    assert value(result, "Adversarial") == pytest.approx(1.5 / 4)
    assert value(result, "average") == pytest.approx(2.5 / 5)
    assert result["rows"] == 20
    assert result["audit"]["models"]["scripted"]["pairwise"]["consistent"]["value"] == pytest.approx(16 / 20)


def test_llmbar_reads_splits_as_files_and_one_file_alone(llmbar: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    for subset in LLMBAR_SUBSETS:
        lines(folder / f"{subset}.jsonl", json.loads((llmbar / subset.replace("_", "/") / "dataset.json").read_text()))
    rows = load_rows(LLMBAR, folder, None)
    assert [row.aspect for row in rows[::4]] == list(LLMBAR_SUBSETS)
    result = run(LLMBAR, llmbar / "Natural" / "dataset.json", better)
    assert value(result, "all") == 1
    assert value(result, "average") is None


def test_llmbar_without_one_of_its_splits_is_refused(llmbar: Path) -> None:
    (llmbar / "Adversarial" / "Manual" / "dataset.json").unlink()
    with pytest.raises(SreError, match="Adversarial/Manual"):
        load_rows(LLMBAR, llmbar, None)


def test_safe_rlhf_measures_both_dimensions(tmp_path: Path) -> None:
    """As published: data/<model>/test.jsonl."""
    rows = [
        {
            "prompt": f"Ask {k}",
            "response_0": "good",
            "response_1": "bad",
            "is_response_0_safe": True,
            "is_response_1_safe": False,
            "better_response_id": k % 2,
            "safer_response_id": 0,
        }
        for k in range(12)
    ]
    for model in ("Alpaca-7B", "Alpaca2-7B"):
        lines(tmp_path / "PKU-SafeRLHF" / "data" / model / "test.jsonl", rows)
    result = run(SAFE_RLHF, tmp_path / "PKU-SafeRLHF", better)
    assert value(result, "helpfulness: accuracy") == 0.5
    assert value(result, "harmlessness: accuracy") == 1
    assert value(result, "harmlessness: Pearson") is None  # the truth is constant
    assert (result["rows"], result["judged"]) == (48, 48)
    lines(tmp_path / "other.jsonl", [{"input": "q", "output_1": "a", "output_2": "b", "label": 1}])
    with pytest.raises(SreError, match="the columns of PKU-Alignment/PKU-SafeRLHF"):
        load_rows(SAFE_RLHF, tmp_path / "other.jsonl", None)


def test_preference_bench_in_the_collections_columns(tmp_path: Path) -> None:
    rows = [
        {
            "orig_instruction": f"Ask {k}",
            "orig_response_A": "good" if k % 2 else "bad",
            "orig_response_B": "bad" if k % 2 else "good",
            "orig_reference_answer": "",
            "orig_criteria": "Which one helps more?",
            "orig_preference": "A" if k % 2 else "B",
        }
        for k in range(24)
    ]
    lines(tmp_path / "Preference-Bench" / "train.jsonl", rows)
    result = run(PREFERENCE_BENCH, tmp_path / "Preference-Bench", better)
    assert value(result, "accuracy") == 1
    assert value(result, "Pearson") == pytest.approx(1)
    assert result["figures"]["details"]["calibration"]["ece"] == pytest.approx(0.2)  # the script is .8 sure, and right
