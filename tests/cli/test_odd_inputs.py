"""No command prints a traceback, whatever it is given. The commands run in this process, on a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recipe.cli.main import main
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

ROW = {"question": "Name a fruit.", "answer": "Apple.", "score": "4.0"}
DEEP = "[" * 5000
CORPUS: dict[str, bytes] = {
    "empty.jsonl": b"",
    "null.jsonl": b"null\n",
    "list.jsonl": b"[1, 2]\n[]\n",
    "deep.jsonl": DEEP.encode(),
    "half.jsonl": b'{"question": "q", "ans',
    "binary.jsonl": bytes(range(256)),
    "binary.csv": bytes(range(256)),
    "binary.parquet": b"PAR1" + bytes(range(256)),
    "binary.json.gz": bytes(range(256)),
    "escape.csv": b"\x1b[31mquestion,\x1b]0;x\x07answer\na,b\n",
    "markup.jsonl": b'{"[/red]": "[bold]", "question": "[/]", "answer": "[/x]"}\n',
    "number.json": b"7",
    "object.json": b'{"a": {"0": 1}}',
    "odd.jsonl": json.dumps({"question": {"a": []}, "answer": [[1]], "id": {}, "criteria": 5}).encode(),
    "config.toml": b"[data]\npointwise = 5\n",
    "judge.gguf": b"GGUF\x03\0\0\0" + b"\xff" * 40,
    "done.json": b"[1]",
    "rubric.toml": b"criteria = 7\n",
    "rubric.json": b"[]",
    "good.jsonl": json.dumps(ROW).encode(),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, data in CORPUS.items():
        (folder / name).write_bytes(data)
    return folder


def sre(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def check(result: Result) -> None:
    """It ended on purpose, said why in few lines, and moved no cursor."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize(
    "command",
    [
        "judge {} -o {out}/a.jsonl --model m.gguf",
        "judge {} -o {out}/a.csv --model m.gguf --rubric helpfulness --map response=answer",
        "judge {corpus}/good.jsonl -o {} --model m.gguf --rubric tone --resume",
        "judge {corpus}/good.jsonl -o {out}/b.jsonl --model m.gguf --rubric {}",
        "split {} -o {out}/data --test 0.5 --rubric helpfulness",
        "init {out}/mine {} --rubric helpfulness",
        "evaluate {} --model {corpus}/judge.gguf -o {out}/figures",
        "audit {} --rows {corpus}/good.jsonl",
        "config {}",
        "plan {}",
        "run {} --run-dir {out}/run --until seed",
        "status {}",
        "report {} -o {out}/report.html",
        "rubrics {}",
    ],
)
def test_odd_files_end_in_a_line(
    corpus: Path, tmp_path: Path, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_gguf(path: Path, **options: Any) -> Judge:
        return Judge(ScriptedGenerator(), name="scripted")

    monkeypatch.setattr(Judge, "from_gguf", from_gguf)
    monkeypatch.chdir(tmp_path)
    odd = corpus / name
    if "-o {} " in command:
        odd = tmp_path / name
        odd.write_bytes(CORPUS[name])
    check(sre(*(part.format(odd, corpus=corpus, out=tmp_path) for part in command.split())))


@pytest.mark.parametrize(
    "command", ["status", "report", "audit", "merge", "stage merged", "annotate export", "publish"]
)
def test_a_folder_that_is_no_run_ends_in_a_line(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    check(sre(*command.split(), tmp_path))
