"""Rows in the columns that people's files and tools have become the examples that they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.data.benchmark_formats import GENERAL
from recipe.data.columns import ReadRow
from recipe.data.examples import read_examples, read_rows
from recipe.data.records import Example, Message, Rubric
from recipe.errors import SreError

SHORT = Rubric("Is it short?")
USER = {"role": "user", "content": "Name a fruit."}
APPLE, BRICK = {"role": "assistant", "content": "Apple."}, {"role": "assistant", "content": "Brick."}
LEVELS = {f"score{k}_description": f"level {k}" for k in range(1, 6)}


def read(tmp_path: Path, *rows: Any, **options: Any) -> list[ReadRow]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_rows(path, **{"rubrics": {"pointwise": SHORT, "pairwise": SHORT}, **options}))


def only(tmp_path: Path, row: Any, **options: Any) -> Example:
    (found,) = read(tmp_path, row, **options)
    assert found.example, found.error
    return found.example


def turns(example: Example) -> list[str]:
    return [f"{turn.role}: {turn.content}" for turn in example.conversation]


ASKED = ["user: Name a fruit."]


@pytest.mark.parametrize(
    ("row", "conversation", "label"),
    [
        ({"question": "Name a fruit.", "answer": "Apple.", "score": "4.0"}, ASKED, 4),
        ({"prompt": "Name a fruit.", "response": "Apple.", "rating": 4}, ASKED, 4),
        ({"instruction": "Name a fruit.", "response": "Apple.", "label": 4.0}, ASKED, 4),
        ({"input": "Name a fruit.", "output": "Apple."}, ASKED, None),
        ({"Question": "Name a fruit.", "Model Answer": "Apple.", "Human-Score": " 4 "}, ASKED, 4),
        ({"query": "Name a fruit.", "generated_text": "Apple.", "answer": "Pear."}, ASKED, None),
        ({"instruction": "Name a fruit.", "input": "", "output": "Apple."}, ASKED, None),
        (
            {"instruction": "Name a fruit.", "input": "A red one.", "output": "Apple."},
            [f"{ASKED[0]}\n\nA red one."],
            None,
        ),
        (
            {"system_prompt": "Be kind.", "prompt": "Name a fruit.", "completion": "Apple."},
            ["system: Be kind.", *ASKED],
            None,
        ),
        ({"messages": [USER, APPLE], "score": 4}, ASKED, 4),
        ({"messages": json.dumps([USER, APPLE])}, ASKED, None),
        ({"messages": str([USER, APPLE])}, ASKED, None),
        ({"messages": [USER], "response": "Apple."}, ASKED, None),
        ({"prompt": [USER], "completion": [APPLE]}, ASKED, None),
        ({"prompt": "Name a fruit.", "messages": [USER, APPLE]}, ASKED, None),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "human", "value": "Name a fruit."},
                    {"from": "gpt", "value": "Apple."},
                ]
            },
            ["system: Be kind.", *ASKED],
            None,
        ),
        ({"input": "Name a fruit.", "actual_output": "Apple.", "expected_output": "Pear."}, ASKED, None),
        ({"messages": "\n\nHuman: Name a fruit.\n\nAssistant: Apple."}, ASKED, None),
        ({"prompt": "\n\nHuman: Name a fruit.\n\nAssistant:", "response": "Apple."}, ASKED, None),
    ],
)
def test_one_response_in_common_columns(tmp_path: Path, row: Any, conversation: list[str], label: int | None) -> None:
    example = only(tmp_path, row)
    assert (example.task, example.responses, turns(example)) == ("pointwise", ("Apple.",), conversation)
    assert (example.label, example.rubric) == (label, SHORT)


@pytest.mark.parametrize(
    "row",
    [
        {
            "question": "Name a fruit.",
            "answer": "Apple.",
            "contexts": ["Apples are red.", "So are cherries."],
            "ground_truth": "Apple",
        },
        {
            "question": "Name a fruit.",
            "answer": "Apple.",
            "contexts": "['Apples are red.', 'So are cherries.']",
            "ground_truths": ["Apple"],
        },
        {
            "user_input": "Name a fruit.",
            "response": "Apple.",
            "retrieved_contexts": ["Apples are red.", "So are cherries."],
            "reference": "Apple",
        },
    ],
)
def test_ragas_rows_show_the_contexts_and_the_reference(tmp_path: Path, row: Any) -> None:
    example = only(tmp_path, row)
    assert turns(example) == ["user: Name a fruit.\n\nContext:\nApples are red.\n\nSo are cherries."]
    assert (example.responses, example.reference) == (("Apple.",), "Apple")


def test_ragas_conversations(tmp_path: Path) -> None:
    said = [
        {"type": "human", "content": "Hi"},
        {"type": "ai", "content": "Hello"},
        {"type": "human", "content": "A fruit?"},
    ]
    example = only(tmp_path, {"user_input": said, "response": "Apple."})
    assert turns(example) == ["user: Hi", "assistant: Hello", "user: A fruit?"]


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"question": "Name a fruit.", "response_a": "Apple.", "response_b": "Brick.", "winner": "a"}, 1),
        ({"prompt": "Name a fruit.", "response_1": "Apple.", "response_2": "Brick.", "preference": 1.0}, 1),
        ({"Prompt": "Name a fruit.", "Response A": "Apple.", "Response B": "Brick.", "Better": "Response A"}, 1),
        ({"input": "Name a fruit.", "output_1": "Apple.", "output_2": "Brick.", "label": "1"}, 1),
        ({"instruction": "Name a fruit.", "answer_a": "Apple.", "answer_b": "Brick.", "preference": "tie"}, None),
        ({"question": "Name a fruit.", "response_A": "Apple.", "response_B": "Brick.", "label": "A=B"}, None),
        ({"prompt": "Name a fruit.", "response_a": "Apple.", "response_b": "Brick.", "chosen": "A"}, 1),
        ({"prompt": "Name a fruit.", "response_a": "Apple.", "response_b": "Brick.", "chosen": "tie"}, None),
        ({"conversation_a": [USER, APPLE], "conversation_b": [USER, BRICK], "winner": "model_a"}, 1),
        ({"prompt": [USER], "response_a": [APPLE], "response_b": [BRICK], "preference": 1.2}, 1),
    ],
)
def test_pairs_in_common_columns(tmp_path: Path, row: Any, label: int | None) -> None:
    example = only(tmp_path, row)
    assert (example.task, example.responses, turns(example)) == ("pairwise", ("Apple.", "Brick."), ASKED)
    assert example.label == label
    assert example.label_note == ("tie" if label is None else "")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a fruit.", "chosen": "Apple.", "rejected": "Brick."},
        {"prompt": [USER], "chosen": [APPLE], "rejected": [BRICK]},
        {"prompt": "Name a fruit.", "chosen": [USER, APPLE], "rejected": [USER, BRICK], "messages": [USER, APPLE]},
        {"chosen": [USER, APPLE], "rejected": [USER, BRICK]},
        {"question": "Name a fruit.", "chosen": json.dumps([APPLE]), "rejected": json.dumps([BRICK])},
        {"prompt": "Name a fruit.", "chosen": APPLE, "rejected": BRICK},
        {
            "conversations": [{"from": "human", "value": "Name a fruit."}],
            "chosen": {"from": "gpt", "value": "Apple."},
            "rejected": {"from": "gpt", "value": "Brick."},
        },
    ],
)
def test_chosen_and_rejected_as_texts_or_turns(tmp_path: Path, row: Any) -> None:
    example = only(tmp_path, row, rubrics={})
    assert turns(example) == ASKED
    assert sorted(example.responses) == ["Apple.", "Brick."]
    assert example.label is not None
    assert example.responses[example.label - 1] == "Apple."
    assert example.rubric == GENERAL["pairwise"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("chosen", "rejected", {}),
        ("conversation_a", "conversation_b", {"winner": "model_a"}),
        ("response_a", "response_b", {"prompt": [USER], "winner": "A"}),
    ],
)
def test_answers_to_other_turns_are_no_pair(tmp_path: Path, one: str, other: str, same: dict[str, Any]) -> None:
    asked = [APPLE, {"role": "user", "content": "Another one?"}]
    begun = [] if "prompt" in same else [USER]
    example = only(tmp_path, {**same, one: [*begun, *asked, APPLE], other: [*begun, *asked, BRICK]})
    assert turns(example) == ["user: Name a fruit.", "assistant: Apple.", "user: Another one?"]
    assert sorted(example.responses) == ["Apple.", "Brick."]
    (row,) = read(tmp_path, {**same, one: [*begun, *asked, APPLE], other: [*begun, BRICK, *asked[1:], BRICK]})
    assert row.error
    assert row.error.field == other
    assert repr(one) in str(row.error)


def test_a_rewardbench_2_row_is_a_pair_for_each_chosen_and_rejected_text(tmp_path: Path) -> None:
    row = {
        "id": "7",
        "prompt": "Name a fruit.",
        "chosen": ["Apple.", "Pear."],
        "rejected": ["Brick.", "Nail.", "Wood."],
    }
    found = [one.example for one in read(tmp_path, {**row, "subset": "Focus", "num_correct": 2}, rubrics={})]
    assert [example.id for example in found if example] == [f"Focus-7:{k}-{m}" for k in (1, 2) for m in (1, 2, 3)]
    assert {example.responses[(example.label or 0) - 1] for example in found if example} == {"Apple.", "Pear."}
    assert {example.prompt_id for example in found if example} == {found[0].prompt_id}  # type: ignore[union-attr]
    as_table = {**row, "chosen": json.dumps(row["chosen"]), "rejected": str(row["rejected"])}
    again = [one.example for one in read(tmp_path, {**as_table, "subset": "Focus", "num_correct": "2"}, rubrics={})]
    assert [example.responses for example in again if example] == [example.responses for example in found if example]
    (answer,) = read(tmp_path, as_table, rubrics={})  # answers that are lists
    assert answer.example
    assert sorted(answer.example.responses) == ['["Apple.", "Pear."]', "['Brick.', 'Nail.', 'Wood.']"]


# Rubrics.


@pytest.mark.parametrize(
    "criteria",
    [
        {"criteria": "Ripe?", **LEVELS},
        {"rubric": {"criteria": "Ripe?", **LEVELS}},
        {"rubric": json.dumps({"criteria": "Ripe?", "descriptions": {str(k): f"level {k}" for k in range(1, 6)}})},
        {"score_rubric": str({"criteria": "Ripe?", **LEVELS})},
        {"rubric": "Ripe?\n" + "\n".join(f"Score {k}: level {k}" for k in range(1, 6))},
    ],
)
def test_a_row_brings_its_rubric_in_columns_or_in_one(tmp_path: Path, criteria: Any) -> None:
    example = only(tmp_path, {"question": "q", "answer": "a", **criteria}, rubrics={})
    assert example.rubric == Rubric("Ripe?", {k: f"level {k}" for k in range(1, 6)})


@pytest.mark.parametrize("scale", [(0, 1), (1, 2, 3), tuple(range(1, 11))])
def test_other_scales_are_read_where_the_rubric_says_so(tmp_path: Path, scale: tuple[int, ...]) -> None:
    row = {"question": "q", "answer": "a", "criteria": "Ripe?", "score": f"{scale[-1]}.0"}
    row |= {f"score{k}_description": f"level {k}" for k in scale}
    example = only(tmp_path, row)
    assert (example.rubric.scores, example.label) == (scale, scale[-1])
    row["score"] = str(scale[-1] + 1)
    assert f"from {scale[0]} to {scale[-1]}" in only(tmp_path, row).label_note


def test_a_csv_cell_left_empty_is_no_level_of_the_scale_and_a_gap_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    header = "question,answer,criteria," + ",".join(LEVELS)
    path.write_text(f"{header}\nq,a,Ripe?,no,partly,yes,,\nq,a,Ripe?,no,,yes,,\n")
    first, second = read_rows(path)
    assert first.example
    assert first.example.rubric.scores == (1, 2, 3)
    assert second.error
    assert second.error.field == "score2_description"


def test_annotators_scores_are_not_taken_for_descriptions(tmp_path: Path) -> None:
    example = only(tmp_path, {"question": "q", "answer": "a", "criteria": "c", "score1": "3", "score2": "4"})
    assert example.rubric == Rubric("c")


# What isn't recognised.


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"frage": "q", "antwort": "a"}, ["frage, antwort", "--map instruction=frage --map response=antwort --rubric"]),
        ({"question": "q", "my text": "a"}, ["question, my text", "--map response='my text' --rubric"]),
        ({"text": "q"}, ["--map instruction=text --map response=COLUMN"]),
        (
            {"nr": 1, "data": {"question": "q"}, "marks": [{"id": 1}]},
            ["--map instruction=COLUMN --map response=COLUMN"],
        ),
        ({"turns": [USER], "antwort": "a"}, ["--map instruction=turns --map response=antwort"]),
        ({"answer": "a", "criteria": "c", "asked": "q"}, ["--map instruction=asked"]),
        ({"question": "q", "answer": "a"}, ["no criteria", "--rubric helpfulness"]),
        ({"messages": [USER], "criteria": "c"}, ["the user's", "field 'messages'"]),
        ({}, ["columns found: none"]),
    ],
)
def test_the_error_shows_the_columns_and_a_line_to_add(tmp_path: Path, row: Any, parts: list[str]) -> None:
    (found,) = read(tmp_path, row, rubrics={})
    assert found.error
    for part in (*parts, "rows.jsonl, line 1"):
        assert part in str(found.error)


@pytest.mark.parametrize(("column", "value"), [("answer", None), ("question", ""), ("question", None)])
def test_an_empty_cell_of_a_known_column_asks_for_no_other_column(tmp_path: Path, column: str, value: Any) -> None:
    row = {"question": "q", "answer": "a", "criteria": "c"}
    _, bad = read(tmp_path, row, {**row, column: value})
    assert bad.error
    assert (bad.error.field, bad.error.options) == (column, "")
    assert "empty" in str(bad.error)


def test_the_line_that_the_error_shows_works(tmp_path: Path) -> None:
    row = {"frage": "Name a fruit.", "antwort": "Apple."}
    example = only(tmp_path, row, columns={"instruction": "frage", "response": "antwort"})
    assert (turns(example), example.responses) == (ASKED, ("Apple.",))


def test_a_mapping_takes_a_column_away_from_what_it_would_be(tmp_path: Path) -> None:
    row = {"question": "What is it?", "prompt": "Name a fruit.", "response": "Brick.", "answer": "Apple."}
    example = only(tmp_path, row, columns={"instruction": "prompt", "response": "answer", "reference": "response"})
    assert (turns(example), example.responses, example.reference) == (ASKED, ("Apple.",), "Brick.")


@pytest.mark.parametrize(
    "said",
    [
        [{"role": "user", "parts": [{"text": "Name a fruit."}]}, {"role": "model", "parts": [{"text": "Apple."}]}],
        [
            {"type": role, "data": {"content": text, "type": role}}
            for role, text in (("human", "Name a fruit."), ("ai", "Apple."))
        ],
    ],
    ids=["Gemini", "LangChain"],
)
def test_turns_of_other_tools(tmp_path: Path, said: list[dict[str, Any]]) -> None:
    example = only(tmp_path, {"messages": said})
    assert (turns(example), example.responses) == (ASKED, ("Apple.",))


# Odd values.


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": ["a", ["b"]]}, "answer"),
        ({"answer": {"text": "a"}}, "answer"),
        ({"question": [["nested"]]}, "question"),
        ({"criteria": [1]}, "criteria"),
        ({"reference": {"a": 1}}, "reference"),
        ({"contexts": [["nested"]]}, "contexts"),
        ({"feedback": 3 * [{}]}, "feedback"),
        ({"answer": "a\0"}, "answer"),
        ({"messages": [{"role": "robot", "content": "x"}], "question": None}, "messages"),
    ],
)
def test_an_odd_value_is_its_rows_error_and_names_the_column(tmp_path: Path, change: Any, field: str) -> None:
    good = {"question": "q", "answer": "a", "criteria": "c"}
    one, odd, other = read(tmp_path, good, {**good, **change}, good)
    assert one.example
    assert other.example
    assert odd.error
    assert (odd.error.line, odd.error.field) == (2, field)


def test_numbers_are_texts_and_ids(tmp_path: Path) -> None:
    example = only(tmp_path, {"question": 5, "answer": 4.5, "criteria": "c", "id": 7.0, "prompt_id": 3})
    assert (turns(example), example.responses, example.id, example.prompt_id) == (["user: 5"], ("4.5",), "7", "3")


@pytest.mark.parametrize("label", [None, float("nan"), "", "nan"])
def test_rows_without_a_label_are_judged_and_left_out_of_training(
    tmp_path: Path, label: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"question": "q", "answer": "a", "criteria": "c", "score": label}
    assert [one.example and one.example.label for one in read(tmp_path, row, {**row, "score": 4})] == [None, 4]
    assert [example.label for example in read_examples(tmp_path / "rows.jsonl")] == [4]
    assert "1 row without a label" in caplog.text


@pytest.mark.parametrize("label", ["excellent", [4], 9, {"a": 1}, None, ""])
def test_an_odd_label_is_no_error_to_judge_and_one_to_train_as_is_none_in_all_rows(tmp_path: Path, label: Any) -> None:
    row = {"question": "q", "answer": "a", "criteria": "c", "score": label}
    assert only(tmp_path, row).label is None
    with pytest.raises(SreError) as caught:
        read_examples(tmp_path / "rows.jsonl")
    assert caught.value.field == "score"


def test_ties_are_left_out_of_what_is_trained_or_measured_with_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = {"question": "q", "response_a": "a", "response_b": "b"}
    read(tmp_path, *({**pair, "winner": winner} for winner in ("a", "tie", 1.5, "b")))
    assert [example.label for example in read_examples(tmp_path / "rows.jsonl")] == [1, 2]
    assert "2 ties" in caplog.text


@pytest.mark.parametrize("text", [True, False], ids=["as JSON", "as lists"])
def test_lists_of_texts_are_turns(tmp_path: Path, text: bool) -> None:
    def cell(*texts: str | None) -> Any:
        return json.dumps(texts) if text else list(texts)

    arena = {"prompt": cell("Hi", "And?"), "response_a": cell("Ho", "x"), "response_b": cell("Ho", None), "winner": "a"}
    one = {"prompt": cell("Hi"), "response_a": cell("x"), "response_b": cell("y"), "winner": "tie"}
    scored = {"prompt": cell("Hi", "And?"), "response": cell("Ho", "x"), "criteria": "c", "score": 3}
    pair, single, alone = (found.example for found in read(tmp_path, arena, one, scored))
    assert pair
    assert single
    assert alone
    turns = (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?"))
    assert (pair.conversation, pair.responses, pair.label) == (turns, ("x", ""), 1)
    assert (single.conversation, single.responses, single.label_note) == (turns[:1], ("x", "y"), "tie")
    assert (alone.conversation, alone.responses) == (turns, ("x",))


def test_lists_that_are_no_turns_are_told(tmp_path: Path) -> None:
    other = {"prompt": ["Hi", "And?"], "response_a": ["Ho", "x"], "response_b": ["Hello", "y"], "winner": "a"}
    short = {**other, "response_b": ["Ho"]}
    text = {**other, "prompt": '["a", "b"]', "response_a": "x", "response_b": "y"}
    differing, shorter, kept = read(tmp_path, other, short, text)
    for row in (differing, shorter):
        assert row.error
        assert row.error.field == "response_b"
    assert "2 texts" in str(shorter.error)
    assert kept.example
    assert kept.example.conversation == (Message("user", '["a", "b"]'),)
