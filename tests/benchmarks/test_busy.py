"""`python -m benchmarks.busy`: who is measured beside how many, and that other work doesn't bring judging to a halt."""

from __future__ import annotations

import subprocess
from statistics import median

import pytest

from benchmarks import busy
from benchmarks.busy import WAITING, run_busy, table
from recipe.errors import SreError


@pytest.fixture
def seen(monkeypatch):
    """Every measurement: what, under which settings, beside how many; each takes a second more than the others."""
    calls, beside = [], []

    class Process:
        def __init__(self, command):
            beside.append(self)

        def kill(self):
            beside.remove(self)

        def wait(self):
            pass

    def measure(job, environment):
        calls.append((job.kind, environment, len(beside)))
        return {"seconds": 1.0 + len(beside)}

    monkeypatch.setattr(busy, "measure", measure)
    monkeypatch.setattr(subprocess, "Popen", Process)
    return calls


def test_ways_take_turns_alone_and_beside_others(seen):
    found = run_busy(None, tasks=["train"], waiting=["ours", "passive"], others=[0, 2], repeats=2)
    turn = [("train", WAITING[way], count) for count in (0, 2) for way in ("ours", "passive")]
    assert seen == turn * 2
    assert found == {"train": {way: {0: [1.0, 1.0], 2: [3.0, 3.0]} for way in ("ours", "passive")}}
    columns = [list(column.cells) for column in table(found).columns]
    assert columns[2:] == [["1.00", "1.00"], ["3.00 (33%)", "3.00 (33%)"]]


def test_judging_and_sampling_take_a_model(seen, tiny_gguf):
    run_busy(tiny_gguf, tasks=["judge", "sample"], others=[1], rows=2, repeats=1, threads=1)
    assert [(kind, count) for kind, _, count in seen] == [("ours", 1)] * 2


@pytest.mark.parametrize(("choice", "said"), [({"tasks": ["sing"]}, "no 'sing'"), ({"tasks": ["judge"]}, "--model")])
def test_a_bad_choice_is_refused(seen, choice, said):
    with pytest.raises(SreError, match=said):
        run_busy(None, **choice)
    assert seen == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["judge", "train"])
def test_other_work_takes_its_share_and_not_much_more(task, smollm2):
    """Beside one process a fair share is half or more. Threads that spin while they wait reach a twentieth."""
    found = run_busy(smollm2("Q8_0"), tasks=[task], others=[0, 1], rows=4, repeats=3)[task]["ours"]
    assert median(found[0]) / median(found[1]) > 0.25
