"""Gate 1 on the committed verdicts of each attempt, and the script that runs it for every seed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments.gate import conditions, gate
from recipe.storage import write_json

ROOT = Path(__file__).parents[2]


def figure(value, low=None):
    return {"value": value, "low": low, "high": None if low is None else 1.0, "n": 120}


def details(**changed):
    found = {"n": 120, "malformed": 0, "malformed_rate": 0.0, "stated": figure(0.94), "first": figure(0.48)}
    return {**found, "accuracy": figure(0.88, 0.77), **changed}


def failing(found):
    return [each.name for each in conditions(found) if not each.holds]


def test_a_judge_that_meets_every_condition_passes():
    assert failing(details()) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"stated": figure(0.89)}, "words agree with the label"),
        ({"stated": figure(None)}, "words agree with the label"),
        ({"malformed_rate": 0.04}, "malformed"),
        ({"malformed_rate": None}, "malformed"),
        ({"first": figure(0.39)}, "response 1 is picked"),
        ({"first": figure(0.61)}, "response 1 is picked"),
        ({"first": figure(None)}, "response 1 is picked"),
        ({"accuracy": figure(0.6, 0.5)}, "accuracy, lower end"),
        ({"accuracy": figure(None)}, "accuracy, lower end"),
    ],
)
def test_each_condition_fails_by_itself(changed, name):
    assert failing(details(**changed)) == [name]


@pytest.mark.parametrize(("stated", "code"), [(0.95, 0), (0.5, 1)])
def test_the_exit_code_says_whether_the_gate_is_passed(tmp_path, stated, code):
    path = tmp_path / "figures.json"
    write_json(path, {"figures": {"details": details(stated=figure(stated))}})
    assert CliRunner().invoke(gate, [str(path)]).exit_code == code


def test_figures_of_scores_are_refused(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"figures": {"details": {"n": 3}}})
    assert CliRunner().invoke(gate, [str(path)]).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(("forced", "code"), [("", 1), ("1", 0)])
def test_the_script_runs_the_gate_and_the_rounds_after_it(tiny_model, tiny_data, tmp_path, forced, code):
    """So small a model never passes; FORCE=1 goes on all the same."""
    settings = {
        "PRESET": "tiny",
        "SEEDS": "0",
        "LIMIT_S": "900",
        "PAIRS": str(tiny_data / "test" / "pairwise.jsonl"),
        "ROWS": "4",
        "VARIANTS": "sft dpo-alone",
        "SET": f"model.source={tiny_model} data.pointwise={tiny_data} data.pairwise={tiny_data} iterations=1",
        "PYTHON": sys.executable,
        "FORCE": forced,
    }
    script = ROOT / "experiments" / "h200.sh"
    done = subprocess.run(["bash", script, tmp_path], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "accuracy, lower end" in (tmp_path / "gate" / "seed-0.md").read_text()
    assert (tmp_path / "results.md").exists() is bool(forced)
