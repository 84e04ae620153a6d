"""No file makes a reader raise anything but an SreError. SRE_FUZZ=10000 takes so many examples of each test."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.data.columns import ALIASES
from recipe.data.examples import read_examples, read_rows
from recipe.data.records import Example, Rubric
from recipe.errors import SreError

EXAMPLES = int(os.environ.get("SRE_FUZZ", "200"))
RUBRICS = {"pointwise": Rubric("Short?"), "pairwise": Rubric("Shorter?")}
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ours = [
    "responses",
    "task",
    "finish",
    "label_probabilities",
    "input_hash",
    "truth",
    "response_0",
    "response_1",
    "votes",
]
names = st.sampled_from(
    [*sorted({alias for aliases in ALIASES.values() for alias in aliases}), *ours, "score1_description", "generator"]
)
odd_texts = ["[{'role': 'user', 'content': 'x'}]", '[{"role": "user", "content": "x"}]', "[", "{", '{"criteria": 1}']
odd_texts += ["Score 1: a\nScore 2: b", "\ud800", "\0", "0", "4.0", "nan", "A>B", "tie"]
texts = st.text(max_size=30) | st.sampled_from([*odd_texts, "pointwise", "pairwise"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
turn = st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "type", "tool_calls"]), plain | st.just("user"), max_size=4
)
values = st.recursive(
    plain | turn,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=3),
    max_leaves=8,
)
rows = st.dictionaries(names | texts, values, max_size=7)


def check(path: Path) -> None:
    """Every row becomes an example that can be written, or an error; or the file is one error."""
    for strict in (False, True):
        found = []
        with contextlib.suppress(SreError):
            found = list(read_rows(path, rubrics=RUBRICS, strict=strict))
        for row in found:
            if row.example:
                again = json.loads(json.dumps(row.example.to_json(), allow_nan=False).encode())
                assert Example.from_json(again) == row.example
            elif row.error:
                assert row.error.file == str(path)
                assert len(str(row.error)) < len(str(path)) + 4000
        assert strict or len({row.id for row in found}) == len(found)
    with contextlib.suppress(SreError):
        read_examples(path, rubrics=RUBRICS)


@fuzz
@given(st.lists(rows, max_size=4))
def test_any_json_rows(tmp_path: Path, content: list[Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    check(path)


@fuzz
@given(st.lists(names | texts, max_size=5), st.lists(st.lists(texts, max_size=5), max_size=3), st.sampled_from(",;\t|"))
def test_any_table(tmp_path: Path, header: list[str], content: list[list[str]], separator: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([header, *content])
    path = tmp_path / "rows.csv"
    path.write_bytes(text.getvalue().encode(errors="surrogatepass"))
    check(path)


GOOD = [
    {"id": "a", "question": "q", "answer": "a", "criteria": "c", "score": "4.0"},
    {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b", "subset": "s"},
    {"task": "pairwise", "conversation": [{"role": "user", "content": "q"}], "responses": ["a", "b"], "label": 1},
]


def good_bytes(kind: str) -> bytes:
    if kind.startswith("rows.csv"):
        data = "question;answer;criteria\n" + "".join(f'"Wh\u00e9re; {k}";"a\nb";c\n' for k in range(3))
    else:
        data = json.dumps(GOOD, indent=2) if kind == "rows.json" else "".join(json.dumps(row) + "\n" for row in GOOD)
    found = data.encode("utf-16" if "wide" in kind else "utf-8")
    return gzip.compress(found, mtime=0) if kind.endswith(".gz") else found


KINDS = (
    "rows.jsonl",
    "rows.json",
    "rows.csv",
    "rows.wide.jsonl",
    "rows.csv.gz",
    "rows.wide.tsv",
    "rows.jsonl.gz",
    "rows.ndjson",
)


@fuzz
@given(st.sampled_from(KINDS), st.integers(0, 2**32), st.integers(0, 6))
def test_damaged_files(tmp_path: Path, kind: str, seed: int, damages: int) -> None:
    draw, data = random.Random(seed), bytearray(good_bytes(kind))
    for _ in range(damages):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0:
                del data[at : at + draw.randrange(1, 40)]
            case 1:
                data[at:at] = draw.randbytes(draw.randrange(1, 8))
            case 2:
                data[at:at] = draw.choice(
                    [b"\n", b'"', b"[", b"{", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b","]
                )
            case _:
                data[at : at + 1] = bytes([draw.randrange(256)])
    path = tmp_path / kind
    path.write_bytes(data)
    check(path)


@fuzz
@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / kind).write_bytes(data)
    check(tmp_path / kind)


@settings(
    max_examples=max(EXAMPLES // 4, 1), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32), st.booleans())
def test_parquet_of_any_columns_and_damaged(tmp_path: Path, seed: int, damaged: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    draw = random.Random(seed)
    columns = [
        pa.array(["a", "b", None]),
        pa.array([1.0, float("nan"), None]),
        pa.array([["x"], [], None]),
        pa.array([[{"role": "user", "content": "q"}], None, []]),
        pa.array([{"criteria": "c", "score1_description": "x"}, None, {"criteria": None, "score1_description": None}]),
        pa.array([b"\xff", b"", None]),
        pa.array([datetime.timedelta(days=1), None, None]),
        pa.array([2**62, -(2**62), None]).cast(pa.timestamp("ns")),
        pa.array(["1.50", "4.00", None]).cast(pa.decimal128(5, 2)),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([True, False, None]),
    ]
    chosen = draw.sample(sorted({alias for aliases in ALIASES.values() for alias in aliases}), draw.randrange(1, 8))
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: draw.choice(columns) for name in chosen}), path)
    if damaged:
        data = bytearray(path.read_bytes())
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
    check(path)
