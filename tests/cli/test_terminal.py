"""What comes from data is shown as it is: it moves no cursor, writes no title, and is no markup of a table's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from experiments.annotation import show_rationale_votes
from recipe.cli import options
from recipe.cli.main import main
from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.evaluation.tables import judged_example, round_text, stages_table
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

HOSTILE = "[/red]\x1b[2J\x1b]0;title\x07\x9b31m\r[link=x]"
SHOWN = "[/red]?[2J?]0;title??31m?[link=x]"


def printed(capsys: pytest.CaptureFixture[str], *shown: Any) -> str:
    for one in shown:
        options.console().print(one)
    return capsys.readouterr().out


def check(text: str) -> None:
    assert SHOWN in text
    assert not any(char < " " or "\x7f" <= char < "\xa0" for char in text.replace("\n", ""))


def test_tables_lines_and_panels(capsys: pytest.CaptureFixture[str]) -> None:
    turn, rubric = (Message("user", HOSTILE),), Rubric(HOSTILE)
    example = Example("a", "pointwise", turn, (HOSTILE,), rubric, 4)
    judgement = Judgement("a:x:0", "a", "pointwise", HOSTILE, HOSTILE, 4, origin=HOSTILE)
    marker = {"stage": HOSTILE, "finished": 1.0, "wall_s": 1.0, "tokens": 1, "peak_rss_mb": 1}
    check(printed(capsys, stages_table({HOSTILE: marker})))
    check(printed(capsys, judged_example(example, judgement)))
    check(printed(capsys, HOSTILE))
    check(round_text({"round": 1, "kept": False, "problem": HOSTILE}))
    counts = {"outcomes": {"win": 1}, "win_rate": None}
    votes = {"judges": [HOSTILE, "j1"], "raters": {HOSTILE: counts}, "agreement": None, "skipped": 0, **counts}
    show_rationale_votes({**votes, "reasons": {HOSTILE: {HOSTILE: 1}}}, options.console())
    check(capsys.readouterr().out)


def test_commands_on_hostile_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "from_gguf", lambda *_, **__: Judge(ScriptedGenerator(), name=HOSTILE))
    monkeypatch.chdir(tmp_path)
    names = ("id", "question", "answer", "criteria", "aspect")
    rows = [{**{name: f"{k}{HOSTILE}" for name in names}, "score": 1 + k % 5, HOSTILE: HOSTILE} for k in range(20)]
    bad = [{**rows[0], "id": f"bad{HOSTILE}", "answer": {HOSTILE: 1}}, {**rows[0], "score": HOSTILE}]
    file = tmp_path / "\x1b[1mrows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]))
    good = tmp_path / "\x1b[1mgood.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (
        ["judge", file, "-o", "out.jsonl", "--model", "m.gguf"],
        ["judge", file, "-o", "out.csv", "--model", "m.gguf", "--rubric", HOSTILE],
        ["evaluate", file, "--model", "m.gguf", "-o", "figures"],
        ["evaluate", good, "--model", "m.gguf", "-o", "figures"],
        ["audit", "figures/judgements.jsonl", "--rows", good],
        ["split", good, "-o", "data", "--test", "0.2"],
        ["init", "mine", good, "--rubric", HOSTILE],
        ["plan", "tiny", "--set", f"data.pointwise={good}", "--set", "data.pairwise="],
    ):
        done = CliRunner().invoke(main, list(map(str, command)))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        told = done.output.replace("\n", "").replace("\r", "")
        assert not any(char < " " or "\x7f" <= char < "\xa0" for char in told), (command, done.output)
