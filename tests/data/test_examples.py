"""The strict reader: what it takes, and that every refusal names file, line, field and what was expected."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from recipe.data.examples import read_examples
from recipe.data.records import Example, Message, Rubric
from recipe.data.values import conversation_id
from recipe.errors import SreError

SCALE = {f"orig_score{k}_description": f"Level {k}." for k in range(1, 6)}


def pointwise(**changes: Any) -> dict[str, Any]:
    row = {
        "orig_instruction": "Name two fruits.",
        "orig_response": "Apple and brick.",
        "orig_reference_answer": "Apple and pear.",
        "orig_criteria": "Are both items fruits?",
        **SCALE,
        "orig_score": "3",
        "orig_feedback": "A brick is no fruit.",
    }
    return {k: v for k, v in {**row, **changes}.items() if v is not ...}


def pairwise(**changes: Any) -> dict[str, Any]:
    row = {
        "orig_instruction": "Name two fruits.",
        "orig_response_A": "Apple and brick.",
        "orig_response_B": "Apple and pear.",
        "orig_criteria": "Are both items fruits?",
        **SCALE,
        "orig_preference": "B",
        "orig_feedback": "Only B names two fruits.",
    }
    return {k: v for k, v in {**row, **changes}.items() if v is not ...}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def failure(path: Path, **options: Any) -> SreError:
    with pytest.raises(SreError) as caught:
        read_examples(path, **options)
    return caught.value


def test_a_pointwise_row_becomes_an_example_field_by_field(tmp_path: Path) -> None:
    (example,) = read_examples(jsonl(tmp_path / "rows.jsonl", pointwise(id="r1", prompt_id="p1", source="mine")))
    assert example == Example(
        id="r1",
        task="pointwise",
        conversation=(Message("user", "Name two fruits."),),
        responses=("Apple and brick.",),
        rubric=Rubric("Are both items fruits?", {k: f"Level {k}." for k in range(1, 6)}),
        label=3,
        rationale="A brick is no fruit.",
        reference="Apple and pear.",
        prompt_id="p1",
        origin="mine",
    )


def test_preferences_a_and_b_become_labels_1_and_2(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", pairwise(orig_preference="A"), pairwise())
    first, second = read_examples(path)
    assert (first.task, first.label, second.label) == ("pairwise", 1, 2)
    assert first.responses == ("Apple and brick.", "Apple and pear.")
    assert first.reference == ""


def test_rows_of_one_conversation_share_a_prompt_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", pointwise(), pairwise(), pointwise(orig_instruction="Name three fruits."))
    one, same, other = (e.prompt_id for e in read_examples(path))
    assert one == same != other
    assert one == conversation_id([Message("user", "Name two fruits.")])
    assert len(one) == 12


@pytest.mark.parametrize("column", ["messages", "conversation"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_multi_turn_conversation_stands_in_for_the_instruction(tmp_path: Path, column: str, as_text: bool) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name two fruits."},
    ]
    row = pointwise(**{"orig_instruction": ..., column: json.dumps(turns) if as_text else turns})
    (example,) = read_examples(jsonl(tmp_path / "rows.jsonl", row))
    assert [(m.role, m.content) for m in example.conversation] == [tuple(t.values()) for t in turns]


def test_unknown_columns_are_ignored_and_empty_responses_are_valid(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "r.jsonl",
        pointwise(orig_response="", label="human", aspect=7),
        pairwise(orig_response_B=""),
    )
    one, two = read_examples(path)
    assert one.responses == ("",)
    assert two.responses == ("Apple and brick.", "")


@pytest.mark.parametrize("score", ["1", "5", 1, 5])
def test_scores_may_be_strings_or_whole_numbers(tmp_path: Path, score: Any) -> None:
    (example,) = read_examples(jsonl(tmp_path / "r.jsonl", pointwise(orig_score=score)))
    assert example.label == int(score)


def test_a_rubric_may_have_no_descriptions(tmp_path: Path) -> None:
    (example,) = read_examples(jsonl(tmp_path / "r.jsonl", pairwise(**dict.fromkeys(SCALE, ...))))
    assert example.rubric == Rubric("Are both items fruits?")


@pytest.mark.parametrize("missing", [..., None, ""])
def test_labels_may_be_missing_where_they_are_not_needed(tmp_path: Path, missing: Any) -> None:
    path = jsonl(tmp_path / "r.jsonl", pointwise(orig_score=missing), pairwise(orig_preference=missing))
    assert [e.label for e in read_examples(path, need_label=False)] == [None, None]


def test_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(pointwise(id=str(k))) + "\n" for k in range(5)) + "not JSON\n")
    assert [e.id for e in read_examples(path, limit=3)] == ["0", "1", "2"]
    assert "limit" in str(failure(path, limit=0))


@pytest.mark.parametrize(
    ("row", "field", "expected"),
    [
        *[
            (pointwise(orig_score=bad), "orig_score", "from 1 to 5")
            for bad in (0, 6, "0", "6", "five", 3.5, "3.5", True, "٣", [3], {"a": 1}, "-3", "3/5")
        ],
        *[
            (
                pairwise(orig_preference=bad),
                "orig_preference",
                "better_index" if bad in (0, "0", True) else "1 or 2, A or B",
            )
            for bad in ("D", "AB", ["A"], 3, 0, "0", True, -1)
        ],
        (pointwise(orig_instruction=...), "orig_instruction", "no instruction"),
        (pointwise(orig_instruction=""), "orig_instruction", "no instruction"),
        (pointwise(orig_instruction=[7]), "orig_instruction", "expected a string, not list [7]"),
        (pointwise(orig_response=True), "orig_response", "expected a string, not bool"),
        (pointwise(orig_response=["a", ["b"]]), "orig_response", "expected a string, not list"),
        (pointwise(orig_response=...), "orig_response", "no response"),
        (pairwise(orig_response_B=...), "orig_response", "no response"),
        (
            pointwise(orig_response_A="x", orig_response_B="y", orig_preference="A"),
            "orig_response",
            "can't tell",
        ),
        (pointwise(orig_criteria=...), "orig_criteria", "--rubric"),
        (pointwise(orig_criteria=" "), "orig_criteria", "no criteria"),
        (pointwise(orig_score4_description=...), "orig_score4_description", "each score"),
        (pointwise(orig_score2_description=[2]), "orig_score2_description", "expected a string"),
        (pointwise(orig_feedback=["no"]), "orig_feedback", "expected a string"),
        (pointwise(orig_response="a\0b"), "orig_response", "NUL"),
        (pointwise(orig_criteria="\ud800"), "orig_criteria", "valid Unicode"),
        (pointwise(id="\ud800"), "id", "valid Unicode"),
        (pointwise(orig_instruction=..., messages=[{"role": "robot", "content": "x"}]), "messages", "role"),
        (pointwise(orig_instruction=..., messages=[{"role": "user", "content": 4}]), "messages", "content"),
        (pointwise(orig_instruction=..., conversation="Hello"), "orig_instruction", "no instruction"),
        (pointwise(orig_instruction=..., conversation=[7]), "orig_instruction", "no instruction"),
        ([1, 2], None, "expected a JSON object"),
        ("text", None, "expected a JSON object"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: Any, field: str | None, expected: str) -> None:
    path = jsonl(tmp_path / "rows.jsonl", pointwise(id="good"), row)
    error = failure(path)
    assert (error.file, error.line, error.field) == (str(path), 2, field)
    assert expected in str(error)
    assert str(error).startswith(f"{path}, line 2")
    assert str(error).count("field") == (1 if field else 0) + str(error).count("the field is missing")


OWN = Example("x", "pointwise", (Message("user", "q"),), ("a",), Rubric("c", {1: "no", 2: "yes"}), 1).to_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "ranking"}, "task"),
        ({"responses": ["a", "b"]}, "responses"),
        ({"responses": [1]}, "responses"),
        ({"label": 3}, "label"),
        ({"label": "one"}, "label"),
        ({"label": True}, "label"),
        ({"label": None}, "label"),
        ({"conversation": []}, "conversation"),
        ({"rubric": None}, "rubric"),
        ({"rubric": {"criteria": "c", "descriptions": {"1": "no"}}}, "rubric"),
        ({"rubric": {"criteria": "c", "descriptions": {"one": "no", "two": "yes"}}}, "rubric"),
        ({"rubric": {"criteria": "c", "descriptions": ["no", "yes"]}}, "rubric"),
        ({"rubric": {"criteria": 5}}, "rubric"),
    ],
)
def test_a_bad_row_of_our_own_format_is_refused_with_its_place(tmp_path: Path, change: Any, field: str) -> None:
    error = failure(jsonl(tmp_path / "rows.jsonl", {**OWN, **change}))
    assert (error.line, error.field) == (1, field)


def test_a_row_of_the_other_task_is_refused_when_a_task_is_asked_for(tmp_path: Path) -> None:
    assert failure(jsonl(tmp_path / "a.jsonl", pairwise()), task="pointwise").field == "orig_response"
    assert failure(jsonl(tmp_path / "b.jsonl", OWN), task="pairwise").field == "task"


@pytest.mark.parametrize("rationale", ["", " \n", None, ...])
def test_rows_without_a_rationale_are_left_out_where_it_is_needed(tmp_path: Path, rationale: Any) -> None:
    path = jsonl(tmp_path / "rows.jsonl", pairwise(orig_feedback=rationale))
    assert len(read_examples(path)) == 1
    assert failure(path, need_rationale=True).field == "orig_feedback"
    both = jsonl(tmp_path / "both.jsonl", pairwise(orig_feedback=rationale), pairwise(orig_feedback="One is clearer."))
    assert len(read_examples(both)) == 2
    (kept,) = read_examples(both, need_rationale=True)
    assert kept.rationale


def test_a_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    error = failure(jsonl(tmp_path / "rows.jsonl", pointwise(id="a"), pointwise(id="b"), pointwise(id="a")))
    assert (error.line, error.field) == (3, "id")
    assert "'a' is already the id of line 1" in str(error)
    assert "--map prompt_id=id" in str(error)


def test_a_duplicate_id_in_another_file_names_that_file(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "train-0.jsonl", pointwise(id="a"))
    jsonl(tmp_path / "train-1.jsonl", pointwise(id="a"))
    assert f"{first}, line 1" in str(failure(tmp_path))


def test_long_values_are_shortened_in_messages(tmp_path: Path) -> None:
    assert len(str(failure(jsonl(tmp_path / "r.jsonl", pointwise(orig_score="x" * 5000))))) < len(str(tmp_path)) + 300


def test_bad_rows_are_set_aside_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl",
        pointwise(id="a"),
        pointwise(orig_score="9"),
        pointwise(id="a"),
        pointwise(orig_criteria="\ud800"),
    )
    path.write_bytes(path.read_bytes() + b'"\xff"\n' + json.dumps(pointwise(id="z")).encode())
    bad = tmp_path / "made" / "bad.jsonl"
    with caplog.at_level(logging.WARNING, logger="recipe.data.examples"):
        examples = read_examples(path, skip_bad_rows=bad)
    assert [e.id for e in examples] == ["a", "z"]
    entries = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [(e["line"], e["field"]) for e in entries] == [
        (2, "orig_score"),
        (3, "id"),
        (4, "orig_criteria"),
        (5, None),
    ]
    assert entries[0]["row"] == pointwise(orig_score="9")
    assert entries[0]["file"] == str(path)
    assert "expected a whole score" in entries[0]["error"]
    assert "4 bad rows" in caplog.text
    assert str(bad) in caplog.text
    assert [p.name for p in bad.parent.iterdir()] == ["bad.jsonl"]


def test_without_bad_rows_the_file_is_empty_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("of an earlier reading\n")
    read_examples(jsonl(tmp_path / "rows.jsonl", pointwise()), skip_bad_rows=bad)
    assert bad.read_text() == ""
    assert caplog.text == ""


def test_only_bad_rows_are_an_error_even_when_set_aside(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", pointwise(orig_score=0), pointwise(orig_score=6))
    assert "bad.jsonl" in str(failure(path, skip_bad_rows=tmp_path / "bad.jsonl"))
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2


def test_the_real_data_reads_unchanged_where_it_lies() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    counts = {path.stem: len(read_examples(path)) for path in folder.glob("*/*.jsonl")}
    assert counts["llmbar_natural"] == 100
    assert len(counts) == 8
