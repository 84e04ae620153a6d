"""Where rows are read from, in which formats, and how unreadable files are refused."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.data import files as readers
from recipe.data.columns import NO_HEADER
from recipe.data.examples import read_examples, read_rows
from recipe.data.files import Source
from recipe.data.records import TASKS, Example, Message, Rubric
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


def write_csv(path: Path, *rows: dict[str, Any]) -> Path:
    header = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in rows]), path)
    return path


WRITERS = {"jsonl": jsonl, "csv": write_csv, "parquet": write_parquet}


def failure(path: Path, **options: Any) -> SreError:
    with pytest.raises(SreError) as caught:
        read_examples(path, **options)
    return caught.value


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    rows = [
        pointwise(id="a", source="s", orig_response='line\nbreak, "quote" ‹é›'),
        pointwise(id="b", source="s"),
    ]
    found = [read_examples(write(tmp_path / f"rows.{kind}", *rows)) for kind, write in WRITERS.items()]
    assert found[0] == found[1] == found[2]


def test_default_ids_and_origins_name_stem_and_line_and_blank_lines_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(pointwise())}\n\n{json.dumps(pointwise())}\n")
    examples = read_examples(path)
    assert [e.id for e in examples] == ["rows-1", "rows-3"]
    assert [e.origin for e in examples] == ["rows.jsonl:1", "rows.jsonl:3"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    for name, text in (
        ("r.jsonl", json.dumps(pointwise())),
        ("r.csv", write_csv(tmp_path / "x.csv", pointwise()).read_text()),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_examples(tmp_path / name)[0].label == 3


def test_separators_that_are_no_newline_do_not_split_a_json_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(pointwise(orig_response="a\u2028b\x85c"), ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_examples(path)[0].responses == ("a\u2028b\x85c",)


def test_a_csv_cell_may_be_longer_than_the_csv_modules_default_limit(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", pointwise(orig_response="x" * 200_000))
    assert len(read_examples(path)[0].responses[0]) == 200_000


@pytest.mark.parametrize("names", [["dev.jsonl"], ["dev-0.jsonl", "dev-1.jsonl"], ["dev/a.jsonl", "dev/b.csv"]])
def test_a_folder_gives_the_files_of_the_split(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "dev").mkdir()
    jsonl(tmp_path / "train.jsonl", pointwise(id="no"))
    for name in names:
        WRITERS[name.rpartition(".")[2]](tmp_path / name, pointwise(id=name))
    assert [e.id for e in read_examples(tmp_path, split="dev")] == names


def test_seed_data_is_the_tasks_file_of_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev").mkdir()
    jsonl(tmp_path / "dev" / "pointwise.jsonl", pointwise(id="one"))
    jsonl(tmp_path / "dev" / "pairwise.jsonl", pairwise(id="two"))
    monkeypatch.setattr(readers, "resource", lambda name: tmp_path if name == "data" else None)
    assert [e.id for e in read_examples("seed-data", task="pairwise", split="dev")] == ["two"]
    assert {e.id for e in read_examples("seed-data", split="dev")} == {"one", "two"}
    with pytest.raises(SreError, match="no file of split 'validation'"):
        read_examples("seed-data", split="validation")
    with pytest.raises(SreError, match="no file of split 'test'"):
        read_examples("seed-data", split="test")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_counted_part_of_the_seed_data_is_its_counted_rubrics_and_no_more(split: str) -> None:
    for task in TASKS:
        whole = read_examples("seed-data", task=task, split=split)
        counted = read_examples("seed-data:counted", task=task, split=split)
        assert counted == [row for row in whole if row.aspect.endswith("_given")]
        assert len({row.aspect for row in counted}) == 5
        # The limit counts the rows of the part.
        assert read_examples("seed-data:counted", task=task, split=split, limit=3) == counted[:3]


def test_an_installation_without_its_data_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(name: str) -> Path:
        raise FileNotFoundError("the installation lacks its 'data' folder")

    monkeypatch.setattr(readers, "resource", lacking)
    with pytest.raises(SreError, match="lacks its 'data'"):
        read_examples("seed-data")


def test_a_hub_name_is_loaded_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, *, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list([pairwise(instruction="the long prompt"), pairwise(orig_preference="A")])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = read_examples("prometheus-eval/Preference-Collection", split="train")
    assert asked == [("prometheus-eval/Preference-Collection", "train")]
    assert [(e.id, e.label) for e in examples] == [
        ("Preference-Collection-1", 2),
        ("Preference-Collection-2", 1),
    ]


def test_a_hub_that_fails_tells_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, *, split: str) -> Any:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = str(failure(Path("prometheus-eval/Feedback-Collection")))
    for part in (
        "prometheus-eval/Feedback-Collection",
        "no route to host",
        "check the name",
        "go online",
        "local",
    ):
        assert part in message


def test_a_hub_name_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in str(failure(Path("someone/something")))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "r.parquet", pointwise())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install pyarrow" in str(failure(path))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "some/folder/deep", "data/nowhere.jsonl", "nowhere"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    error = failure(tmp_path / name)
    assert "no such file" in str(error)
    assert error.file == tmp_path / name


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        (b"{\n", 1, "invalid JSON"),
        (json.dumps(pointwise()).encode() + b"\n{'a': 1}\n", 2, "invalid JSON"),
        (json.dumps(pointwise()).encode()[:-5], 1, "invalid JSON"),
        (b'{"orig_instruction": "a\x00b"}\n', 1, "invalid JSON"),
        (b"[" * 100_000, 1, "invalid JSON"),
        (b"9" * 10_000, 1, "invalid JSON"),
        (b"question,answer\nq,a\n", 1, ".csv"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, content: bytes, line: int, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    error = failure(path)
    assert error.line == line
    assert expected in str(error)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert "no rows" in str(failure(tmp_path / name))


def test_a_csv_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", pointwise())
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "no rows" in str(failure(path))


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.txt", "rows", "rows.gz", "rows.xlsx.gz", "rows.tar.gz"])
def test_an_unknown_extension_is_refused(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / name, pointwise())
    assert all(kind in str(failure(tmp_path / name)) for kind in (".jsonl", ".csv", ".parquet", ".gz"))


def test_a_csv_row_is_named_by_the_line_of_the_file_in_which_it_begins(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", pointwise(orig_response="one\ntwo\nthree"), pointwise(orig_score="9"))
    assert (failure(path).line, failure(path).field) == (5, "orig_score")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orig_criteria,orig_score\na,b,c\n", "expected 2 cells"),
        ("orig_criteria,orig_score\na,b,c\n", "',' in it into double quotes"),
        ("orig_criteria;orig_score\na;b;c\n", "';' in it into double quotes"),
        ("orig_criteria,orig_score\na\n", "expected 2 cells"),
        ("orig_criteria,orig_criteria\na,b\n", "'orig_criteria'"),
        ("a,b\n1,2\n", "columns found: a, b"),
        ('orig_criteria,orig_score\n"a,b\n', "invalid CSV"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    assert expected in str(failure(tmp_path / "rows.csv"))


@pytest.mark.parametrize("head", ["sep=;\n", "\n\nsep=;\n", "\n"])
def test_lines_above_the_header_of_a_csv_count(tmp_path: Path, head: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(head + "question;answer;criteria\nq1;a;c\nq2;a\n")
    rows = list(read_rows(path))
    assert [(row.raw.line, bool(row.error)) for row in rows] == [
        (head.count("\n") + 2, False),
        (head.count("\n") + 3, True),
    ]


def test_a_malformed_row_of_a_csv_ends_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,answer,criteria\nq1,a,c\n"q2"x,a,c\n\nq3,a,c\nq4,a\n"q5,a,c\n')
    rows = list(read_rows(path))
    assert [(row.raw.line, bool(row.error)) for row in rows] == [
        (2, False),
        (3, True),
        (5, False),
        (6, True),
        (7, True),
    ]
    assert "invalid CSV" in str(rows[1].error)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_invalid_utf8_is_found_in_its_row_and_field(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / f"rows.{kind}", pointwise(), pointwise(orig_response="HERE"))
    path.write_bytes(path.read_bytes().replace(b"HERE", b"a\xffb"))
    error = failure(path)
    assert (error.line, error.field) == (2 + (kind == "csv"), "orig_response")
    assert "UTF-8" in str(error)


@pytest.mark.parametrize("content", [b"", b"PAR1 is not enough", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "rows.parquet").write_bytes(content)
    assert "no readable Parquet" in str(failure(tmp_path / "rows.parquet"))


def test_importing_the_reader_loads_no_data_library() -> None:
    heavy = "datasets", "pyarrow", "numpy", "torch"
    code = f"import sys, recipe.data.examples; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", WRITERS)
def test_both_kinds_in_one_file_are_told_row_by_row_in_every_format(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / f"mixed.{kind}", pointwise(), pairwise(), pointwise(orig_score="5"))
    examples = read_examples(path)
    assert [e.task for e in examples] == ["pointwise", "pairwise", "pointwise"]
    assert [e.label for e in examples] == [3, 2, 5]
    for need_label in (True, False):
        error = failure(path, task="pointwise", need_label=need_label)
        assert (error.line, error.field) == (2 + (kind == "csv"), "orig_response")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_written_by_to_json_come_back_unchanged(tmp_path: Path, kind: str) -> None:
    examples = [
        Example(
            "x",
            "pointwise",
            (Message("user", "q"),),
            ("a",),
            Rubric("c", {0: "no", 1: "yes"}),
            0,
            "r",
            "f",
            "p",
            "o",
        ),
        Example("y", "pairwise", (Message("user", "q"),), ("a", ""), Rubric("c"), None, "", "", "p", "o"),
    ]
    path = WRITERS[kind](tmp_path / f"own.{kind}", *[json.loads(json.dumps(e.to_json())) for e in examples])
    assert read_examples(path, need_label=False) == examples


def test_a_json_file_is_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([pointwise(id="a"), pointwise(id="b")]), encoding="utf-8")
    assert [example.id for example in read_examples(path)] == ["a", "b"]
    path.write_text(json.dumps([pointwise(), pointwise(orig_score="9")]), encoding="utf-8")
    assert "line 2" in str(failure(path))
    for text, cause in (("{}", "columns found: none"), ("[", "invalid JSON")):
        path.write_text(text, encoding="utf-8")
        assert cause in str(failure(path))


def test_a_hub_name_may_name_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, ...]] = []

    def load_dataset(*name: str, split: str) -> Any:
        asked.append((*name, split))
        return datasets.Dataset.from_list([pointwise()])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_examples("princeton-nlp/LLMBar:LLMBar", split="Natural")[0].id == "LLMBar-1"
    assert asked == [("princeton-nlp/LLMBar", "LLMBar", "Natural")]


# The dress that files come in.

PLAIN = [{"question": f"Name {k} fruits.", "answer": "Äpfel; and, pears", "criteria": "c"} for k in (2, 3)]


def asked(path: Path, **options: Any) -> list[tuple[str, str]]:
    return [(e.conversation[0].content, e.responses[0]) for e in read_examples(path, need_label=False, **options)]


EXPECTED = [(row["question"], row["answer"]) for row in PLAIN]


def as_csv(separator: str, header: str = "question{0}answer{0}criteria") -> str:
    cells = ('"{question}"', '"{answer}"', "{criteria}")
    return header.format(separator) + "\n" + "".join(separator.join(cells).format(**row) + "\n" for row in PLAIN)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.csv.gz"])
def test_tables_with_any_separator_in_any_unicode(tmp_path: Path, separator: str, encoding: str, name: str) -> None:
    data = as_csv(separator).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert asked(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "rows.json"])
def test_json_lines_in_any_unicode(tmp_path: Path, encoding: str, name: str) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PLAIN).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert asked(tmp_path / name) == EXPECTED
    assert read_examples(tmp_path / name, need_label=False)[1].id == "rows-2"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_json_list_under_any_name(tmp_path: Path, name: str, indent: int | None, encoding: str) -> None:
    data = json.dumps(PLAIN, indent=indent).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert asked(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["data", "rows", "test_cases"])
def test_a_list_inside_a_json_object(tmp_path: Path, name: str, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({name: [pointwise(id="a"), pointwise(id="b")]}, indent=indent), encoding="utf-8")
    assert [example.id for example in read_examples(path)] == ["a", "b"]
    path.write_text(json.dumps(pointwise(id="a"), indent=indent), encoding="utf-8")
    assert [example.id for example in read_examples(path)] == ["a"]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_text(json.dumps({"messages": turns}, indent=indent), encoding="utf-8")
    assert len(list(read_rows(path))) == 1
    path.write_text(json.dumps({"data": [pointwise(), pointwise(orig_score="9")]}, indent=indent), encoding="utf-8")
    assert "line 2" in str(failure(path))


def test_headers_with_spaces_capitals_and_an_index(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        as_csv(",", "Question{0} Answer {0}Criteria").replace("Question", ",Question", 1).replace("\n", "\n0,", 2)
    )
    assert asked(path) == EXPECTED
    (row, *_) = read_rows(path)
    assert row.raw.cells[""] == "0"  # the index of pandas has no name


@pytest.mark.parametrize(
    ("end_of_header", "end_of_rows"), [(",", ","), ("", ","), (",", ""), (",,", ",,,"), ("", ",,")]
)
def test_separators_at_the_end_make_no_column(tmp_path: Path, end_of_header: str, end_of_rows: str) -> None:
    (tmp_path / "rows.csv").write_text(f"question,answer,criteria{end_of_header}\nq,a,c{end_of_rows}\n")
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.raw.cells == {"question": "q", "answer": "a", "criteria": "c"}


def test_what_stands_in_a_column_without_a_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,criteria,\nq,a,c,a note\nq,a,c,\n")
    one, other = read_rows(tmp_path / "rows.csv")
    assert one.raw.cells == {"question": "q", "answer": "a", "criteria": "c", "column 4": "a note"}
    assert other.example
    (tmp_path / "rows.csv").write_text("question,answer,criteria\nq,a,c,a note\n")
    assert "expected 3 cells" in str(failure(tmp_path / "rows.csv"))


def test_spaces_after_each_separator_are_no_part_of_the_cells(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('question, answer, criteria\nq, "one, two", c\n')
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.raw.cells == {"question": "q", "answer": "one, two", "criteria": "c"}
    (tmp_path / "rows.csv").write_text("question,answer,criteria\nq,    return x,c\n")
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.raw.cells["answer"] == "    return x"


def test_invisible_characters_in_headers_and_between_joined_files(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "\ufeff\ufeffquestion,\u00a0answer\u200b,criteria\u2060\nq,a,c\n", encoding="utf-8"
    )
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.example, row.error
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"\ufeff{json.dumps(pointwise(id=name))}\n" for name in "ab"), encoding="utf-8-sig")
    assert [example.id for example in read_examples(path)] == ["a", "b"]


def test_a_header_of_one_column_is_no_fault_of_the_separator(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question\nq\n")
    assert "columns found: question" in str(failure(tmp_path / "rows.csv"))


@pytest.mark.parametrize("cut", [0, 1, 9, 40])
def test_a_damaged_gz_is_one_error(tmp_path: Path, cut: int) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps(pointwise()).encode())[:cut] + b"x" * (cut == 9))
    assert "rows.jsonl.gz" in str(failure(tmp_path / "rows.jsonl.gz"))


def test_text_in_another_encoding_is_its_rows_error(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv(",").encode("cp1252"))
    error = failure(tmp_path / "rows.csv")
    assert "Save the file as UTF-8" in str(error)
    assert error.line is not None


def test_a_value_that_python_can_not_hold_is_an_error_of_its_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path, far = tmp_path / "r.parquet", {"day": (pa.date32(), 2_000_000_000), "at": (pa.timestamp("ms"), 2**60)}
    columns = {name: [f"{name} {k}" for k in range(600)] for name in ("question", "answer", "criteria")}
    for line, (name, (kind, value)) in zip((300, 301), far.items(), strict=True):
        plain = pa.array([value if k == line else k for k in range(600)], pa.int64())
        columns[name] = plain.cast(pa.int32()).cast(kind) if name == "day" else plain.cast(kind)
    texts = [b"\xff" if k == 302 else b"fine" for k in range(600)]
    columns["note"] = pa.Array.from_buffers(pa.string(), 600, pa.array(texts, pa.binary()).buffers())
    pq.write_table(pa.table(columns), path)
    rows = list(read_rows(path))
    assert [row.raw.line for row in rows if row.error] == [301, 302, 303]
    for row, name in zip((row for row in rows if row.error), ("day", "at", "note"), strict=True):
        assert str(row.error).startswith(f"{path}, line {row.raw.line}: the value of '{name}' can't be read")
        assert row.raw.cells["question"] == f"question {row.raw.line - 1}"
    assert len(rows) == 600


def test_standard_input_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.BytesIO(json.dumps(pointwise()).encode())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BufferedReader(stdin)))
    assert read_examples("-")[0].label == 3
    assert not stdin.closed


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", *[pointwise(id=str(k)) for k in range(3)])
    rows = read_rows(path)
    assert next(rows).id == "0"
    with path.open("a") as file:
        file.write("x" * 2**20 + "\n" + json.dumps(pointwise(id="late")) + "\n")
    assert [row.id for row in rows] == ["1", "2", "rows-4", "late"]


def test_a_count_of_rows_is_known_where_it_costs_little(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", *[pointwise()] * 5)
    assert Source(str(path), None, "train").count() == 5
    assert Source(str(write_csv(tmp_path / "rows.csv", pointwise())), None, "train").count() is None
    assert Source("-", None, "train").count() is None
    os.mkfifo(tmp_path / "pipe.jsonl")  # counting its rows would take them
    assert Source(str(tmp_path / "pipe.jsonl"), None, "train").count() is None


def test_a_broken_first_row_is_no_reason_to_read_all_others(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction": "cut sh\n' + b'{"instruction": "q"}\n' * 100_000)
    with path.open("rb") as file:
        found = list(itertools.islice(readers._read_json(file), 3))
        assert file.tell() < 500_000
    assert [bool(problem) for _, _, problem in found] == [True, False, False]


FOREIGN = {
    "an Excel workbook": (b"PK\x03\x04" + bytes(40), "CSV"),
    "an old Excel workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40), "CSV"),
    "a web page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><table><tr><td>question</td></tr></table>", "CSV"),
    "a web page of a table alone": (b"<TABLE border=1><tr><td>question</td></tr></TABLE>", "CSV"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "zstandard": (b"\x28\xb5\x2f\xfd" + bytes(40), "unpack"),
    "bzip2": (b"BZh91AY&SY" + bytes(40), "unpack"),
    "xz": (b"\xfd7zXZ\x00" + bytes(40), "unpack"),
    "Feather": (b"ARROW1\x00\x00" + bytes(40), "Parquet"),
    "a pickle": (b"\x80\x04\x95" + bytes(40), "CSV"),
    "a PDF": (b"%PDF-1.7\n", "CSV"),
    "SQLite": (b"SQLite format 3\x00" + bytes(40), "CSV"),
    "a model": (b"GGUF\x03\x00\x00\x00", "--model"),
}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet", "rows.xlsx", "rows.csv.gz"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_says_what_to_do_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    content, advice = FOREIGN[kind]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert all(part in str(failure(path)) for part in (name, advice))


def test_the_content_decides_where_the_name_is_wrong(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "rows.csv", pointwise()).read_bytes()
    lines = jsonl(tmp_path / "rows.jsonl", pointwise()).read_bytes()
    contents = {"lines.csv": lines, "list.csv": b"[" + lines + b"]", "packed.csv": gzip.compress(table)}
    contents |= {"plain.csv.gz": table, "packed.jsonl": gzip.compress(lines), "plain.jsonl.gz": lines}
    write_parquet(tmp_path / "table.csv", pointwise())
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "table.csv"):
        (example,) = read_examples(tmp_path / name)
        assert example.responses == (pointwise()["orig_response"],), name


@pytest.mark.parametrize(
    "text",
    [
        "Name two fruits.,Apple,5\nName a fruit.,Brick,1\n",
        "Name two fruits.,5,5\n",
        "What is it to you?,An apple is it\n",
        "Name it.,Apple,Brick,A\n",
        "My export,,\nquestion,answer,score\n",
        "My export\n\nquestion,answer,score\n",
    ],
)
def test_a_table_without_a_header_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.csv").write_text(text * 2)
    assert NO_HEADER in str(failure(tmp_path / "rows.csv"))


def test_names_of_columns_that_are_not_known_are_no_values(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("frage,antwort,note\nWas ist 1 und 1?,2,5\n")
    assert NO_HEADER not in str(failure(tmp_path / "rows.csv"))


QUESTIONS, LABELS = ["Name a fruit.", "Name a nut."], [4, 2]
JSON_FORMS = {
    "columns as lists": {"question": QUESTIONS, "answer": ["Apple.", "Bolt."], "score": LABELS},
    "columns as lists of texts": {"question": QUESTIONS, "answer": ["Apple.", "Bolt."]},
    "rows by their numbers": {
        str(k): {"question": QUESTIONS[k], "answer": "Apple.", "score": LABELS[k]} for k in (0, 1)
    },
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_of_columns_or_of_numbered_rows(tmp_path: Path, form: str, indent: int | None) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(JSON_FORMS[form], indent=indent))
    found = [row.cells for row in Source(str(tmp_path / "rows.json"), None, "train").rows()]
    assert [row["question"] for row in found] == QUESTIONS
    assert [row.get("score") for row in found] in (LABELS, [None, None])


def test_lists_in_one_row_are_no_columns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for row in ({"chosen": turns, "rejected": turns}, {"messages": turns}, {"question": "q", "contexts": ["c", "d"]}):
        (found,) = Source(str(jsonl(tmp_path / "rows.jsonl", row)), None, "train").rows()
        assert found.cells == row


def test_a_comma_at_the_end_of_a_json_line_and_empty_rows_of_a_table_are_none(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    lines.write_text("".join(f"{json.dumps(pointwise(id=str(k)))},\n" for k in range(3)))
    assert [example.id for example in read_examples(lines)] == ["0", "1", "2"]
    table.write_text(f"{write_csv(table, pointwise(id='0')).read_text()}{',' * 8}\n , \n\n")
    assert [example.id for example in read_examples(table)] == ["0"]


def test_a_header_may_begin_like_another_kind_of_file(tmp_path: Path) -> None:
    for name in ("gguf", "fea1", "arrow1", "bzh9", "pk"):
        (tmp_path / "rows.csv").write_text(f"{name},question,answer\nx,q,a\n")
        assert [row.cells["question"] for row in Source(str(tmp_path / "rows.csv"), None, "train").rows()] == ["q"]
