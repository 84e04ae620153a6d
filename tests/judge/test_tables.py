"""Rows of judgements as CSV and Parquet: what a cell holds, and that a file is whole or not there."""

from __future__ import annotations

import csv
import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.judge.journal import need_writer
from recipe.judge.journal import write_table as write

ROW: dict[str, Any] = {
    "id": "a",
    "task": "pointwise",
    "label": 4,
    "expected_score": 4.25,
    "confidence": 0.5,
    "rationale": 'Two lines,\nand "quotes".',
    "finish": "stop",
    "label_probabilities": {"4": 0.75, "5": 0.25},
    "input": "8f",
}
FAILED = {**ROW, "id": "b", "task": None, "label": None, "expected_score": None, "finish": "error", "error": "too long"}
SAMPLED = {**ROW, "samples": 3, "malformed": 1, "votes": {"4": 2}, "mean": 4.0, "spread": 0.0}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, lambda: rows)


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_json_for_mappings_and_nothing_for_what_is_missing(tmp_path: Path) -> None:
    write_table(tmp_path / "out.csv", [ROW, FAILED])
    one, two = cells(tmp_path / "out.csv")
    assert (one["label"], one["rationale"], one["truth"], one["error"]) == ("4", ROW["rationale"], "", "")
    assert one["label_probabilities"] == '{"4":0.75,"5":0.25}'
    assert (two["label"], two["finish"], two["error"]) == ("", "error", "too long")
    assert "votes" not in one


def test_parquet_keeps_types_and_missing_values(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "out.parquet", [SAMPLED, FAILED])
    one, two = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (one["label"], one["expected_score"], one["samples"]) == (4, 4.25, 3)
    assert (one["label_probabilities"], one["votes"]) == ('{"4":0.75,"5":0.25}', '{"4":2}')
    assert (two["label"], two["task"], two["votes"], two["error"]) == (None, None, None, "too long")
    assert "consistent" not in one


def test_both_orders_have_their_columns(tmp_path: Path) -> None:
    row = {**ROW, "consistent": False, "preference": 0.4, "first_label": 2, "swapped_label": 1}
    write_table(tmp_path / "out.csv", [row])
    (found,) = cells(tmp_path / "out.csv")
    assert [found[name] for name in ("consistent", "preference", "first_label", "swapped_label")] == [
        "false",
        "0.4",
        "2",
        "1",
    ]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("pyarrow")
    write_table(tmp_path / name, [ROW])
    before = (tmp_path / name).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SreError, match="no space left"):
        write_table(tmp_path / name, [ROW, FAILED])
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SreError, match="pip install pyarrow"):
        need_writer(Path("out.parquet"))
    need_writer(Path("out.csv"))
