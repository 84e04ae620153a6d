"""A whole file judged: what is written, when it is on disk, and what a resume keeps and refuses."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.data.rubrics import read_rubric
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.judge import Judge
from recipe.judge.journal import BLOCK
from recipe.judge.judge_file import judge_file
from recipe.judge.options import JudgeOptions
from recipe.prompts import Prompts
from tests.scripted import ScriptedGenerator

Answer = Callable[[str], dict[str, Any]]


def right(name: str) -> dict[str, Any]:
    return {"text": f"Because of {name}. [RESULT] 4", "label_logprobs": {4: math.log(0.6), 5: math.log(0.2)}}


class Fake:
    """Answers by request id and remembers which were asked."""

    def __init__(self, answer: Answer = right, name: str = "fake") -> None:
        self.answer, self.name, self.asked = answer, name, list[str]()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in reversed(requests):
            self.asked.append(request.id)
            fields = {
                "text": "",
                "token_ids": (1,),
                "finish": "stop",
                "prompt_tokens": 1,
                **self.answer(request.id),
            }
            yield Completion(request.id, 0, **fields)

    def close(self) -> None: ...

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *exc: object) -> None: ...


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "orig_instruction": "Name two fruits.",
        "orig_response": f"Response {name}.",
        "orig_criteria": "Are both items fruits?",
        **changes,
    }


def source(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_gets_one_line_with_label_rationale_and_probabilities(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    summary = judge_file(Judge(Fake()), source(tmp_path, row("a", orig_score="5"), row("b")), out)
    written = {line["id"]: line for line in lines(out)}
    digest = written["a"].pop("input_hash")
    assert written["a"] == {
        **row("a", orig_score="5"),
        "task": "pointwise",
        "label": 4,
        "expected_score": pytest.approx(4.25),
        "confidence": pytest.approx(1 - (-0.75 * math.log(0.75) - 0.25 * math.log(0.25)) / math.log(2)),
        "rationale": "Because of a.",
        "finish": "stop",
        "label_probabilities": {"4": pytest.approx(0.75), "5": pytest.approx(0.25)},
        "truth": 5,
    }
    assert "truth" not in written["b"]
    assert digest != written["b"]["input_hash"]
    assert (summary.rows, summary.malformed, summary.errors, summary.labels) == (2, 0, 0, {4: 2})
    assert summary.rows_per_second > 0


def test_malformed_and_failed_rows_are_written_and_counted_apart(tmp_path: Path) -> None:
    def answer(name: str) -> dict[str, Any]:
        failed = {"finish": "error", "error": "too long"}
        return {"a": {"text": "No idea."}, "b": failed}.get(name) or right(name)

    out = tmp_path / "out.jsonl"
    rows = source(tmp_path, row("a"), row("b"), row("c"))
    summary = judge_file(Judge(Fake(answer)), rows, out, options=JudgeOptions(constrain=False))
    assert (summary.rows, summary.malformed, summary.errors, summary.labels) == (3, 1, 1, {4: 1})
    written = {line["id"]: line for line in lines(out)}
    assert (written["a"]["label"], written["a"]["malformed_text"]) == (None, "No idea.")
    assert (written["b"]["label"], written["b"]["error"], written["b"]["expected_score"]) == (
        None,
        "too long",
        None,
    )
    assert "error" not in written["a"]


def test_the_sidecar_names_model_prompts_and_settings(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    judge_file(Judge(Fake()), source(tmp_path, row("a")), out, options=JudgeOptions(max_tokens=99, label_only=True))
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text()) == {
        "model": "fake",
        "prompts": Prompts().digest,
        "max_tokens": 99,
        "temperature": 0.0,
        "seed": 0,
        "constrain": True,
        "label_only": True,
        "samples": 1,
        "swap": False,
        "tie": "probability",
    }


def test_an_existing_output_is_left_alone_without_a_flag(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(SreError, match=r"--resume.*--overwrite"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), out)
    assert out.read_text() == "mine\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_overwrite_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    judge_file(Judge(Fake()), source(tmp_path, row("a")), out, overwrite=True)
    assert [line["id"] for line in lines(out)] == ["a"]


def test_limit_judges_the_first_rows_and_a_resume_without_it_the_rest(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, *[row(name) for name in "abcde"])
    judge_file(Judge(Fake()), rows, out, limit=2)
    engine = Fake()
    summary = judge_file(Judge(engine), rows, out, resume=True)
    assert sorted(engine.asked) == ["c", "d", "e"]
    assert sorted(line["id"] for line in lines(out)) == list("abcde")
    assert (summary.rows, summary.resumed, summary.labels) == (5, 2, {4: 5})


def test_an_interrupted_run_keeps_what_was_finished_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    rows = source(tmp_path, *[row(f"r{k}") for k in range(BLOCK + 5)])

    def interrupted(name: str) -> dict[str, Any]:
        if name == "r2":
            raise KeyboardInterrupt
        return right(name)

    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    with pytest.raises(KeyboardInterrupt):
        judge_file(Judge(Fake(interrupted)), rows, out)
    assert len(lines(out)) == BLOCK + 2
    judge_file(Judge(Fake()), rows, out, resume=True)
    judge_file(Judge(Fake()), rows, whole)
    assert sorted(out.read_text().splitlines()) == sorted(whole.read_text().splitlines())


def test_a_block_is_on_disk_before_the_next_is_begun(tmp_path: Path) -> None:
    out, seen = tmp_path / "out.jsonl", list[int]()

    def answer(name: str) -> dict[str, Any]:
        seen.append(len(lines(out)) if out.exists() else 0)
        return right(name)

    judge_file(Judge(Fake(answer)), source(tmp_path, *[row(f"r{k}") for k in range(2 * BLOCK)]), out)
    assert seen == [0] * BLOCK + [BLOCK] * BLOCK


def test_a_half_written_last_line_is_cut_off_and_judged_again(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, *[row(name) for name in "abc"])
    judge_file(Judge(Fake()), rows, out)
    before = out.read_text()
    out.write_text(before[:-20])
    engine = Fake()
    judge_file(Judge(engine), rows, out, resume=True)
    assert engine.asked == ["c"]
    assert out.read_text() == before


def test_a_resume_of_a_finished_output_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, row("a"))
    judge_file(Judge(Fake()), rows, out)
    before, engine = out.read_bytes(), Fake()
    summary = judge_file(Judge(engine), rows, out, resume=True)
    assert engine.asked == []
    assert out.read_bytes() == before
    assert (summary.rows, summary.resumed, summary.rows_per_second) == (1, 1, 0)


def test_a_resume_without_an_output_begins_one(tmp_path: Path) -> None:
    judge_file(Judge(Fake()), source(tmp_path, row("a")), tmp_path / "out.jsonl", resume=True)
    assert len(lines(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize(
    ("judge", "options", "named"),
    [
        (Judge(Fake(name="other")), {}, "model"),
        (Judge(Fake(), Prompts({"pointwise": "Own: {{ criteria }}"})), {}, "prompts"),
        (Judge(Fake()), {"temperature": 1.0}, "temperature"),
        (Judge(Fake()), {"constrain": False}, "constrain"),
        (Judge(Fake()), {"samples": 3, "temperature": 0.5}, "temperature"),
    ],
)
def test_a_resume_with_anything_else_is_refused_by_name(
    tmp_path: Path, judge: Judge, options: dict[str, Any], named: str
) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, row("a"), row("b"))
    judge_file(Judge(Fake()), rows, out, limit=1)
    before = out.read_bytes()
    with pytest.raises(SreError, match=rf"made with other {named} "):
        judge_file(judge, rows, out, resume=True, options=JudgeOptions(**options))
    assert out.read_bytes() == before


def test_a_resume_over_a_changed_row_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    judge_file(Judge(Fake()), source(tmp_path, row("a"), row("b")), out)
    rows = source(tmp_path, row("a"), row("b", orig_response="Another."))
    with pytest.raises(SreError, match="the row 'b' has changed"):
        judge_file(Judge(Fake()), rows, out, resume=True)
    rows = source(tmp_path, row("a"), row("b", orig_score="2"), row("c"))
    assert judge_file(Judge(Fake()), rows, out, resume=True).rows == 3


def test_a_resume_onto_a_file_that_is_no_output_is_refused(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, row("a"))
    judge_file(Judge(Fake()), rows, out)
    line = out.read_text()
    for content, message in (
        ('{"id": 1}\n', "line 1"),
        (f"{line}nonsense\n{line}", "line 2"),
        (line * 2, "twice"),
    ):
        out.write_text(content)
        with pytest.raises(SreError, match=message):
            judge_file(Judge(Fake()), rows, out, resume=True)
        assert out.read_text() == content
    (tmp_path / "out.jsonl.meta.json").unlink()
    with pytest.raises(SreError, match="is missing"):
        judge_file(Judge(Fake()), rows, out, resume=True)


def test_standard_output_gets_the_lines_and_no_file_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source(tmp_path, row("a"), row("b"))
    monkeypatch.chdir(tmp_path)
    assert judge_file(Judge(Fake()), rows, "-").rows == 2
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(SreError, match="standard output"):
        judge_file(Judge(Fake()), rows, "-", resume=True)


def test_both_flags_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="overwrite"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), tmp_path / "o.jsonl", resume=True, overwrite=True)


def test_progress_counts_up_to_all_rows_the_kept_ones_included(tmp_path: Path) -> None:
    out, rows, seen = (
        tmp_path / "out.jsonl",
        source(tmp_path, *[row(name) for name in "abc"]),
        list[tuple[int, int]](),
    )
    judge_file(Judge(Fake()), rows, out, limit=1)
    judge_file(Judge(Fake()), rows, out, resume=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_both_tasks_in_one_file(tmp_path: Path) -> None:
    pair = {**row("p", orig_response_A="x", orig_response_B="y")}
    del pair["orig_response"]
    rows, out = source(tmp_path, row("a"), pair), tmp_path / "out.jsonl"
    summary = judge_file(Judge(Fake(lambda name: {"text": "Why. [RESULT] 2"})), rows, out)
    assert summary.labels == {2: 2}
    assert {line["task"] for line in lines(out)} == {"pointwise", "pairwise"}


def test_a_disk_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="can't write"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), tmp_path / "rows.jsonl" / "out.jsonl")


# Rows that can't be judged.


def test_rows_that_can_not_be_read_become_error_rows_and_the_others_are_judged(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    bad = (b"{broken", b'{"id": "n", "orig_response": "a\0b"}', b'"\xff"', json.dumps(row("s", orig_response="\ud800")))
    texts = [bad[0], bad[1], bad[2], bad[3].encode(), json.dumps(row("nul", orig_response="a\0b")).encode()]
    texts += [json.dumps(row("empty", orig_response="")).encode(), json.dumps(row("a")).encode()]
    rows.write_bytes(b"\n".join(texts) + b"\n")
    out = tmp_path / "out.jsonl"
    summary = judge_file(Judge(Fake()), rows, out)
    assert (summary.rows, summary.errors, summary.labels) == (7, 5, {4: 2})
    written = {line["id"]: line for line in lines(out)}
    assert set(written) == {"rows-1", "rows-2", "rows-3", "s", "nul", "empty", "a"}
    for name, reason in (
        ("rows-1", "line 1: expected one JSON object"),
        ("rows-3", "expected a JSON object"),
        ("s", "expected valid Unicode"),
        ("nul", "without NUL"),
    ):
        assert (written[name]["label"], written[name]["finish"]) == (None, "error")
        assert reason in written[name]["error"]
    assert (written["empty"]["label"], written["a"]["label"]) == (4, 4)


@pytest.mark.parametrize("options", [{}, {"samples": 3}, {"label_only": True}], ids=str)
def test_a_row_at_which_the_judges_template_fails_is_that_rows_error(tmp_path: Path, options: dict[str, Any]) -> None:
    template = "{{ 1 // (response.content | length - 3) }} {{ criteria }}"
    prompts = Prompts({"pointwise": template, "pointwise_label_only": template}, Path("judge.gguf"))
    rows, out = source(tmp_path, row("a"), row("b", orig_response="abc"), row("c")), tmp_path / "out.jsonl"
    generator = ScriptedGenerator(lambda request: ["Because. [RESULT] 4"])
    summary = judge_file(Judge(generator, prompts), rows, out, options=JudgeOptions(**options))
    found = lines(out)
    assert [line["label"] for line in found] == [4, None, 4]
    assert (summary.rows, summary.errors) == (3, 1)
    assert "judge.gguf, field 'sre.prompts.pointwise" in found[1]["error"]
    assert "zero" in found[1]["error"]


def test_a_row_of_a_megabyte_is_an_error_row_where_it_does_not_fit(tmp_path: Path) -> None:
    rows = source(tmp_path, row("a"), row("big", orig_response="word " * 200_000), row("c"))
    out = tmp_path / "out.jsonl"
    summary = judge_file(Judge(ScriptedGenerator(context=2000)), rows, out)
    assert (summary.errors, sum(summary.labels.values())) == (1, 2)
    (failed,) = [line for line in lines(out) if line["finish"] == "error"]
    assert failed["id"] == "big"
    assert "more than the context of 2000" in failed["error"]


def test_a_file_of_which_no_row_can_be_read_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    rows = source(tmp_path, {"id": "a", "prompt": "q"}, {"id": "b", "prompt": "q"})
    with pytest.raises(SreError, match="line 1") as caught:
        judge_file(Judge(Fake()), rows, tmp_path / "out.jsonl")
    assert caught.value.field == "response"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_resume_tries_rows_again_that_ended_in_an_error(tmp_path: Path) -> None:
    def answer(name: str) -> dict[str, Any]:
        return {"finish": "error", "error": "no memory"} if name == "b" else right(name)

    out = tmp_path / "out.jsonl"
    judge_file(Judge(Fake(answer)), source(tmp_path, row("a"), row("b"), row("c", orig_response=["?"])), out)
    engine = Fake()
    summary = judge_file(Judge(engine), source(tmp_path, row("a"), row("b"), row("c")), out, resume=True)
    assert engine.asked == ["c", "b"]
    assert (summary.rows, summary.resumed, summary.errors) == (3, 1, 0)
    assert sorted(line["id"] for line in lines(out)) == ["a", "b", "c"]


# Several judgements of a row, other rubrics and columns, tables.


def test_samples_give_the_majority_with_votes_and_spread(tmp_path: Path) -> None:
    texts = ["One. [RESULT] 3", "Two. [RESULT] 5", "Three. [RESULT] 3", "None."]
    script = ScriptedGenerator(lambda request: texts)
    out = tmp_path / "out.jsonl"
    judge_file(Judge(script), source(tmp_path, row("a")), out, options=JudgeOptions(samples=4, constrain=False))
    (line,) = lines(out)
    assert (line["label"], line["votes"], line["samples"], line["malformed"]) == (3, {"3": 2, "5": 1}, 4, 1)
    assert (line["rationale"], line["mean"]) == ("One.", pytest.approx(11 / 3))
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text())["temperature"] == 1


@pytest.mark.parametrize(("tie", "label"), [("probability", None), ("first", 1), ("tie", None)])
def test_swap_judges_pairs_in_both_orders_and_single_responses_once(tmp_path: Path, tie: Any, label: Any) -> None:
    pair = {**row("p", orig_response_A="x", orig_response_B="y")}
    del pair["orig_response"]
    script = ScriptedGenerator(lambda request: [f"Always {request.labels[0]}. [RESULT] {request.labels[0]}"])
    out = tmp_path / "out.jsonl"
    summary = judge_file(Judge(script), source(tmp_path, row("a"), pair), out, options=JudgeOptions(swap=True, tie=tie))
    written = {line["id"]: line for line in lines(out)}
    assert "consistent" not in written["a"]
    assert (written["p"]["label"], written["p"]["first_label"], written["p"]["swapped_label"]) == (label, 1, 2)
    assert (written["p"]["consistent"], written["p"]["preference"]) == (False, pytest.approx(0.5))
    assert len(script.seen) == 3
    assert (summary.inconsistent, summary.ties, summary.malformed) == (1, int(label is None), 0)


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for settings in ({"samples": 3, "swap": True}, {"samples": 3, "label_only": True}, {"tie": "coin"}):
        with pytest.raises(SreError):
            JudgeOptions(**settings)
    with pytest.raises(SreError, match="all samples are equal"):
        JudgeOptions(samples=3, temperature=0.0)
    with pytest.raises(SreError, match="no row is a pair"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), "-", options=JudgeOptions(swap=True))


def test_a_rubric_is_for_rows_without_one(tmp_path: Path) -> None:
    bare = {k: v for k, v in row("bare").items() if k != "orig_criteria"}
    rows, tone = source(tmp_path, bare, row("own", orig_score="2")), read_rubric("tone")
    script = ScriptedGenerator()
    judge_file(Judge(script), rows, tmp_path / "one.jsonl", rubric=tone)
    asked = {request.id: request.messages[-1].content for request in script.seen}
    assert tone.rubric.criteria in asked["bare"]
    assert "Are both items fruits?" in asked["own"]
    assert [line.get("truth") for line in lines(tmp_path / "one.jsonl")] == [None, 2]


def test_a_resume_with_another_rubric_is_refused(tmp_path: Path) -> None:
    bare = {k: v for k, v in row("bare").items() if k != "orig_criteria"}
    rows, out = source(tmp_path, bare), tmp_path / "out.jsonl"
    judge_file(Judge(Fake()), rows, out, rubric=read_rubric("tone"))
    with pytest.raises(SreError, match="the rubric of row 'bare' has changed"):
        judge_file(Judge(Fake()), rows, out, rubric=read_rubric("reasoning"), resume=True)
    source(tmp_path, {**bare, "orig_response": "Another."})
    with pytest.raises(SreError, match="the row 'bare' has changed"):
        judge_file(Judge(Fake()), rows, out, rubric=read_rubric("tone"), resume=True)


def test_a_csv_output_is_made_at_the_end_from_a_journal_that_can_be_resumed(tmp_path: Path) -> None:
    def interrupted(name: str) -> dict[str, Any]:
        if name == "a":
            raise KeyboardInterrupt
        return right(name)

    out, rows = tmp_path / "out.csv", source(tmp_path, *[row(name) for name in "abc"])
    with pytest.raises(KeyboardInterrupt):
        judge_file(Judge(Fake(interrupted)), rows, out)
    assert not out.exists()
    assert [line["id"] for line in lines(tmp_path / "out.csv.jsonl")] == ["c", "b"]
    with pytest.raises(SreError, match="--resume"):
        judge_file(Judge(Fake()), rows, out)
    engine = Fake()
    judge_file(Judge(engine), rows, out, resume=True)
    assert engine.asked == ["a"]
    with out.open(newline="") as file:
        assert [line["id"] for line in csv.DictReader(file)] == ["a", "b", "c"]


def test_an_output_of_an_unknown_kind_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    engine = Fake()
    with pytest.raises(SreError, match=r"\.jsonl, \.csv, \.parquet"):
        judge_file(Judge(engine), source(tmp_path, row("a")), tmp_path / "out.xlsx")
    assert engine.asked == []


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, row("a"), row("b"))
    judge_file(Judge(Fake()), rows, out, limit=1)
    with (tmp_path / "out.jsonl.meta.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for flags in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(SreError, match="another process"):
                judge_file(Judge(Fake()), rows, out, **flags)
    assert judge_file(Judge(Fake()), rows, out, resume=True).rows == 2


def test_no_space_while_judging_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, *[row(f"r{k}") for k in range(3 * BLOCK)])
    synced = os.fsync

    def full(handle: int) -> None:
        if out.exists() and out.stat().st_size and len(lines(out)) > BLOCK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SreError, match="no space left"):
            judge_file(Judge(Fake()), rows, out)
    assert len(lines(out)) == BLOCK
    assert judge_file(Judge(Fake()), rows, out, resume=True).resumed == BLOCK


def test_slow_rows_are_on_disk_before_a_block_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = tmp_path / "out.jsonl", list[int]()

    def answer(name: str) -> dict[str, Any]:
        seen.append(len(lines(out)))
        return right(name)

    monkeypatch.setattr("recipe.judge.journal.FLUSH_S", 0.0)
    judge_file(Judge(Fake(answer)), source(tmp_path, *[row(name) for name in "abc"]), out)
    assert seen == [0, 1, 2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SreError, match="standard output: no space left"):
            judge_file(Judge(Fake()), source(tmp_path, row("a")), "-")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
