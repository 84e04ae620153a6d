"""How commands end where something is in the way: bad rows, Ctrl-C, an odd terminal, a folder that can't be written."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recipe.cli.main import main
from recipe.evaluation import models
from recipe.inference.base import Request
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator, any_judgement

ROOT = Path(__file__).parents[2]
ROW = {"question": "Où?", "answer": "Là-bas.", "criteria": "Très court ? ▸", "score": 4}
COMMANDS = {
    "judge": "judge {rows} -o {folder}/out.jsonl --model m.gguf",
    "judge a table": "judge {rows} -o {folder}/out.csv --model m.gguf",
    "evaluate": "evaluate {rows} --model m.gguf -o {folder}/figures",
    "split": "split {rows} -o {folder}/data --test 0.5",
}
SCRIPTED = """
import sys
from recipe.cli.main import main
from recipe.evaluation import models
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

def opened(*_, **__):
    return Judge(ScriptedGenerator(), name="scripted")

Judge.from_gguf = models.open_judge = opened
main(sys.argv[1:])
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Its last entry is what the model that every command opens answers by."""
    scripts: list[Any] = [any_judgement]

    def opened(*_: Any, **__: Any) -> Judge:
        return Judge(ScriptedGenerator(scripts[-1]), name="scripted")

    monkeypatch.setattr(Judge, "from_gguf", opened)
    monkeypatch.setattr(models, "open_judge", opened)
    return scripts


def sre(command: str, **places: Path) -> Result:
    return CliRunner().invoke(main, [part.format(**places) for part in command.split()])


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_allow_errors_is_what_makes_bad_rows_end_in_0(tmp_path: Path, script: list[Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", ROW, {**ROW, "answer": {"odd": [1]}})
    command = "judge {rows} -o {rows}.out.jsonl --model m.gguf --overwrite"
    assert sre(command, rows=rows).exit_code == 1
    allowed = sre(f"{command} --allow-errors", rows=rows)
    assert (allowed.exit_code, allowed.exception) == (0, None)
    assert [json.loads(line)["finish"] for line in Path(f"{rows}.out.jsonl").read_text().splitlines()] == [
        "stop",
        "error",
    ]


@pytest.mark.parametrize(("option", "judged"), [("", ["b", "c"]), ("--split train", ["a"]), ("--split dev", [])])
def test_split_says_which_part_of_a_folder_is_judged(
    tmp_path: Path, script: list[Any], option: str, judged: list[str]
) -> None:
    for split, names in {"train": ["a"], "test": ["b", "c"]}.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        write(tmp_path / "data" / split / "pointwise.jsonl", *({**ROW, "id": name} for name in names))
    result = sre("judge {data} -o {out} --model m.gguf " + option, data=tmp_path / "data", out=tmp_path / "out.jsonl")
    if judged:
        assert result.exit_code == 0, result.output
        assert ids(tmp_path / "out.jsonl") == judged
    else:
        assert result.exit_code == 2
        assert "dev" in result.stderr


@pytest.mark.parametrize(("name", "kept"), [("out.jsonl", "out.jsonl"), ("out.csv", "out.csv.jsonl")])
def test_ctrl_c_keeps_the_rows_and_names_their_file_and_the_command_that_goes_on(
    tmp_path: Path, script: list[Any], monkeypatch: pytest.MonkeyPatch, name: str, kept: str
) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**ROW, "id": f"r{k}", "answer": f"Number {k}."} for k in range(5)))
    out, command = tmp_path / name, "judge {rows} -o {out} --model m.gguf"
    monkeypatch.setattr(sys, "argv", ["sre", *f"{command} --overwrite".format(rows=rows, out=out).split()])

    def interrupted(request: Request) -> list[str]:
        if "Number 3." in request.messages[-1].content:
            signal.raise_signal(signal.SIGINT)
        return any_judgement(request)

    script.append(interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        stopped = sre(f"{command} --overwrite", rows=rows, out=out)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.exit_code == 130
    told = stopped.stderr.splitlines()[-1]
    assert f"kept in {tmp_path / kept}." in told
    assert told.endswith(f"sre {command} --resume".format(rows=rows, out=out))
    assert ids(tmp_path / kept) == ["r0", "r1", "r2"]
    script.append(any_judgement)
    assert sre(f"{command} --resume", rows=rows, out=out).exit_code == 0
    assert ids(tmp_path / kept) == [f"r{k}" for k in range(5)]


@pytest.mark.parametrize(
    "command", ["judge {rows} -o - --model m.gguf", COMMANDS["evaluate"], "rubrics helpfulness", "judge --help"]
)
def test_a_terminal_that_is_not_utf_8_ends_no_command(tmp_path: Path, command: str) -> None:
    rows = write(tmp_path / "rows.jsonl", {**ROW, "id": "é▸"})
    arguments = [part.format(rows=rows, folder=tmp_path) for part in command.split()]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTED, *arguments], capture_output=True, cwd=ROOT, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    if "-o -" in command:  # data is UTF-8, whatever the terminal is
        judged = json.loads(done.stdout.decode("utf-8"))
        assert (judged["question"], judged["id"]) == ("Où?", "é▸")
    else:
        assert done.stdout.isascii()


def test_a_full_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "recipe.cli", "config", "tiny"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("command", ["rubrics", "rubrics tone", "config", "config tiny"])
def test_a_reader_of_the_first_lines_ends_no_list(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    class Read(io.StringIO):
        def write(self, text: str) -> int:
            if self.getvalue():
                raise BrokenPipeError(errno.EPIPE, "whoever read has gone")
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Read())
    main(command.split(), standalone_mode=False)
    assert sys.stdout.getvalue().endswith("\n")


@pytest.mark.parametrize("command", [*COMMANDS.values(), "judge {rows} -o - --model m.gguf"])
def test_a_file_name_that_is_not_utf_8_ends_no_command(tmp_path: Path, script: list[Any], command: str) -> None:
    rows = write(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), ROW, ROW)
    result = sre(command, rows=rows, folder=tmp_path / "folder")
    assert (result.exit_code, result.exception) == (0, None), result.stderr


@pytest.mark.parametrize("link", ["same", "symlink", "hard link"])
@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("audit {rows} --rows {rows} -o {out}", "out.json"),
        ("evaluate {rows} --model m.gguf --overwrite -o {folder}", "judgements.jsonl"),
        ("evaluate {rows} --model m.gguf -o {folder}", "figures.json"),
        ("judge {rows} --model m.gguf --overwrite -o {out}", "out.jsonl"),
    ],
)
def test_no_command_writes_over_what_it_reads(
    tmp_path: Path, script: list[Any], command: str, written: str, link: str
) -> None:
    out = tmp_path / "folder" / written
    rows = write(out if link == "same" else tmp_path / "rows.jsonl", ROW, ROW)
    out.parent.mkdir(exist_ok=True)
    if link == "symlink":
        out.symlink_to(rows)
    elif link == "hard link":
        os.link(rows, out)
    before = rows.read_bytes()
    result = sre(command, rows=rows, folder=out.parent, out=out)
    assert (result.exit_code, "is the input" in result.stderr) == (2, True), result.stderr
    assert rows.read_bytes() == before


@pytest.fixture
def permissions_count() -> Iterator[None]:
    """Also for root, which otherwise may write everywhere: Linux lets it put that capability down and take it up."""
    if os.geteuid():
        yield
        return
    system = ctypes.CDLL(None)
    head, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if system.capget(head, held):
        pytest.skip("root may write everywhere here")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert system.capset(head, fewer) == 0
    yield
    assert system.capset(head, held) == 0


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("obstacle", ["a file in the folder's place", "read-only", "closed", "no place for files"])
def test_a_folder_that_can_not_be_written_is_one_line(
    tmp_path: Path, script: list[Any], command: str, obstacle: str, permissions_count: None
) -> None:
    rows, folder = write(tmp_path / "rows.jsonl", ROW, ROW), tmp_path / "folder"
    if obstacle == "no place for files":
        folder = Path("/proc/sre")
    elif obstacle.startswith("a file"):
        folder.write_text("")
    else:
        folder.mkdir(mode=0o500 if obstacle == "read-only" else 0)
    result = sre(command, rows=rows, folder=folder)
    if folder.parent == tmp_path:
        folder.chmod(0o700)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    said = [line for line in result.stderr.splitlines() if not re.match("(?:.*: )?reading the columns|judging", line)]
    assert len(said) == 1, result.stderr
    assert said[0].startswith("error: ")
    assert str(folder) in said[0]
