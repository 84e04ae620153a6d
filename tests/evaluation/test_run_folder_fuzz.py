"""No damaged file of a run folder gives anything but an SreError. SRE_FUZZ=10000 takes so many examples of each."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.errors import SreError
from recipe.evaluation.evaluate import read_judgements
from recipe.evaluation.tables import stages_table
from recipe.evaluation.verdict_files import _read
from recipe.judge import Judge
from recipe.judge.journal import Journal
from recipe.judge.judge_file import judge_file
from recipe.pipeline.report import _curation_grid, _training_grid
from recipe.pipeline.results import figures_of
from recipe.storage import intact, read_jsonl, read_markers
from tests.scripted import ScriptedGenerator

fuzz = settings(
    max_examples=int(os.environ.get("SRE_FUZZ", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["seed", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key or index) in JSON content."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from places(value)


def damaged(text: str, seed: int, value: Any) -> bytes:
    """A text of JSON lines, or of one JSON object: a value of it replaced or lost, or bytes of it."""
    draw = random.Random(seed)
    if draw.random() < 0.2:
        data = bytearray(text.encode())
        at = draw.randrange(len(data) + 1)
        data[at : at + draw.randrange(40)] = draw.choice([b"", b"\0", b"\xff", b"{", b"[" * 5000, b'"'])
        return bytes(data)
    whole = text.startswith("{\n")
    lines = [json.loads(text)] if whole else [json.loads(line) for line in text.splitlines()] or [{}]
    at = draw.randrange(len(lines))
    inside = [*places(lines[at])]
    if not inside or draw.random() < 0.1:
        lines[at] = value
    else:
        holder, key = draw.choice(inside)
        if draw.random() < 0.3:
            del holder[key]
        else:
            holder[key] = value
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def read_everything(folder: Path) -> None:
    """What `sre status` and `sre report` read of a run."""
    with suppress(SreError):
        markers = {marker["stage"]: marker for marker in read_markers(folder)}
        stages_table(markers)
        with intact(folder):
            _training_grid(markers)
            _curation_grid(2, markers)
    context = SimpleNamespace(path=folder, judges=("seed", "j1"))
    readers: list[Callable[[], Any]] = [lambda: read_judgements(folder, "j1")]
    readers.append(lambda: figures_of(context))  # type: ignore[arg-type]
    for read in readers:
        with suppress(SreError):
            read()


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, str]]:
    """A copy of a finished run, and its files of JSON."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("damaged") / "run")
    files = [path for path in sorted(folder.rglob("*.json*")) if {"iter-1", "j1", "seed"} & set(path.parts)]
    return folder, {path: path.read_text() for path in files}


@fuzz
@given(st.integers(0, 2**32), values)
def test_damaged_run_folders(run: tuple[Path, dict[Path, str]], seed: int, value: Any) -> None:
    folder, files = run
    path = random.Random(seed).choice([*files])
    try:
        path.write_bytes(damaged(files[path], seed, value))
        read_everything(folder)
        if path.name == "judgements.jsonl":
            with suppress(SreError):
                _read(path)
    finally:
        path.write_text(files[path])


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, str]]:
    """Outputs of `sre judge`, and their files of JSON."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [{"id": f"r{k}", "question": "q", "answer": f"a{k}", "criteria": "c"} for k in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files: list[Path] = []
    for out in OUTPUTS:
        judge_file(Judge(ScriptedGenerator(), name="scripted"), folder / "rows.jsonl", folder / out)
        journal = Journal(folder / out, resume=True)
        files += [journal.path, journal.sidecar]
    return folder, {path: path.read_text() for path in files}


OUTPUTS = ("out.jsonl", "out.csv", "out.parquet")


@fuzz
@given(st.integers(0, 2**32), values)
def test_damaged_outputs_are_resumed_or_refused(judged: tuple[Path, dict[Path, str]], seed: int, value: Any) -> None:
    folder, files = judged
    path = random.Random(seed).choice([*files])
    out = next(name for name in OUTPUTS if path.name.startswith(name))
    try:
        path.write_bytes(damaged(files[path], seed, value))
        with suppress(SreError), Judge(ScriptedGenerator(), name="scripted") as judge:
            summary = judge_file(judge, folder / "rows.jsonl", folder / out, resume=True)
            assert "labels" in str(summary)
            journal = folder / (out if out == "out.jsonl" else f"{out}.jsonl")
            assert {"r0", "r1", "r2"} <= {str(row["id"]) for row in read_jsonl(journal)}
    finally:
        for file, text in files.items():
            file.write_text(text)
