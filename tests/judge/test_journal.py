"""An output is never the input, never two processes', and always in the input's order with the input's columns."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe.data.examples import read_examples
from recipe.data.rubrics import read_rubric
from recipe.errors import SreError
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.options import JudgeOptions
from tests.scripted import ScriptedGenerator

ROW = {"question": "Name a fruit.", "answer": "Apple.", "score": "4.0", "note": ["kept", {"as": "it is"}]}


def judge(text: str = "Because. [RESULT] 4") -> Judge:
    return Judge(ScriptedGenerator(lambda request: [text]))


class Backwards(ScriptedGenerator):
    def generate(self, requests: Any, sampling: Any) -> Any:
        return super().generate(requests[::-1], sampling)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("link", ["same", "symlink", "hard link", "journal", "sidecar"])
def test_an_output_that_is_the_input_is_refused_and_the_input_kept(tmp_path: Path, link: str, flags: Any) -> None:
    names = {"journal": ("y.csv.jsonl", "y.csv"), "sidecar": ("y.jsonl.meta.json", "y.jsonl")}
    source, out = (tmp_path / name for name in names.get(link, ("rows.jsonl", "out.jsonl")))
    write(source, ROW)
    if link == "sidecar":
        source.write_text(json.dumps([ROW]))
    before = source.read_bytes()
    if link == "same":
        out = source
    elif link == "symlink":
        out.symlink_to(source)
    elif link == "hard link":
        os.link(source, out)
    with pytest.raises(SreError, match="is the input"):
        judge_file(judge(), source, out, rubric=read_rubric("helpfulness"), **flags)
    assert source.read_bytes() == before


def test_an_output_is_not_the_journal_of_a_table(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ROW)
    for name in ("y.csv.jsonl", "y.Parquet.jsonl"):
        with pytest.raises(SreError, match="journal of y"):
            judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("tone"), overwrite=True)


def test_input_columns_are_kept_and_rows_come_in_input_order(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "number": k, "label": "mine"} for k in range(40)))
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        summary = judge_file(Judge(Backwards()), rows, tmp_path / name, rubric=read_rubric("helpfulness"))
        assert summary.errors == 0
    found = lines(tmp_path / "out.jsonl")
    assert [row["number"] for row in found] == list(range(40))
    assert {key: found[3][key] for key in ("question", "answer", "score", "note", "input_label", "truth")} == {
        **{key: ROW[key] for key in ("question", "answer", "score", "note")},
        "input_label": "mine",
        "truth": 4,
    }
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["number"] for row in table] == [str(k) for k in range(40)]
    assert json.loads(table[0]["note"]) == ROW["note"]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["number"].to_pylist() == list(range(40))


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_columns_of_any_name_and_value_are_written(tmp_path: Path, name: str) -> None:
    odd: list[dict[str, Any]] = [
        {"\ud800": "\udfff"},
        {"": 1, " ": 2},
        {"a\nb\0": "\0\r\n"},
        {"x" * 5000: 10**400},
        {"v": {}},
    ]
    rows = write(tmp_path / "rows.jsonl", *({**ROW, **cells, "question": f"q{k}"} for k, cells in enumerate(odd)))
    summary = judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("tone"))
    assert (summary.rows, summary.errors) == (len(odd), 0)
    again = judge_file(judge(), tmp_path / name, tmp_path / f"again-{name}", rubric=read_rubric("tone"))
    assert (again.rows, again.errors) == (len(odd), 0)


@pytest.mark.parametrize("options", [{}, {"swap": True}, {"samples": 3}], ids=str)
def test_columns_named_like_ours_keep_their_values_in_a_table(tmp_path: Path, options: dict[str, Any]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    odd = {
        "preference": "A",
        "mean": "kind",
        "spread": [1],
        "consistent": "yes",
        "votes": "x",
        "swapped_label": {"a": 1},
    }
    pair = {"question": "q", "response_a": "a", "response_b": "b", "criteria": "c", "number": 2**70, **odd}
    rows = write(tmp_path / "rows.jsonl", pair, pair)
    judge_file(judge("Because. [RESULT] 1"), rows, tmp_path / "out.parquet", options=JudgeOptions(**options))
    (found, _) = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for name, value in odd.items():
        assert found.get(f"input_{name}", found[name]) in (value, json.dumps(value, separators=(",", ":")))
    assert found["number"] == str(2**70)


def test_agreement_with_given_labels_leaves_out_ties_and_odd_ones(tmp_path: Path) -> None:
    scores = ["4.0", 4, "3", "excellent", None, "nan"]
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "score": score} for score in scores))
    summary = judge_file(judge(), rows, tmp_path / "out.jsonl", rubric=read_rubric("helpfulness"))
    assert (summary.errors, summary.odd_truths) == (0, 1)
    assert (summary.agreed, summary.truths) == ({"pointwise": 2}, {"pointwise": 3})
    pair = {"question": "q", "response_a": "a", "response_b": "b"}
    rows = write(tmp_path / "pairs.jsonl", *({**pair, "winner": winner} for winner in ("A", "b", "tie", 1.5)))
    summary = judge_file(judge("Because. [RESULT] 1"), rows, tmp_path / "pairs-out.jsonl")
    assert (summary.tied_truths, summary.odd_truths) == (2, 0)
    assert (summary.agreed, summary.truths) == ({"pairwise": 1}, {"pairwise": 2})


SCORES = [[1, 0, 1, 0], [4, 9, 10, 2], [4, 100, 4, "x"], [0.2, 0.4, 1.0, "1.0"], ["4", "4,5", 3, 3], [1, -1, 2, 5]]
WINNERS = [
    [1, -1, 1, 1],
    ["1", "-1", "2", 0],
    [0, 1, 1, 0],
    [True, False, True, True],
    [1, 2, 3, 1],
    [1.0, 0.7, 2.0, 1],
    [1, 2, 0, 1],
    ["0", "1", "2", "1"],
]


@pytest.mark.parametrize("labels", [*SCORES, *WINNERS], ids=str)
def test_no_agreement_is_claimed_where_a_given_number_is_no_label(tmp_path: Path, labels: list[Any]) -> None:
    pair = {"question": "q", "response_a": "a", "response_b": "b"}
    made = [{**ROW, "score": label} if labels in SCORES else {**pair, "winner": label} for label in labels]
    rows, out, told = write(tmp_path / "rows.jsonl", *made), tmp_path / "out.jsonl", list[str]()
    for resume in (False, True):
        how: dict[str, Any] = {"resume": resume, "rubric": read_rubric("helpfulness"), "tell": told.append}
        summary = judge_file(judge("Because. [RESULT] 1"), rows, out, **how)
        (said,) = [line for line in str(summary).splitlines() if line.startswith("agreement")]
        assert (summary.rows, summary.errors, summary.truths) == (4, 0, {})
        assert "%" not in said
        first = next(line for line in lines(out) if line.get("truth_note"))
        assert f"{first['id']}: {first['truth_note']}" in said
        assert any(first["truth_note"] in line for line in told)
    assert all("truth" not in row for row in lines(out))


@pytest.mark.parametrize("labels", [["A", "B", "tie", "?"], [1, 2, 1.5, None]], ids=str)
def test_a_slip_among_winners_ends_no_agreement(tmp_path: Path, labels: list[Any]) -> None:
    pair = {"question": "q", "response_a": "a", "response_b": "b"}
    rows = write(tmp_path / "rows.jsonl", *({**pair, "winner": label} for label in labels))
    summary = judge_file(judge("Because. [RESULT] 1"), rows, tmp_path / "out.jsonl")
    assert summary.truths["pairwise"] == sum(label in (1, 2, "A", "B") for label in labels)
    assert "%" in str(summary)


def test_what_a_label_means_is_seen_beyond_the_limit(tmp_path: Path) -> None:
    made = [{**ROW, "score": score} for score in (1, 2, 3, 6, 7, "x")]
    rows, told = write(tmp_path / "rows.jsonl", *made), list[str]()
    how: dict[str, Any] = {"limit": 3, "rubric": read_rubric("helpfulness"), "tell": told.append}
    summary = judge_file(judge(), rows, tmp_path / "out.jsonl", **how)
    assert (summary.rows, summary.truths) == (3, {})
    assert "%" not in str(summary)
    assert any("rows-4" in line for line in told)
    assert len(lines(tmp_path / "out.jsonl")) == 3
    with pytest.raises(SreError, match="limit"):
        judge_file(judge(), rows, tmp_path / "other.jsonl", limit=-1)


def test_the_summary_names_the_first_unclear_label_of_the_file(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "score": score} for score in (6, 7, 8)))
    backwards = Judge(Backwards(lambda request: ["Because. [RESULT] 4"]))
    summary = judge_file(backwards, rows, tmp_path / "out.jsonl", rubric=read_rubric("tone"))
    (said,) = [line for line in str(summary).splitlines() if line.startswith("agreement")]
    assert "rows-1" in said


def test_a_number_far_down_that_is_no_label_ends_the_agreement_and_not_the_run(tmp_path: Path) -> None:
    pair = {"question": "q", "response_a": "a", "response_b": "b"}
    rows = write(tmp_path / "rows.jsonl", *({**pair, "winner": winner} for winner in [1] * 1500 + [0, 1]))
    summary = judge_file(judge("Because. [RESULT] 1"), rows, tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (1502, 0)
    (said,) = [line for line in str(summary).splitlines() if line.startswith("agreement")]
    assert all(part in said for part in ("rows-1501", "--map better_index="))
    assert "%" not in said


def test_empty_responses_are_counted(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ROW, {**ROW, "answer": " "}, {**ROW, "answer": ""})
    summary = judge_file(judge(), rows, tmp_path / "out.jsonl", rubric=read_rubric("helpfulness"))
    assert (summary.rows, summary.errors, summary.empty) == (3, 0, 2)
    assert summary.examples["empty responses"] == "rows-2"


@pytest.mark.parametrize("name", ["judged.jsonl", "judged.csv", "judged.parquet"])
def test_our_own_output_is_read_again_to_train_with(tmp_path: Path, name: str) -> None:
    rows = write(tmp_path / "rows.jsonl", ROW, {**ROW, "score": None}, {**ROW, "score": 2}, {**ROW, "answer": [1]})
    judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("helpfulness"))
    found = read_examples(tmp_path / name)
    assert [(example.label, example.rationale) for example in found] == [(4, "Because."), (2, "")]
    assert all(example.rubric == read_rubric("helpfulness").rubric for example in found)
    assert [example.responses for example in found] == [("Apple.",)] * 2


@pytest.mark.parametrize("name", ["judged.jsonl", "judged.csv", "judged.parquet"])
def test_the_truth_of_a_mapped_column_is_read_again(tmp_path: Path, name: str) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "score": None, "stars": stars} for stars in (2, 5)))
    judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("helpfulness"), columns={"score": "stars"})
    assert [example.label for example in read_examples(tmp_path / name)] == [2, 5]


@pytest.mark.parametrize("name", ["judged.jsonl", "judged.csv", "judged.parquet"])
def test_an_odd_label_is_as_odd_in_our_own_output(tmp_path: Path, name: str) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "score": score} for score in (0.2, 1.0)))
    judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("helpfulness"))
    for file in (rows, tmp_path / name):
        with pytest.raises(SreError, match="field 'score'"):
            read_examples(file, rubrics={"pointwise": read_rubric("helpfulness").rubric})


@pytest.mark.parametrize("name", ["judged.jsonl", "judged.csv", "judged.parquet"])
def test_the_judges_labels_stand_only_where_no_row_had_one(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write(tmp_path / "rows.jsonl", {**ROW, "score": None}, {**ROW, "score": None})
    judge_file(judge(), rows, tmp_path / name, rubric=read_rubric("helpfulness"))
    found = read_examples(tmp_path / name)
    assert [(example.label, example.rationale) for example in found] == [(4, "Because.")] * 2
    assert "judge" in caplog.text


@pytest.mark.parametrize("out", ["judged.jsonl", "judged.csv"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "s", "id": 7},
        {"prompt": "p", "chosen": ["a", "c"], "rejected": ["b"], "subset": "s", "id": 8, "num_correct": 2},
    ],
    ids=["Safe-RLHF", "RewardBench", "RewardBench 2"],
)
def test_pairs_of_a_published_layout_are_read_again_too(tmp_path: Path, row: dict[str, Any], out: str) -> None:
    rows = write(tmp_path / "rows.jsonl", row)
    before = read_examples(rows)
    judge_file(judge("Because. [RESULT] 1"), rows, tmp_path / out, options=JudgeOptions(swap=True))
    after = read_examples(tmp_path / out)
    assert [(e.id, e.label, e.responses, e.rubric) for e in after] == [
        (e.id, e.label, e.responses, e.rubric) for e in before
    ]


def test_a_sidecar_of_another_shape_is_one_error(tmp_path: Path) -> None:
    rows, out = write(tmp_path / "rows.jsonl", ROW), tmp_path / "out.jsonl"
    judge_file(judge(), rows, out, rubric=read_rubric("tone"))
    for text in ("", "[]", "{", '{"model": 3}', "null"):
        (tmp_path / "out.jsonl.meta.json").write_text(text)
        with pytest.raises(SreError, match="--overwrite"):
            judge_file(judge(), rows, out, resume=True, rubric=read_rubric("tone"))


SCRIPT = """
import sys, time
from tests.scripted import ScriptedGenerator, any_judgement
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.data.rubrics import read_rubric
from recipe.errors import SreError

def slowly(request):
    time.sleep(0.02)
    return any_judgement(request)

try:
    judge_file(Judge(ScriptedGenerator(slowly)), sys.argv[1], sys.argv[2], rubric=read_rubric("tone"))
except SreError as error:
    sys.exit(f"refused: {error}")
"""


def test_of_two_processes_on_one_new_output_the_second_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", *({**ROW, "id": str(k)} for k in range(60)))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert "refused" in "".join(said)
    assert sorted(int(row["id"]) for row in lines(tmp_path / "out.jsonl")) == list(range(60))


MILLION = """
import sys, time
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.system import peak_rss_mb
from tests.scripted import ScriptedGenerator

begun = []

def progress(done, total):
    assert total == 1_000_000
    begun.append(time.process_time())
    if done == int(sys.argv[3]):
        raise KeyboardInterrupt

class Forgetful(ScriptedGenerator):
    def generate(self, requests, sampling):
        assert len(requests) in (1_000_000 % 1024, 1024)  # the window in which prompts share what they begin with
        self.seen.clear()
        return super().generate(requests, sampling)

try:
    judge_file(Judge(Forgetful()), sys.argv[1], sys.argv[2], progress=progress, resume=True)
except KeyboardInterrupt:
    pass
print(begun[0] if begun else 0, peak_rss_mb())
"""


@pytest.mark.parametrize("rows", [3000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_rows_begin_at_once_and_take_little_memory(tmp_path: Path, rows: int) -> None:
    line = b'{"question": "Name a fruit.", "answer": "Apple.", "criteria": "Is it a fruit?"}\n'
    (tmp_path / "rows.jsonl").write_bytes(line * 1_000_000)
    command = [sys.executable, "-c", MILLION, str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]
    for end in (rows, rows + 1024):  # and once more, to resume
        done = subprocess.run([*command, str(end)], capture_output=True, text=True, check=True)
        first_s, peak_mb = map(float, done.stdout.split())
        print(f"to row {end:,}: first row after {first_s:.1f} s of processor time, {peak_mb:.0f} MiB at most")
        assert first_s < 5
        assert peak_mb < 300
