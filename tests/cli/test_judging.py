"""`sre judge` and `sre rubrics`: options reach the judge, results and errors reach the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from recipe.cli.main import main
from recipe.data.rubrics import load_rubric, ready_rubrics
from recipe.judge import Judge
from recipe.judge.judge import to_example
from tests.scripted import ScriptedGenerator

ROW = {"orig_instruction": "Name two fruits.", "orig_response": "apple and brick", "orig_criteria": "Are both fruits?"}
PAIR = {"orig_instruction": "q", "orig_response_A": "a", "orig_response_B": "b", "orig_criteria": "Which?"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `sre judge` opened the model with, and the scripted model that it got."""
    found: dict[str, Any] = {}

    def from_gguf(path: Path, **options: Any) -> Judge:
        found.update(path=path, options=options, model=ScriptedGenerator())
        return Judge(found["model"], name="scripted")

    monkeypatch.setattr(Judge, "from_gguf", from_gguf)
    return found


class Server(ScriptedGenerator):
    """In place of a server: `asked` is what it was opened with."""

    asked: ClassVar[dict[str, Any]]

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(lambda request: [f"{request.force_label}. [RESULT] 4"], name="served")
        Server.asked = {"base_url": base_url, **options}


def sre(*arguments: object, **more: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **more)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_judge_writes_the_rows_and_a_summary_beside_them(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows, out = write(tmp_path / "rows.jsonl", {**ROW, "orig_criteria": [5]}, ROW), tmp_path / "out.jsonl"
    result = sre("judge", rows, "-o", out, "--model", "m.gguf", "--threads", 2, "--parallel", 4, "--memory", "1MB")
    assert result.exit_code == 1, result.output  # a row failed
    assert [line["finish"] for line in lines(out)] == ["error", "stop"]
    usual = {"context": 4096, "calibrated": True, "gpu_layers": None}
    assert opened["options"] == {"threads": 2, "parallel": 4, "memory": 1_000_000, **usual}
    assert result.stdout == ""
    for part in ("rows", "errors", "rows/s", "labels"):
        assert part in result.stderr


def test_layers_for_the_gpu_reach_every_judge(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", ROW)
    assert sre("judge", rows, "-o", "-", "--model", "m.gguf", "--gpu-layers", -1).exit_code == 0
    assert opened.pop("options")["gpu_layers"] == -1
    sre("evaluate", rows, "--model", "m.gguf", "-o", tmp_path / "figures", "--gpu-layers", 9)
    assert opened["options"]["gpu_layers"] == 9


def test_a_pipe_goes_in_and_out(opened: dict[str, Any]) -> None:
    result = sre("judge", "-", "-o", "-", "--model", "m.gguf", input=json.dumps(ROW) + "\n")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["stdin-1"]


def test_a_files_own_columns_and_a_ready_rubric(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", {"question": "q", "answer": "an answer"})
    columns = ("--map", "instruction=question", "--map", "response=answer")
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf", "--rubric", "conciseness", *columns)
    assert result.exit_code == 0, result.output
    (request,) = opened["model"].seen
    assert "an answer" in request.messages[-1].content
    assert load_rubric("conciseness").criteria in request.messages[-1].content


def test_a_rubric_as_text_means_what_it_means_in_python(tmp_path: Path, opened: dict[str, Any]) -> None:
    text = "Is it short?\n- Score 0: No.\n- Score 1: Yes."
    row = {"orig_instruction": "q", "orig_response": "a"}
    result = sre("judge", write(tmp_path / "rows.jsonl", row), "-o", "-", "--model", "m.gguf", "--rubric", text)
    assert result.exit_code == 0, result.output
    (request,) = opened["model"].seen
    assert request.messages == Judge(ScriptedGenerator()).request(to_example("q", ["a"], text)).messages
    assert request.labels == (0, 1)


def test_swap_samples_and_the_rest_reach_the_judge(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", PAIR)
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf", "--swap", "--tie", "first", "--label-only")
    assert [request.label_only for request in opened["model"].seen] == [True, True]
    assert "consistent" in json.loads(result.stdout)
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf", "--samples", 4, "--seed", 3)
    assert json.loads(result.stdout)["samples"] == 4


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--samples", "3", "--swap"], "samples can't be combined with swap"),
        (["--samples", "3", "--temperature", "0"], "all samples are equal"),
        (["--rubric", "nope"], "no ready rubric 'nope'"),
        (["--rubric", "helpfulnes"], "did you mean 'helpfulness'"),
        (["--map", "answer=x"], "no column 'answer' to map onto"),
        (["--map", "response"], "OURS=YOURS"),
        (["--memory", "much"], "such as 2GB"),
        (["--resume"], "standard output"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(
    tmp_path: Path, opened: dict[str, Any], options: list[str], part: str
) -> None:
    result = sre("judge", write(tmp_path / "rows.jsonl", ROW), "-o", "-", "--model", "m.gguf", *options)
    assert result.exit_code == 2
    assert part in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_a_server_judges_and_forces_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.judge.judge_file.OpenAIGenerator", Server)
    rows, url = write(tmp_path / "rows.jsonl", ROW), "http://127.0.0.1:8000/v1"
    result = sre("judge", rows, "-o", "-", "--engine", "openai", "--base-url", url, "--parallel", 3)
    assert result.exit_code == 0, result.output
    assert Server.asked == {"base_url": url, "model": None, "parallel": 3}
    assert json.loads(result.stdout)["rationale"] == "False."
    sre("judge", rows, "-o", "-", "--engine", "openai", "--base-url", url, "--model", "org/model-7b", "--no-constrain")
    assert Server.asked["model"] == "org/model-7b"


def test_ray_gets_its_workers_with_all_threads_and_memory_each(
    tmp_path: Path, opened: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    def pool(open_judge: Any, workers: int, *, threads: int) -> Judge:
        found.update(workers=workers, threads=threads)
        return open_judge()

    monkeypatch.setattr("recipe.judge.judge_file.RayPool", pool)
    rows = write(tmp_path / "rows.jsonl", ROW)
    options = ["--model", "m.gguf", "--engine", "ray", "--workers", 3, "--threads", 2, "--memory", "1MB"]
    result = sre("judge", rows, "-o", "-", *options)
    assert result.exit_code == 0, result.output
    assert found == {"workers": 3, "threads": 2}
    assert (opened["options"]["threads"], opened["options"]["memory"]) == (2, 1_000_000)
    assert opened["path"] == Path("m.gguf").absolute()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--engine", "openai"], "--engine openai needs --base-url"),
        ([], "--engine llamacpp needs --model"),
        (["--engine", "ray"], "--engine ray needs --model"),
        (["--model", "m.gguf", "--base-url", "http://x"], "--base-url can't be combined with --engine llamacpp"),
        (["--model", "m.gguf", "--engine", "ray", "--base-url", "http://x"], "can't be combined with --engine ray"),
        *(
            (["--engine", "openai", "--base-url", "http://x", *more], f"{more[0]} can't be combined with")
            for more in (["--workers", "2"], ["--threads", "2"], ["--memory", "1MB"], ["--gpu-layers", "9"])
        ),
        (["--engine", "openai", "--base-url", "http://x", "--calibrated"], "--calibrated can't be combined with"),
        (["--engine", "openai", "--base-url", "http://x", "--constrain"], "--constrain can't be combined with"),
        (["--engine", "openai", "--base-url", "here"], "expected an address such as http://"),
    ],
)
def test_options_of_another_engine_are_refused_by_name(tmp_path: Path, options: list[str], part: str) -> None:
    result = sre("judge", write(tmp_path / "rows.jsonl", ROW), "-o", "-", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert part in result.stderr.splitlines()[-1]


def test_rubrics_lists_the_library_and_prints_a_file_to_edit(tmp_path: Path) -> None:
    listed = sre("rubrics").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(ready_rubrics())
    mine = tmp_path / "mine.toml"
    mine.write_text(sre("rubrics", "tone").stdout)
    assert load_rubric(mine) == load_rubric("tone")
    unknown = sre("rubrics", "nope")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "conciseness" in unknown.stderr


CHOICE = {"question": "q", "response_a": "x", "response_b": "y", "criteria": "Which is shorter?"}


def test_a_winner_of_0_and_1_is_read_once_its_meaning_is_said(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**CHOICE, "question": f"q{k}", "winner": k % 2} for k in range(4)))
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf")
    assert result.exit_code == 0, result.output
    assert not any("truth" in json.loads(line) for line in result.stdout.splitlines())
    for name, truths in (("better_index", [1, 2, 1, 2]), ("first_is_better", [2, 1, 2, 1])):
        assert f"--map {name}=" in result.stderr
        read = sre("judge", rows, "-o", "-", "--model", "m.gguf", "--map", f"{name}=winner")
        assert [json.loads(line)["truth"] for line in read.stdout.splitlines()] == truths


def test_a_winner_of_0_1_and_2_is_read_once_its_meaning_is_said(tmp_path: Path, opened: dict[str, Any]) -> None:
    rows = write(tmp_path / "rows.jsonl", *({**CHOICE, "question": f"q{k}", "winner": k} for k in (1, 2, 0)))
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf")
    assert result.exit_code == 0, result.output
    assert not any("truth" in json.loads(line) for line in result.stdout.splitlines())
    assert "--map better_index=" in result.stderr
    read = sre("judge", rows, "-o", "-", "--model", "m.gguf", "--map", "better_index=winner")
    judged = [json.loads(line) for line in read.stdout.splitlines()]
    assert [row.get("truth", row.get("truth_note")) for row in judged] == [2, "tie", 1]


def test_criteria_that_name_a_ready_rubric_are_that_rubric(tmp_path: Path, opened: dict[str, Any]) -> None:
    names = ("helpfulness", "Code correctness", "Is it help?")
    rows = write(tmp_path / "rows.jsonl", *({"question": "q", "answer": "a", "criteria": name} for name in names))
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf")
    texts = [request.messages[-1].content for request in opened["model"].seen]
    for text, name in zip(texts, ("helpfulness", "code-correctness"), strict=False):
        assert ready_rubrics()[name].rubric.criteria in text
    assert "Is it help?" in texts[2]
    assert "2 of the first 3 rows" in result.stderr
    judged = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["criteria"] for row in judged] == list(names)
    assert judged[0]["rubric"]["criteria"] == ready_rubrics()["helpfulness"].rubric.criteria
    assert "rubric" not in judged[2]


def test_a_judged_pair_names_the_column_that_won(tmp_path: Path, opened: dict[str, Any]) -> None:
    pairs = [{"prompt": f"q{k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(8)]
    rows = write(tmp_path / "rows.jsonl", *pairs, {"prompt": "q", "answer_a": "x", "answer_b": "y"})
    result = sre("judge", rows, "-o", "-", "--model", "m.gguf")
    *judged, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["won"] == "chosen" for row in judged} <= {True, False}
    for row in judged:
        assert (row["won"] == "chosen") == (row["label"] == row["truth"])
    assert last["won"] == ["answer_a", "answer_b"][last["label"] - 1]
    assert "won " in result.stderr


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("rows.jsonl", b'{"question": "q", "answer": "a", "by": "Ren\xe9"}\n'),
        ("rows.csv", b"question,answer,by\nq,a,Ren\xe9\n"),
    ],
)
def test_bytes_that_the_output_cannot_hold_are_told(
    tmp_path: Path, opened: dict[str, Any], name: str, row: bytes
) -> None:
    (tmp_path / name).write_bytes(row)
    result = sre("judge", tmp_path / name, "-o", "-", "--model", "m.gguf", "--rubric", "tone")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["by"] == "Ren?"
    assert all(part in result.stderr for part in ("1 row with bytes", "rows-", "save the file as UTF-8"))
    (tmp_path / name).write_bytes(row.decode("latin-1").encode())
    result = sre("judge", tmp_path / name, "-o", "-", "--model", "m.gguf", "--rubric", "tone")
    assert json.loads(result.stdout)["by"] == "René"
    assert "bytes" not in result.stderr
