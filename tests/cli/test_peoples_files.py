"""The files that people have: each can be judged, measured with, split and trained on, as it stands.

A form is a row by its number. Every command gets 24 such rows; the commands run in this process, on a scripted model.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recipe.cli.main import main
from recipe.data.examples import read_examples
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator

ROWS = 24
Row = dict[str, Any]


def ask(k: int) -> str:
    return f"Name fruit number {k}."


def user(k: int, **more: Any) -> Row:
    return {"role": "user", "content": ask(k), **more}


def said(text: str) -> Row:
    return {"role": "assistant", "content": text}


def score(k: int) -> int:
    return 1 + k % 5


def letter(k: int) -> str:
    return "AB"[k % 2]


LEVELS = {f"score{k}_description": f"It is {k} times right." for k in range(1, 6)}
SCORED: dict[str, Callable[[int], Row]] = {
    "question, answer, score": lambda k: {"question": ask(k), "answer": "Apple.", "score": f"{score(k)}.0"},
    "one score missing": lambda k: {"question": ask(k), "answer": "Apple.", "score": score(k) if k else None},
    "NaN for one": lambda k: {"question": ask(k), "answer": "Apple.", "score": score(k) if k else float("nan")},
    "prompt, response, rating": lambda k: {"prompt": ask(k), "response": "Apple.", "rating": f" {score(k)} "},
    "instruction, output, label": lambda k: {"instruction": ask(k), "output": "Apple.", "label": f"{score(k)}.00"},
    "input, output, human score": lambda k: {"Input": ask(k), "Output": "Apple.", "Human Score": score(k)},
    "from 0 to 1": lambda k: {"question": ask(k), "answer": "Apple.", "score": str(k % 2)},
    "Alpaca": lambda k: {"instruction": ask(k), "input": "A red one.", "output": "Apple.", "score": score(k)},
    "alpaca_eval": lambda k: {"instruction": ask(k), "output": "Apple.", "generator": "m", "score": score(k)},
    "messages": lambda k: {"messages": [user(k), said("Apple.")], "score": score(k)},
    "messages with parts": lambda k: {
        "messages": [{"role": "developer", "content": "Be brief."}, user(k), said("Apple.")],
        "score": score(k),
    },
    "messages with tools": lambda k: {
        "messages": [user(k), {"role": "tool", "content": "apple", "name": "find"}, said("Apple.")],
        "score": score(k),
    },
    "ShareGPT": lambda k: {
        "conversations": [{"from": "human", "value": ask(k)}, {"from": "gpt", "value": "Apple."}],
        "score": score(k),
    },
    "RAGAS": lambda k: {
        "user_input": ask(k),
        "response": "Apple.",
        "retrieved_contexts": ["Apples are fruits."],
        "reference": "Pear.",
        "score": score(k),
    },
    "DeepEval": lambda k: {
        "input": ask(k),
        "actual_output": "Apple.",
        "expected_output": "Pear.",
        "retrieval_context": ["Apples are fruits."],
        "score": score(k),
    },
    "Langfuse": lambda k: {
        "input": ask(k),
        "actualOutput": "Apple.",
        "expectedOutput": "Pear.",
        "retrievalContext": ["Apples are fruits."],
        "score": score(k),
    },
    "MLflow": lambda k: {"inputs": ask(k), "predictions": "Apple.", "score": score(k) if k else "NA"},
    "Feedback-Collection": lambda k: {
        "orig_instruction": ask(k),
        "orig_response": "Apple.",
        "orig_criteria": "Is it a fruit?",
        **{f"orig_{name}": text for name, text in LEVELS.items()},
        "orig_score": str(score(k)),
        "orig_feedback": "It is one.",
    },
    "criteria and descriptions": lambda k: {
        "question": ask(k),
        "answer": "Apple.",
        "criteria": "Is it a fruit?",
        **LEVELS,
        "score": score(k),
    },
    "a rubric as JSON": lambda k: {
        "question": ask(k),
        "answer": "Apple.",
        "rubric": {"criteria": "Is it a fruit?", **LEVELS},
        "score": score(k),
    },
}
PAIRS: dict[str, Callable[[int], Row]] = {
    "Chatbot Arena's lists": lambda k: {
        "prompt": json.dumps([ask(k)]),
        "response_a": '["Apple."]',
        "response_b": '["Brick."]',
        "winner_model_a": k % 2,
        "winner_model_b": 1 - k % 2,
        "winner_tie": 0,
    },
    "response_a, response_b, winner": lambda k: {
        "prompt": ask(k),
        "response_a": "Apple.",
        "response_b": "Brick.",
        "winner": letter(k).lower(),
    },
    "winners named model_a": lambda k: {
        "prompt": ask(k),
        "response_a": "Apple.",
        "response_b": "Brick.",
        "winner": f"model_{letter(k).lower()}" if k > 2 else "tie",
    },
    "half preferences and ties": lambda k: {
        "question": ask(k),
        "answer_1": "Apple.",
        "answer_2": "Brick.",
        "preference": {0: 1.5, 1: "tie", 2: "A=B"}.get(k, 1 + k % 2),
    },
    "JudgeBench": lambda k: {
        "question": ask(k),
        "response_A": "Apple.",
        "response_B": "Brick.",
        "label": "A>B" if k % 2 else "B>A",
    },
    "LLMBar": lambda k: {"input": ask(k), "output_1": "Apple.", "output_2": "Brick.", "label": 1 + k % 2},
    "alpaca_eval's pairs": lambda k: {
        "instruction": ask(k),
        "output_1": "Apple.",
        "output_2": "Brick.",
        "preference": 1.0 + k % 2,
    },
    "chosen, rejected": lambda k: {"prompt": ask(k), "chosen": "Apple.", "rejected": "Brick."},
    "TRL": lambda k: {"prompt": [user(k)], "chosen": [said("Apple.")], "rejected": [said("Brick.")]},
    "TRL without prompt": lambda k: {
        "chosen": [user(k), said("Apple.")],
        "rejected": [user(k), said("Brick.")],
    },
    "UltraFeedback": lambda k: {
        "prompt": ask(k),
        "chosen": [user(k), said("Apple.")],
        "rejected": [user(k), said("Brick.")],
        "score_chosen": 8.0,
        "score_rejected": 5.5,
    },
    "HH-RLHF": lambda k: {
        name: f"\n\nHuman: Hi\n\nAssistant: Hello, what for?\n\nHuman: {ask(k)}\n\nAssistant: {text}"
        for name, text in (("chosen", "Apple."), ("rejected", "Brick."))
    },
    "RewardBench": lambda k: {
        "id": k,
        "subset": "hard",
        "prompt": ask(k),
        "chosen": "Apple.",
        "rejected": "Brick.",
        "chosen_model": "m",
    },
    "RewardBench 2": lambda k: {
        "id": str(k),
        "subset": "Focus",
        "prompt": ask(k),
        "chosen": ["Apple."],
        "rejected": ["Brick.", "Chair."],
        "num_correct": 1,
    },
    "OpenAI's preferences": lambda k: {
        "input": {"messages": [user(k)], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [said("Apple.")],
        "non_preferred_output": [said("Brick.")],
    },
    "HelpSteer3's turns": lambda k: {
        "context": [user(k)],
        "response1": "Apple.",
        "response2": "Brick.",
        "preference": "left" if k % 2 else "right",
    },
    "distilabel": lambda k: {
        "instruction": ask(k),
        "generation_1": "Apple.",
        "generation_2": "Brick.",
        "preference": "both_bad" if not k else letter(k),
    },
    "Safe-RLHF": lambda k: {
        "prompt": ask(k),
        "response_0": "Apple.",
        "response_1": "Brick.",
        "better_response_id": k % 2,
        "safer_response_id": k % 2,
    },
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "from_gguf", lambda path, **options: Judge(ScriptedGenerator(), name="scripted"))
    monkeypatch.chdir(tmp_path)


def sre(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result


def check(file: str, *more: str) -> None:
    """All four commands take the file; `more` is what their errors would tell to add."""
    sre("judge", file, "-o", "judged.jsonl", "--model", "judge.gguf", *more)
    rows = [json.loads(line) for line in Path("judged.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= ROWS
    assert all(row["finish"] == "stop" and row["label"] for row in rows if row["task"] == "pairwise")
    assert sum(row.get("truth") is not None for row in rows) >= ROWS - 3
    figures = sre("evaluate", file, "--model", "judge.gguf", "-o", "figures", *more)
    assert "0 not judged" in figures.output
    sre("split", file, "-o", "data", "--test", "0.25", *more)
    split = [len(read_examples("data", split=split)) for split in ("train", "test")]
    assert sum(split) >= ROWS - 3
    assert min(split) > 0
    assert "sre run mine/config.toml" in sre("init", "mine", file, *more).output


def write(path: str, rows: list[Row]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("row", SCORED.values(), ids=SCORED)
def test_scored_rows(row: Callable[[int], Row]) -> None:
    rubric = "helpfulness" if row(0).get("score") != "0" else "Is it a fruit?\nScore 0: No.\nScore 1: Yes."
    more = () if {"criteria", "rubric", "orig_criteria"} & row(1).keys() else ("--rubric", rubric)
    check(write("rows.jsonl", [row(k) for k in range(ROWS)]), *more)


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_pairs(row: Callable[[int], Row]) -> None:
    check(write("rows.jsonl", [row(k) for k in range(ROWS)]))


def table(rows: list[Row], separator: str = ",", header: Callable[[str], str] = str) -> str:
    text = [separator.join(map(header, rows[0]))]
    return "\n".join([*text, *(separator.join(map(str, row.values())) for row in rows)]) + "\n"


PLAIN = [SCORED["question, answer, score"](k) for k in range(ROWS)]
FILES: dict[str, bytes] = {
    "rows.csv": table(PLAIN).encode(),
    "rows.tsv": table(PLAIN, "\t").encode(),
    "semicolons.csv": table(PLAIN, ";").encode(),
    "utf16.csv": table(PLAIN).encode("utf-16"),
    "bom.csv": table(PLAIN).encode("utf-8-sig"),
    "windows.csv": table(PLAIN).replace("\n", "\r\n").encode(),
    "header.csv": table(PLAIN, header=lambda name: f" {name.title()} ").encode(),
    "index.csv": table([{"Unnamed: 0": k, **row} for k, row in enumerate(PLAIN)]).encode(),
    "unnamed.csv": table([{"": k, **row} for k, row in enumerate(PLAIN)]).encode(),
    "excel.csv": ("sep=;\n" + table(PLAIN, ";")).encode(),
    "blank-lines-first.csv": ("\n\n" + table(PLAIN, ";")).encode(),
    "decimal-comma.csv": table(PLAIN, ";").replace(".0\n", ",0\n").encode(),
    "old-mac.csv": table(PLAIN).replace("\n", "\r").encode(),
    "rows.csv.gz": gzip.compress(table(PLAIN).encode()),
    "rows.ndjson": "".join(json.dumps(row) + "\n" for row in PLAIN).encode(),
    "bom.jsonl": "".join(json.dumps(row) + "\n" for row in PLAIN).encode("utf-8-sig"),
    "rows.json": json.dumps(PLAIN).encode(),
    "pretty.json": json.dumps(PLAIN, indent=2).encode(),
    "data.json": json.dumps({"data": PLAIN}).encode(),
    "pretty-data.json": json.dumps({"version": "1.0", "data": PLAIN}, indent=2).encode(),
    "rows-inside.json": json.dumps({"rows": PLAIN}, indent=1).encode("utf-8-sig"),
    "packed.csv": gzip.compress(table(PLAIN).encode()),
    "lines.csv": "".join(json.dumps(row) + "\n" for row in PLAIN).encode(),
    "jsonl.json.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in PLAIN).encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_kinds_of_files(name: str) -> None:
    Path(name).write_bytes(FILES[name])
    check(name, "--rubric", "helpfulness")


def test_what_pandas_writes() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(PLAIN).astype({"score": float})
    frame.loc[3, "score"] = None
    turns = frame.assign(messages=[[user(k), said("Apple.")] for k in range(ROWS)])[["messages", "score"]]
    frame.to_csv("plain.csv")
    turns.to_csv("turns.csv", index=False)
    frame.to_json("records.json", orient="records")
    turns.to_json("lines.jsonl", orient="records", lines=True)
    frame.to_json("table.json", orient="table", index=False)
    frame.to_json("columns.json")
    frame.to_json("split.json", orient="split")
    names = ["plain.csv", "turns.csv", "records.json", "lines.jsonl", "table.json", "columns.json", "split.json"]
    if pytest.importorskip("pyarrow"):
        turns.to_parquet("turns.parquet")
        names.append("turns.parquet")
    for name in names:
        for made in ("judged.jsonl", "figures", "data", "mine"):
            if Path(made).exists():
                Path(made).rename(f"{made}-before-{name}")
        check(name, "--rubric", "helpfulness")


def test_the_output_of_judging_goes_in_again() -> None:
    rows = write("rows.jsonl", [SCORED["Feedback-Collection"](k) for k in range(ROWS)])
    for out in ("judged.jsonl", "judged.csv"):
        sre("judge", rows, "-o", out, "--model", "judge.gguf")
        Path(out).rename(f"once-{out}")
        check(f"once-{out}")
        for made in ("judged.jsonl", "figures", "data", "mine"):
            Path(made).rename(f"{made}-of-{out}")


def told(file: str) -> str:
    """The one line that `sre init` says of a file."""
    result = CliRunner().invoke(main, ["init", "mine", file, "--rubric", "helpfulness"])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.xls", "rows.ods", "rows.csv", "rows.csv.zip", "rows.json.zip"])
def test_other_kinds_are_told_in_one_line(name: str) -> None:
    Path(name).write_bytes(b"PK\x03\x04" + bytes(30))
    assert all(part in told(name) for part in (name, "export the sheet as CSV", "unpack"))


COMMANDS = {
    "judge": ("judge", "FILE", "-o", "judged.jsonl", "--model", "judge.gguf"),
    "evaluate": ("evaluate", "FILE", "--model", "judge.gguf", "-o", "figures"),
    "split": ("split", "FILE", "-o", "data", "--test", "0.25"),
    "init": ("init", "mine", "FILE"),
}


def notices_of(command: str, file: str, *more: str) -> str:
    return sre(*(file if word == "FILE" else word for word in COMMANDS[command]), *more).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_all_commands_tell_how_they_read_a_file(command: str) -> None:
    rows = [
        {**row, "criteria": "factualty", "by": "me", "answer": "Apple." if k else " "} for k, row in enumerate(PLAIN)
    ]
    found = notices_of(command, write("rows.jsonl", rows), "--rubric", "helpfulness")
    assert "reading the columns question as instruction, answer as response, criteria as criteria" in found
    for part in (
        "not used: by",
        "did you mean 'factuality'",
        "24 of the first 24 rows bring their own",
        "empty response",
    ):
        assert found.count(part) == 1, (part, found)


@pytest.mark.parametrize("command", COMMANDS)
def test_all_commands_tell_the_rubric_and_the_order_of_pairs(command: str) -> None:
    found = notices_of(command, write("rows.jsonl", [PAIRS["chosen, rejected"](k) for k in range(ROWS)]))
    assert "pairwise rows without criteria are judged by this" in found
    assert "chosen isn't always the first" in found


SKIPPED = {
    "evaluate": "figures/rejects-rows.jsonl",
    "split": "data/rejects-rows.jsonl",
    "init": "mine-rejects-rows.jsonl",
}


@pytest.mark.parametrize("command", SKIPPED)
def test_bad_rows_are_set_aside_where_that_is_asked_for(command: str) -> None:
    file = write("rows.jsonl", [{**row, "score": "good"} if k == 5 else row for k, row in enumerate(PLAIN)])
    arguments = [file if word == "FILE" else word for word in (*COMMANDS[command], "--rubric", "helpfulness")]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, "line 6" in refused.stderr) == (2, True)
    found = notices_of(command, file, "--rubric", "helpfulness", "--skip-bad-rows")
    (rejected,) = Path(SKIPPED[command]).read_text().splitlines()
    assert json.loads(rejected)["line"] == 6
    assert f"1 bad row skipped, written to {SKIPPED[command]}" in found


@pytest.mark.parametrize("command", SKIPPED)
def test_winners_that_may_mean_something_else_are_not_set_aside(command: str) -> None:
    rows = [{**PAIRS["response_a, response_b, winner"](k), "winner": (1, -1)[k % 2]} for k in range(ROWS)]
    file = write("rows.jsonl", rows)
    arguments = [file if word == "FILE" else word for word in (*COMMANDS[command], "--skip-bad-rows")]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, "field 'winner'" in refused.stderr) == (2, True)


def test_a_csv_with_an_open_quote_is_told_in_one_line() -> None:
    Path("rows.csv").write_text('question,answer,score\n"what,a,4\n', encoding="utf-8")
    assert "rows.csv" in told("rows.csv")


def test_rows_written_by_csv_keep_their_line_breaks() -> None:
    with Path("rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer", "score"])
        writer.writeheader()
        writer.writerows({**row, "answer": 'One;\n"two", three.'} for row in PLAIN)
    check("rows.csv", "--rubric", "helpfulness")
