"""Verdicts in files give the tables again, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.data.examples import read_examples
from recipe.errors import SreError
from recipe.evaluation.verdict_files import audit_files, read_verdicts
from recipe.pipeline.results import figures_of
from recipe.pipeline.stage_order import open_run

REAL = Path(__file__).parents[2] / "data" / "results" / "real-judgments"


def judged(id: str, label: int | None, **changes: Any) -> dict[str, Any]:
    shares = {} if label is None else {str(label): 1.0}
    row = {"id": id, "label": label, "expected_score": label, "label_probabilities": shares, "rationale": "because"}
    return row | {"finish": "stop"} | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_verdicts_of_a_run_give_the_figures_of_its_evaluation(finished_run: Path, tiny_data: Path) -> None:
    rows = [str(tiny_data / "test" / f"{task}.jsonl") for task in ("pointwise", "pairwise")]
    train = [str(tiny_data / "train" / f"{task}.jsonl") for task in ("pointwise", "pairwise")]
    parts = audit_files([finished_run / "evaluation"], rows, train, resamples=100)["parts"]
    assert set(parts["pairwise"]["models"]) == {"seed", "sft", "j1", "j2"}
    figures = figures_of(open_run(finished_run))
    for judge in ("seed", "sft", "j2"):
        written = figures[judge]
        for task in ("pointwise", "pairwise"):
            assert parts[task]["models"][judge][task] == written[task]
    assert parts["pairwise"]["baselines"].keys() >= {"longer response", "criterion mean (train)"}


def test_files_of_several_seeds_are_pooled_and_others_keep_their_folders_name(tmp_path: Path) -> None:
    for folder in ("seed-0/evaluation/j1", "seed-1/evaluation/j1", "margin-1/seed-0/evaluation/j1"):
        write(tmp_path / folder / "judgements.jsonl", [judged("a", 3)])
    found = read_verdicts([tmp_path, write(tmp_path / "mine.jsonl", [judged("a", 1)])])
    assert {name: len(rows) for name, rows in found.items()} == {"j1": 2, "margin-1/j1": 1, "mine": 1}


def test_a_forced_label_is_malformed_and_one_asked_for_alone_is_not(tmp_path: Path) -> None:
    rows = [
        judged("a", 3, finish="forced"),
        judged("b", 3, rationale=""),
        judged("c", 3),
    ]
    (found,) = read_verdicts([write(tmp_path / "x.jsonl", rows)]).values()
    assert [verdict.label for _, verdict in found] == [None, None, 3]
    for finish in ("stop", "forced"):  # as `sre judge --label-only` writes them, through a server and by llama.cpp
        row = judged("a", 3, rationale="", finish=finish)
        (alone,) = read_verdicts([write(tmp_path / "y.jsonl", [row])]).values()
        assert alone[0][1].label == 3


def test_what_is_no_verdict_is_named_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [judged("a", 3), {"id": "b"}])
    with pytest.raises(SreError, match="line 2"):
        read_verdicts([path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SreError, match=r"judgements\.jsonl"):
        read_verdicts([tmp_path / "empty"])


def test_verdicts_of_other_rows_are_refused(tmp_path: Path, tiny_data: Path) -> None:
    path = write(tmp_path / "x.jsonl", [judged("elsewhere", 3)])
    with pytest.raises(SreError, match="elsewhere"):
        audit_files([path], [str(tiny_data / "test" / "pointwise.jsonl")], resamples=100)


def test_the_command_prints_the_tables_and_writes_the_figures(tmp_path: Path, tiny_data: Path) -> None:
    source = tiny_data / "test" / "pairwise.jsonl"
    verdicts = write(tmp_path / "x.jsonl", [judged(row.id, row.label) for row in read_examples(source)])
    out = tmp_path / "audit.json"
    done = CliRunner().invoke(main, ["audit", str(verdicts), "--rows", str(source), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "longer" in done.output
    assert json.loads(out.read_text())["parts"]["pairwise"]["models"]["x"]["pairwise"]["accuracy"]["value"] == 1


def test_rows_without_criteria_of_a_column_of_ones_own_are_audited(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,text,score\n" + "".join(f"Name fruit {k}.,{'fig ' * k},{k}\n" for k in range(1, 6)))
    verdicts = write(tmp_path / "x.jsonl", [judged(f"rows-{k + 1}", k) for k in range(1, 6)])
    command = ["audit", str(verdicts), "--rows", str(rows), "--map", "response=text", "--rubric", "helpfulness"]
    done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "audit.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "audit.json").read_text())["parts"]["rows"]["models"]["x"]["pointwise"]["n"] == 5


def test_a_judged_table_is_read_from_its_journal_and_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,label\na,3\n")
    write(tmp_path / "x.csv.jsonl", [judged("a", 3)])
    assert [id for id, _ in read_verdicts([tmp_path / "x.csv"])["x"]] == ["a"]
    (tmp_path / "x.csv.jsonl").unlink()
    with pytest.raises(SreError, match=r"x\.csv\.jsonl") as caught:
        read_verdicts([tmp_path / "x.csv"])
    assert "remove" not in str(caught.value)


def test_rows_that_are_no_verdicts_are_not_to_be_removed(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="line 1") as caught:
        read_verdicts([write(tmp_path / "mine.jsonl", [{"question": "q", "answer": "a"}])])
    assert "remove" not in str(caught.value)


def test_the_committed_verdicts_can_be_read() -> None:
    found = read_verdicts([REAL])
    assert {"sft", "j1", "j2"} <= found.keys()
    assert len(found["j1"]) == 3 * 400
