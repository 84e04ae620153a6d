"""Judges in Ray: the same rows as one judge's, also when a worker is killed; and what the user is told."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from recipe.errors import SreError
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.workers import RayPool
from tests.scripted import ScriptedGenerator

ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray brings it")

# Each request leaves a mark under its process's id; at the id "poison" the process dies.
SCRIPT = """
import os, sys, time
from pathlib import Path
from tests.scripted import ScriptedGenerator, any_judgement
from recipe.errors import SreError
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.workers import RayPool

def slowly(request):
    if request.id == "poison":
        os._exit(1)
    with (pids / str(os.getpid())).open("a") as file:
        file.write(".")
    time.sleep(0.03)
    return any_judgement(request)

def opened():
    return Judge(ScriptedGenerator(slowly), name="scripted")

def together(request):
    end = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < end:
        (pids / str(os.getpid())).touch()
        time.sleep(0.01)
    return slowly(request)

def opened_together():
    return Judge(ScriptedGenerator(together), name="scripted")

def other():
    return Judge(ScriptedGenerator(name="scripted" if os.getpid() == parent else "another"))

if __name__ == "__main__":
    rows, out, pids, parent = sys.argv[1], sys.argv[2], Path(sys.argv[3]), os.getpid()
    try:
        with RayPool(globals()[sys.argv[4]], 2) as pool:
            print(judge_file(pool, rows, out).rows)
    except SreError as error:
        print(error)
    import ray
    assert not ray.is_initialized()
"""


def write_rows(path: Path, *names: str) -> Path:
    row = {"orig_instruction": "q", "orig_response": "a", "orig_criteria": "c", "orig_score": "3"}
    path.write_text("".join(json.dumps({**row, "id": name}) + "\n" for name in names))
    return path


def start(tmp_path: Path, opening: str = "opened") -> subprocess.Popen[str]:
    (tmp_path / "judging.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    names = ("judging.py", "rows.jsonl", "out.jsonl", "pids")
    command = [sys.executable, *(str(tmp_path / name) for name in names), opening]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def pids(tmp_path: Path) -> list[int]:
    return [int(path.name) for path in (tmp_path / "pids").iterdir()]


@ray_only
def test_a_worker_killed_midway_loses_no_row_and_none_is_there_twice(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", *(f"r{k}" for k in range(80)))
    judge_file(Judge(ScriptedGenerator(), name="scripted"), rows, tmp_path / "one.jsonl")
    with start(tmp_path) as process:
        end = time.monotonic() + 120
        while not (killed := pids(tmp_path)):
            assert process.poll() is None
            assert time.monotonic() < end, "no worker began"
            time.sleep(0.01)
        time.sleep(0.2)  # within its first block
        os.kill(killed[0], signal.SIGKILL)
        said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert "80" in said.splitlines()
    assert sorted((tmp_path / "out.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "one.jsonl").read_text().splitlines()
    )
    assert (tmp_path / "out.jsonl.meta.json").read_text() == (tmp_path / "one.jsonl.meta.json").read_text()
    assert len(pids(tmp_path)) > 1


@ray_only
def test_workers_share_the_rows_evenly(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *(f"r{k}" for k in range(80)))
    with start(tmp_path, "opened_together") as process:  # none ends before the other is up
        said, _ = process.communicate(timeout=180)
    assert "80" in said.splitlines()
    assert [len(path.read_text()) for path in (tmp_path / "pids").iterdir()] == [40, 40]


@ray_only
@pytest.mark.slow
def test_a_row_that_kills_every_worker_ends_the_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *(f"r{k}" for k in range(40)), "poison")
    with start(tmp_path) as process:
        said, _ = process.communicate(timeout=400)
    assert "ended early" in said
    assert "--resume" in said
    kept = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(set(kept)) == len(kept) < 41


@ray_only
@pytest.mark.slow
def test_a_worker_with_another_model_is_found_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", "a")
    with start(tmp_path, "other") as process:
        said, _ = process.communicate(timeout=180)
    assert "has another model" in said
    assert (tmp_path / "out.jsonl").read_text() == ""


@ray_only
def test_what_can_not_be_opened_is_the_users_error_before_ray_is_started() -> None:
    with pytest.raises(SreError, match="no such model file"):
        RayPool(partial(Judge.from_gguf, "gone.gguf"), 2)


@ray_only
def test_a_cluster_that_is_not_there_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no-port")
    with pytest.raises(SreError, match="RAY_ADDRESS"):
        RayPool(lambda: Judge(ScriptedGenerator()), 2)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SreError, match=r"\[ray\]"):
        RayPool(lambda: pytest.fail("opened"), 2)
