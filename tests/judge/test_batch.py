"""A whole file judged: what is written, when it is on disk, and what a resume keeps and refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.engines.base import Completion, Request, Sampling
from recipe.errors import SreError
from recipe.judge import Judge
from recipe.judge.batch import BLOCK, Summary, judge_file
from recipe.prompts import Prompts
from recipe.rows import Message

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

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return 0

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
    digest = written["a"].pop("input")
    assert written["a"] == {
        "id": "a",
        "task": "pointwise",
        "label": 4,
        "expected_score": pytest.approx(4.25),
        "rationale": "Because of a.",
        "finish": "stop",
        "label_probabilities": {"4": pytest.approx(0.75), "5": pytest.approx(0.25)},
        "truth": 5,
    }
    assert "truth" not in written["b"]
    assert digest != written["b"]["input"]
    assert (summary.rows, summary.malformed, summary.errors, summary.labels) == (2, 0, 0, {4: 2})
    assert summary.rows_per_second > 0


def test_malformed_and_failed_rows_are_written_and_counted_apart(tmp_path: Path) -> None:
    def answer(name: str) -> dict[str, Any]:
        failed = {"finish": "error", "error": "too long"}
        return {"a": {"text": "No idea."}, "b": failed}.get(name) or right(name)

    out = tmp_path / "out.jsonl"
    rows = source(tmp_path, row("a"), row("b"), row("c"))
    summary = judge_file(Judge(Fake(answer)), rows, out, constrain=False)
    assert (summary.rows, summary.malformed, summary.errors, summary.labels) == (3, 1, 1, {4: 1})
    written = {line["id"]: line for line in lines(out)}
    assert (written["a"]["label"], written["a"]["text"]) == (None, "No idea.")
    assert (written["b"]["label"], written["b"]["error"], written["b"]["expected_score"]) == (
        None,
        "too long",
        None,
    )
    assert "error" not in written["a"]


def test_the_sidecar_names_model_prompts_and_settings(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    judge_file(Judge(Fake()), source(tmp_path, row("a")), out, max_tokens=99, label_only=True)
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text()) == {
        "model": "fake",
        "prompts": Prompts().digest,
        "settings": {"max_tokens": 99, "temperature": 0.0, "seed": 0, "constrain": True, "label_only": True},
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
    assert engine.asked == ["a"]
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
    ],
)
def test_a_resume_with_anything_else_is_refused_by_name(
    tmp_path: Path, judge: Judge, options: dict[str, Any], named: str
) -> None:
    out, rows = tmp_path / "out.jsonl", source(tmp_path, row("a"), row("b"))
    judge_file(Judge(Fake()), rows, out, limit=1)
    before = out.read_bytes()
    with pytest.raises(SreError, match=rf"made with other {named} "):
        judge_file(judge, rows, out, resume=True, **options)
    assert out.read_bytes() == before


def test_a_resume_over_a_changed_row_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    judge_file(Judge(Fake()), source(tmp_path, row("a"), row("b")), out)
    rows = source(tmp_path, row("a"), row("b", orig_response="Another."))
    with pytest.raises(SreError, match="'b' has changed"):
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
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["b", "a"]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(SreError, match="standard output"):
        judge_file(Judge(Fake()), rows, "-", resume=True)


def test_both_flags_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="overwrite"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), tmp_path / "o", resume=True, overwrite=True)


def test_progress_counts_up_to_all_rows_the_kept_ones_included(tmp_path: Path) -> None:
    out, rows, seen = (
        tmp_path / "out.jsonl",
        source(tmp_path, *[row(name) for name in "abc"]),
        list[tuple[int, int]](),
    )
    judge_file(Judge(Fake()), rows, out, limit=1)
    judge_file(Judge(Fake()), rows, out, resume=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_both_tasks_in_one_file_and_bad_rows_set_aside(tmp_path: Path) -> None:
    pair = {**row("p", orig_response_A="x", orig_response_B="y")}
    del pair["orig_response"]
    rows = source(tmp_path, row("a"), pair, row("bad", orig_score="9"))
    out = tmp_path / "out.jsonl"
    answer = lambda name: {"text": "Why. [RESULT] 2"}  # noqa: E731
    summary = judge_file(Judge(Fake(answer)), rows, out, skip_bad_rows=tmp_path / "bad.jsonl")
    assert summary.labels == {2: 2}
    assert {line["task"] for line in lines(out)} == {"pointwise", "pairwise"}
    assert len(lines(tmp_path / "bad.jsonl")) == 1


def test_a_disk_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="can't write"):
        judge_file(Judge(Fake()), source(tmp_path, row("a")), tmp_path / "rows.jsonl" / "out.jsonl")


def test_an_empty_summary_divides_by_nothing() -> None:
    assert Summary().rows_per_second == 0


def test_the_summary_reads_in_one_line() -> None:
    from recipe.judge.batch import Summary

    text = str(Summary(rows=5, resumed=1, malformed=1, errors=0, seconds=2.0, labels={3: 3, 4: 1}))
    assert text == "5 rows (1 kept from before), 1 malformed, 0 not judged, 2.0 rows/s; labels 3: 3, 4: 1"
