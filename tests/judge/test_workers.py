"""Several processes over one file: every row once, and what happens when one of them, or the parent, dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipe.data.records import Example, Message, Rubric
from recipe.errors import SreError
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.options import JudgeOptions
from recipe.judge.workers import Workers, shares
from tests.scripted import ScriptedGenerator

OPEN = partial(Judge, ScriptedGenerator(), name="scripted")
RUBRIC = Rubric("Kind?")


def example(name: str, prompt: str = "") -> Example:
    return Example(name, "pointwise", (Message("user", "q"),), ("a",), RUBRIC, prompt_id=prompt)


def write_rows(path: Path, count: int) -> Path:
    row = {"orig_instruction": "q", "orig_response": "a", "orig_criteria": "c"}
    path.write_text("".join(json.dumps({**row, "id": f"r{k}"}) + "\n" for k in range(count)))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shares_are_even_and_rows_of_one_prompt_stay_together() -> None:
    found = shares([example(f"{prompt}{k}", prompt) for k in range(2) for prompt in "abcd"], 2)
    assert [[e.id for e in share] for share in found] == [["a0", "a1", "b0", "b1"], ["c0", "c1", "d0", "d1"]]
    assert [len(share) for share in shares([example(str(k), "same") for k in range(7)], 3)] == [2, 2, 3]
    assert sorted(map(len, shares([example("a")], 3))) == [0, 0, 1]


def test_workers_give_what_one_judge_gives(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    judge_file(OPEN(), rows, tmp_path / "one.jsonl")
    with Workers(OPEN, 2) as workers:
        assert workers.identity == OPEN().identity
        summary = judge_file(workers, rows, tmp_path / "two.jsonl")
    assert (summary.rows, summary.errors) == (40, 0)
    assert sorted((tmp_path / "one.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "two.jsonl").read_text().splitlines()
    )
    assert (tmp_path / "one.jsonl.meta.json").read_text() == (tmp_path / "two.jsonl.meta.json").read_text()


def test_workers_can_be_asked_again_also_where_some_had_nothing_to_do() -> None:
    with Workers(OPEN, 2) as workers:
        for count in (1, 3, 2):
            found = list(workers.rows([example(str(k)) for k in range(count)], JudgeOptions()))
            assert sorted(row["id"] for row in found) == [str(k) for k in range(count)]


def test_what_a_worker_can_not_open_is_the_users_error() -> None:
    with pytest.raises(SreError, match="no such model file"):
        Workers(partial(Judge.from_gguf, "gone.gguf"), 2)


def test_a_worker_that_dies_is_an_error_that_says_how_to_go_on() -> None:
    with Workers(OPEN, 1) as workers:
        os.kill(workers._processes[0].pid or 0, signal.SIGKILL)
        with pytest.raises(SreError, match=r"ended early \(exit code -9\).*--resume"):
            list(workers.rows([example("a")], JudgeOptions()))


SCRIPT = """
import sys, time
from functools import partial
from pathlib import Path
from tests.scripted import ScriptedGenerator, any_judgement
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.workers import Workers

def slowly(request):
    time.sleep(0.006)
    return any_judgement(request)

if __name__ == "__main__":
    rows, out, count = sys.argv[1:]
    opened = partial(Judge, ScriptedGenerator(slowly))
    if count == "1":
        judge_file(opened(), rows, out, resume=True)
    else:
        with Workers(opened, int(count)) as workers:
            print(*(process.pid for process in workers._processes), flush=True)
            judge_file(workers, rows, out, resume=True)
"""


def start(tmp_path: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    (tmp_path / "judging.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "judging.py"), str(tmp_path / "rows.jsonl"), str(out), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("name", "workers"), [("out.csv", 1), ("out.jsonl", 2)])
def test_killed_three_times_no_row_is_lost_and_none_is_there_twice(tmp_path: Path, name: str, workers: int) -> None:
    write_rows(tmp_path / "rows.jsonl", 400)
    out = tmp_path / name
    journal = out if name.endswith(".jsonl") else tmp_path / f"{name}.jsonl"
    for share in (60, 150, 260):
        with start(tmp_path, out, workers) as process:
            wait_for(lambda at_least=share: count_lines(journal) >= at_least)
            process.kill()
        kept = [line["id"] for line in lines(journal)]
        assert len(set(kept)) == len(kept) < 400
        with journal.open("a") as file:
            file.write('{"id": "r399", "half')  # what a kill inside a write leaves
    with start(tmp_path, out, workers) as process:
        assert process.wait(60) == 0
    ids = [line["id"] for line in lines(journal)]
    assert sorted(ids) == sorted(f"r{k}" for k in range(400))
    if out != journal:
        assert len(out.read_text().splitlines()) == 401


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 5000)
    with start(tmp_path, tmp_path / "out.jsonl", 2) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        wait_for(lambda: count_lines(tmp_path / "out.jsonl") > 0)
        process.kill()
    wait_for(lambda: not any(alive(pid) for pid in pids), 10)


def alive(pid: int) -> bool:
    """Running: neither gone nor a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
