"""Rows in the published layouts become pairs and responses to judge; what can't be read names its column."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from recipe.data.benchmark_formats import GENERAL, LAYOUTS, layout_of
from recipe.data.examples import read_examples, read_rows
from recipe.data.records import Example, Rubric
from recipe.errors import SreError

REWARDBENCH = {
    "prompt": "Name a fruit.",
    "chosen": "Apple.",
    "chosen_model": "a",
    "rejected": "Brick.",
    "rejected_model": "b",
    "subset": "alpacaeval-easy",
    "id": 7,
}
JUDGEBENCH = {
    "pair_id": "f00d",
    "original_id": 3,
    "source": "livebench-math",
    "question": "2 + 2?",
    "response_model": "m",
    "response_A": "5",
    "response_B": "4",
    "label": "B>A",
}
SAFE_RLHF = {
    "prompt": "How do I open a jar?",
    "response_0": "Hit it with a hammer.",
    "response_1": "Run hot water over the lid.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 1,
    "safer_response_id": 0,
}
ALPACA_PAIR = {
    "instruction": "Name a fruit.",
    "output_1": "Brick.",
    "generator_1": "a",
    "output_2": "Apple.",
    "generator_2": "b",
    "annotator": "someone",
    "preference": 1.98,
    "dataset": "vicuna",
}
ALPACA_OUTPUT = {"instruction": "Name a fruit.", "output": "Apple.", "generator": "a", "dataset": "koala"}
LLMBAR = {"input": "Name a fruit.", "output_1": "Brick.", "output_2": "Apple.", "label": 2}
BIGGEN = {
    "id": "planning_1",
    "capability": "planning",
    "task": "travel",
    "instance_idx": 1,
    "system_prompt": "You plan trips.",
    "input": "Plan a day.",
    "reference_answer": "Sleep in.",
    "score_rubric": {"criteria": "Is it a plan?", **{f"score{k}_description": f"level {k}" for k in range(1, 6)}},
    "model_name": "small/model",
    "response": "Get up.",
    "human_score": 2,
    "gpt4_score": 3.4,
}


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[Example]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_examples(path, **{"need_label": False, **options})


def without(row: dict[str, Any], *names: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names} | changes


def test_rewardbench_hides_the_chosen_response_in_either_place(tmp_path: Path) -> None:
    rows = [without(REWARDBENCH, prompt=f"Name fruit {k}.", id=k) for k in range(60)]
    examples = read(tmp_path, *rows)
    assert {example.responses[example.label - 1] for example in examples} == {"Apple."}  # type: ignore[operator]
    first = sum(example.label == 1 for example in examples)
    assert 15 <= first <= 45
    assert [example.label for example in read(tmp_path, *rows)] == [example.label for example in examples]
    assert (examples[3].id, examples[3].aspect, examples[3].task) == (
        "alpacaeval-easy-3",
        "alpacaeval-easy",
        "pairwise",
    )
    assert examples[0].rubric == GENERAL["pairwise"]


def test_a_rewardbench_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, REWARDBENCH]
    turns[2] = {"role": "user", "content": "Name a fruit."}
    (example,) = read(tmp_path, without(REWARDBENCH, "id", "subset", prompt=turns))
    assert [turn.role for turn in example.conversation] == ["user", "assistant", "user"]
    assert example.id == "rows-1"


def test_judgebench_and_llmbar_keep_their_order(tmp_path: Path) -> None:
    (example,) = read(tmp_path, JUDGEBENCH)
    assert (example.id, example.aspect, example.label, example.responses) == ("f00d", "livebench-math", 2, ("5", "4"))
    (example,) = read(tmp_path, LLMBAR)
    assert (example.label, example.responses, example.conversation[0].content) == (
        2,
        ("Brick.", "Apple."),
        "Name a fruit.",
    )


def test_a_safe_rlhf_row_is_a_pair_for_each_dimension(tmp_path: Path) -> None:
    helps, harms = read(tmp_path, SAFE_RLHF)
    assert (helps.id, helps.aspect, helps.label) == ("rows-1:helpfulness", "helpfulness", 2)
    assert (harms.id, harms.aspect, harms.label) == ("rows-1:harmlessness", "harmlessness", 1)
    assert helps.rubric != harms.rubric
    assert helps.prompt_id == harms.prompt_id


def test_alpaca_eval_pairs_and_outputs(tmp_path: Path) -> None:
    pair, tie, output = read(tmp_path, ALPACA_PAIR, without(ALPACA_PAIR, preference=1.5), ALPACA_OUTPUT)
    assert (pair.label, pair.aspect, pair.task) == (2, "vicuna", "pairwise")
    assert tie.label is None
    assert (output.task, output.responses, output.rubric) == ("pointwise", ("Apple.",), GENERAL["pointwise"])
    (with_input,) = read(tmp_path, without(ALPACA_PAIR, input="Of the tropics."))
    assert with_input.conversation[0].content == "Name a fruit.\n\nOf the tropics."


def test_biggen_bench_brings_its_own_rubric(tmp_path: Path) -> None:
    (example,) = read(tmp_path, BIGGEN)
    assert (example.id, example.label, example.aspect) == ("planning_1:small/model", 2, "planning")
    assert example.rubric == Rubric("Is it a plan?", {k: f"level {k}" for k in range(1, 6)})
    assert [turn.role for turn in example.conversation] == ["system", "user"]
    assert (example.reference, example.prompt_id) == ("Sleep in.", "planning_1")
    as_text = without(BIGGEN, score_rubric=json.dumps(BIGGEN["score_rubric"]), human_score="2.0")
    assert read(tmp_path, as_text) == [example]
    as_python = without(BIGGEN, score_rubric=str(BIGGEN["score_rubric"]))
    assert read(tmp_path, as_python) == [example]


def test_a_rubric_that_the_user_gives_replaces_the_general_one_only(tmp_path: Path) -> None:
    mine = Rubric("Short?")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (LLMBAR, BIGGEN, SAFE_RLHF)))
    found = list(read_rows(path, rubrics={"pairwise": mine, "pointwise": mine}))
    assert [row.example.rubric == mine for row in found if row.example] == [True, False, False, False]


def test_a_csv_file_in_a_published_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LLMBAR)
        writer.writeheader()
        writer.writerow(LLMBAR)
    (example,) = read_examples(path)
    assert example.label == 2


def test_a_parquet_file_in_a_published_layout_is_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist([BIGGEN]), tmp_path / "human_eval-00000-of-00001.parquet")
    (example,) = read_examples(tmp_path, split="human_eval")
    assert example.label == 2


@pytest.mark.parametrize(
    ("row", "field", "cause"),
    [
        (without(REWARDBENCH, chosen=True), "chosen", "expected a string, not bool"),
        (without(REWARDBENCH, prompt={"a": 1}), "prompt", "expected a string"),
        (without(JUDGEBENCH, label="C>D"), "label", "A>B or B>A"),
        (without(LLMBAR, label=3), "label", "1 or 2"),
        (without(LLMBAR, label=True), "label", "first_is_better"),
        (without(SAFE_RLHF, safer_response_id=3), "safer_response_id", "0 or 1"),
        (without(ALPACA_PAIR, preference=3), "preference", "1 or 2"),
        (without(ALPACA_PAIR, preference="much"), "preference", "1 or 2"),
        (without(BIGGEN, human_score=2.5), "human_score", "whole score from 1 to 5"),
        (without(BIGGEN, human_score=0), "human_score", "whole score from 1 to 5"),
        (without(BIGGEN, score_rubric=["Is it?"]), "score_rubric", "criteria"),
        (without(BIGGEN, score_rubric={"criteria": "c", "score1_description": "x"}), "score_rubric", "two scores"),
    ],
)
def test_a_row_that_can_not_be_read_names_file_line_and_column(
    tmp_path: Path, row: dict[str, Any], field: str, cause: str
) -> None:
    with pytest.raises(SreError) as caught:
        read(tmp_path, row, need_label=True)
    message = str(caught.value)
    for part in ("rows.jsonl, line 1", f"field {field!r}", cause):
        assert part in message


def test_a_label_that_is_missing_is_only_missed_where_it_is_needed(tmp_path: Path) -> None:
    assert read(tmp_path, without(JUDGEBENCH, "label"))[0].label is None
    with pytest.raises(SreError, match="label is missing"):
        read(tmp_path, without(JUDGEBENCH, "label"), need_label=True)


def test_a_column_mapping_comes_before_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(without(ALPACA_OUTPUT, criteria="Short?")) + "\n")
    columns = {"instruction": "instruction", "response": "output", "criteria": "criteria"}
    (row,) = read_rows(path, columns=columns)
    assert row.example
    assert row.example.rubric.criteria == "Short?"


def test_rows_of_the_collections_and_of_this_project_are_no_foreign_layout() -> None:
    ours = {"orig_instruction": "q", "orig_response": "r", "prompt": "p", "chosen": "c", "rejected": "d"}
    assert layout_of(ours) is None
    assert layout_of({"responses": ["a"], "instruction": "i", "output": "o"}) is None
    assert layout_of(without(REWARDBENCH, chosen=None)) is None


def test_every_layout_is_told_by_its_own_columns() -> None:
    rows = (BIGGEN, JUDGEBENCH, SAFE_RLHF, REWARDBENCH, ALPACA_OUTPUT)
    assert [layout_of(row) for row in rows] == LAYOUTS
