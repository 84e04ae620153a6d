"""A file's own columns under our names, rubrics for rows without criteria, and bad rows that stop nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.data.benchmark_formats import GENERAL
from recipe.data.columns import NAMES, ReadRow, column_map
from recipe.data.examples import read_examples, read_rows
from recipe.data.notices import notices
from recipe.data.records import Example, Rubric
from recipe.data.values import unclear
from recipe.errors import SreError

ROW = {"question": "Name two fruits.", "answer": "Apple and brick.", "asked": "Are both items fruits?"}
COLUMNS = {"instruction": "question", "response": "answer", "criteria": "asked"}


def read(path: Path | str, **options: Any) -> list[ReadRow]:
    return list(read_rows(path, **options))


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def good(row: ReadRow) -> Example:
    assert row.example, row
    return row.example


def error_of(row: ReadRow) -> SreError:
    assert row.error, row
    return row.error


def write_csv(path: Path, row: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


def write_parquet(path: Path, row: dict[str, str]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_files_own_columns_are_read_under_our_names_in_every_format(tmp_path: Path, kind: str) -> None:
    write = {"jsonl": jsonl, "csv": write_csv, "parquet": write_parquet}[kind]
    (row,) = read(write(tmp_path / f"rows.{kind}", ROW | {"name": "x1"}), columns={**COLUMNS, "id": "name"})
    example = good(row)
    assert (example.id, example.conversation[0].content) == ("x1", "Name two fruits.")
    assert (example.responses, example.rubric.criteria) == (("Apple and brick.",), "Are both items fruits?")


def test_unknown_names_list_what_is_there() -> None:
    assert column_map({"response_a": "x", "score3": "y"}) == {"response_a": "x", "score3": "y"}
    with pytest.raises(SreError, match=r"'answer'.*response_a.*did you mean response=answer"):
        column_map({"answer": "response"})
    assert set(NAMES) >= {"instruction", "response", "response_a", "response_b", "criteria", "reference", "score5"}


def test_a_mapped_column_that_a_row_lacks_is_named(tmp_path: Path) -> None:
    one, two = read(jsonl(tmp_path / "rows.jsonl", ROW, {"question": "q"}), columns=COLUMNS)
    assert good(one).task == "pointwise"
    assert (error_of(two).line, error_of(two).field) == (2, "answer")


def test_rows_without_criteria_take_the_tasks_rubric_and_others_keep_theirs(tmp_path: Path) -> None:
    bare = {"orig_instruction": "q", "orig_response": "a"}
    pair = {"orig_instruction": "q", "orig_response_A": "a", "orig_response_B": "b"}
    own = {"task": "pointwise", "conversation": [{"role": "user", "content": "q"}], "responses": ["a"]}
    kind = Rubric("Kind?", {0: "no", 1: "yes"})
    rows = read(
        jsonl(tmp_path / "r.jsonl", bare, {**bare, "orig_criteria": "Mine?"}, pair, own, {**bare, "orig_score": "5"}),
        rubrics={"pointwise": kind},
    )
    assert good(rows[0]).rubric == kind
    assert good(rows[1]).rubric == Rubric("Mine?")
    assert error_of(rows[2]).field == "orig_criteria"
    assert good(rows[3]).rubric == kind
    assert (good(rows[4]).label, good(rows[4]).label_note[:13]) == (None, "off the scale")


def test_a_bad_row_keeps_its_id_where_that_is_good_and_free(tmp_path: Path) -> None:
    fine = {"orig_instruction": "q", "orig_response": "a", "orig_criteria": "c"}
    rows = read(
        jsonl(
            tmp_path / "r.jsonl",
            {**fine, "id": "a"},
            {**fine, "id": "a"},
            {**fine, "id": "b", "orig_response": [5]},
            "{broken",
            {**fine, "id": "x\ud800"},
            {**fine, "id": "r-7"},
            "[1]",
        )
    )
    assert [row.id for row in rows] == ["a", "a-2", "b", "r-4", "r-5", "r-7", "r-7-7"]
    assert [row.error is not None for row in rows] == [False, False, True, True, True, False, True]
    assert [row.example.id for row in rows if row.example] == ["a", "a-2", "r-7"]


def test_standard_input_is_read_as_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = json.dumps(ROW).encode() + b"\n\n{\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    one, two = read("-", columns=COLUMNS)
    assert (good(one).id, good(one).origin) == ("stdin-1", "standard input:1")
    assert (error_of(two).file, error_of(two).line) == ("standard input", 3)


FLAGS = ("winner_model_a", "winner_model_b", "winner_tie")


@pytest.mark.parametrize("columns", [{}, {"first_is_better": "winner_model_a"}], ids=["found", "mapped"])
@pytest.mark.parametrize(
    ("flags", "label", "tie"),
    [
        ((1, 0, 0), 1, False),
        ((0, 1, 0), 2, False),
        ((0, 0, 1), None, True),
        ((1,), 1, False),
        ((0,), 2, False),
        ((0, 0), None, True),
        (("1", "0", "0"), 1, False),
        ((False, True, False), 2, False),
    ],
    ids=str,
)
def test_flags_of_the_winner_are_read(
    tmp_path: Path, flags: tuple[Any, ...], label: int | None, tie: bool, columns: dict[str, str]
) -> None:
    pair = {"prompt": "q", "response_a": "x", "response_b": "y", **dict(zip(FLAGS, flags, strict=False))}
    (found,) = read(jsonl(tmp_path / "r.jsonl", pair), columns=columns)
    assert (good(found).label, good(found).label_note == "tie") == (label, tie)


@pytest.mark.parametrize("flags", [(1, 1, 0), (1, 0, 1), (0, 0, 0), (2, 0, 0)], ids=str)
def test_flags_that_contradict_each_other_are_no_label(tmp_path: Path, flags: tuple[int, ...]) -> None:
    pair = {"prompt": "q", "response_a": "x", "response_b": "y", **dict(zip(FLAGS, flags, strict=True))}
    (found,) = read(jsonl(tmp_path / "r.jsonl", pair))
    assert good(found).label is None
    assert good(found).label_note not in ("", "tie")


PAIR = {"prompt": "q", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize(("value", "label", "note"), [(0, 1, ""), ("1", 2, ""), (2, None, "tie"), (3, None, "not 3")])
def test_a_number_of_the_better_response_is_counted_from_0_and_2_is_a_tie(
    tmp_path: Path, value: object, label: int | None, note: str
) -> None:
    (found,) = read(jsonl(tmp_path / "r.jsonl", {**PAIR, "winner": value}), columns={"better_index": "winner"})
    assert good(found).label == label
    assert good(found).label_note.endswith(note)
    assert unclear(good(found).label_note) == (value == 3)  # the other numbers may mean something else too


@pytest.mark.parametrize("names", [("model_a", "model_b"), ("left", "right")])
@pytest.mark.parametrize(
    ("models", "winner", "label"),
    [
        (("gpt-4", "claude"), "gpt-4", 1),
        (("gpt-4", "claude"), "claude ", 2),
        (("model_b", "model_a"), "model_a", 2),  # names of models, not of sides
        (("gpt-4", "claude"), "A", 1),
        (("gpt-4", "claude"), "model_b", 2),
        (("gpt-4", "claude"), "tie", None),
        (("2", "1"), "1", 1),
        (("gpt-4", "gpt-4"), "gpt-4", None),
        (("gpt-4", None), "", None),
        (("gpt-4", "claude"), "gemini", None),
    ],
)
def test_a_winner_may_be_named_by_its_model(
    tmp_path: Path, names: tuple[str, str], models: tuple[str | None, ...], winner: str, label: int | None
) -> None:
    mapped = dict(zip(("model_a", "model_b"), names, strict=True)) if names[0] == "left" else {}
    pair = {**PAIR, **dict(zip(names, models, strict=True)), "winner": winner}
    (found,) = read(jsonl(tmp_path / "r.jsonl", pair), columns=mapped)
    assert good(found).label == label
    assert ("--map model_a=" in good(found).label_note) == (winner == "gemini" or models[0] == models[1])
    told = "\n".join(notices([found], {}))
    assert (f"{names[0]} as model_a" in told) == (winner.strip() in models and label is not None and winner != "1")


@pytest.mark.parametrize(
    ("cells", "hint"),
    [({"score_a": "1", "score_b": "2"}, "COLUMN"), ({"by": "gpt"}, "COLUMN"), ({"by": "gpt", "besser": "B"}, "besser")],
)
def test_only_a_column_that_says_which_is_better_is_proposed_as_the_preference(
    tmp_path: Path, cells: dict[str, str], hint: str
) -> None:
    path = write_csv(tmp_path / "pairs.csv", {"prompt": "q", "response_a": "x", "response_b": "y", **cells})
    with pytest.raises(SreError) as caught:
        read_examples(path, task="pairwise", rubrics=GENERAL)
    assert caught.value.options == f"--map preference={hint}"


@pytest.mark.parametrize(("cells", "hint"), [({"by": "gpt"}, "COLUMN"), ({"by": "gpt", "note": "4"}, "note")])
def test_only_a_column_of_numbers_is_proposed_as_the_score(tmp_path: Path, cells: dict[str, str], hint: str) -> None:
    path = write_csv(tmp_path / "rows.csv", {"prompt": "q", "response": "x", **cells})
    with pytest.raises(SreError) as caught:
        read_examples(path, rubrics=GENERAL)
    assert caught.value.options == f"--map score={hint}"


def test_an_error_about_a_turn_shows_it_as_the_file_has_it(tmp_path: Path) -> None:
    (found,) = read(jsonl(tmp_path / "r.jsonl", {"messages": [{"id": 1, "result": "x"}], "criteria": "Is it true?"}))
    assert "'result': 'x'" in str(found.error)
