"""No command prints a traceback, whatever it is given. The commands run in this process, on a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.__main__ import experiment
from experiments.annotation import annotate
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
    "deep-value.jsonl": b'{"question": "q", "answer": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}\n",
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


# Beside `sre`: what is run from a checkout, by the name of its module.
PROGRAMS = {"experiments": experiment, "experiments.annotation": annotate}


def sre(*arguments: object) -> Result:
    name, *others = map(str, arguments)
    if name in PROGRAMS:
        return CliRunner().invoke(PROGRAMS[name], others)
    return CliRunner().invoke(main, [name, *others])


def check(result: Result) -> None:
    """It ended on purpose, said why in few lines, and moved no cursor."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) <= 1
    assert errors or result.exit_code != 2 or "Usage: " in result.stderr


COMMANDS = [
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
    "experiments {} --tables --run-dir {out}/mine",
    "experiments.annotation import {out} {corpus}/good.jsonl",
    "experiments.annotation import {out} {}",
    "evaluate {} --judge j1",
    "serve --model m.gguf --api-key-file {} --host 192.0.2.1",
]
FOLDER_COMMANDS = [
    *(
        "status",
        "report",
        "audit",
        "stage merged",
        "experiments.annotation export -o out",
        "publish --repo a/b",
        "evaluate --judge j1",
    ),
    *(
        "run tiny --until seed --run-dir",
        "quickstart --run-dir",
        "experiments tiny --tables --run-dir",
        "judge -o o.csv",
    ),
]


def test_every_command_that_reads_something_is_tried() -> None:
    tried = {command.split()[0] for command in (*COMMANDS, *FOLDER_COMMANDS)}
    assert tried == {*main.commands, *PROGRAMS} - {"doctor"}


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("command", COMMANDS)
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
    (tmp_path / "key.json").write_bytes(CORPUS[name])
    check(sre(*(part.format(odd, corpus=corpus, out=tmp_path) for part in command.split())))


@pytest.mark.parametrize("command", FOLDER_COMMANDS)
def test_a_folder_that_is_no_run_ends_in_a_line(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    check(sre(*command.split(), tmp_path))


@pytest.mark.parametrize(
    "command",
    [
        *("judge {rows} --temperature nan", "judge {rows} --temperature inf", "judge {rows} --limit " + "9" * 30),
        *(
            "judge {rows} --memory nan",
            "judge {rows} --memory 1e999GB",
            "judge {rows} --map =",
            "judge {rows} --map a=b=c",
        ),
        *("judge {rows} --seed " + "9" * 30, "judge {rows} --rubric " + "x" * 5000 + ".toml"),
        *("split {rows} -o {out}/data --test nan", "split {rows} -o {out}/data --dev inf", "split = -o {out}/data"),
        *(
            "serve --model m.gguf --host " + "é" * 70,
            "serve --model m.gguf --host a..b",
            "serve --model m.gguf --timeout nan",
        ),
        *(
            *(
                f"plan 24gb-llama3.1-8b --set {key}=~nobody/x"
                for key in ("model.source", "bootstrap.teacher", "data.pointwise")
            ),
            "plan 24gb-llama3.1-8b --set sft.epochs=inf",
            "plan 24gb-llama3.1-8b --set sft.epochs=nan",
            "plan tiny --set =",
        ),
        *("config tiny --set a.b.c=1", "config tiny --set seed=1979-05-27", "config " + "x" * 5000, "rubrics ../tone"),
    ],
)
def test_odd_values_of_options_end_in_a_line(
    corpus: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "from_gguf", lambda *_, **__: Judge(ScriptedGenerator(), name="scripted"))
    monkeypatch.chdir(tmp_path)
    command += f" -o {tmp_path}/out.jsonl --model m.gguf" if command.startswith("judge") else ""
    check(sre(*command.format(rows=corpus / "good.jsonl", out=tmp_path).split()))
