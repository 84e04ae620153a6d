"""Rows of judgements -> a CSV or Parquet file. Knows columns; judges nothing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.storage import atomic, canonical, replacing

TABLES = (".csv", ".parquet")
# Column -> Arrow type; "map:x" is text -> x. The ones in _SOMETIMES are left out where no row has them.
_COLUMNS = {
    "id": "string",
    "task": "string",
    "label": "int64",
    "expected_score": "float64",
    "confidence": "float64",
    "rationale": "string",
    "finish": "string",
    "label_probabilities": "map:float64",
    "truth": "int64",
    "samples": "int64",
    "malformed": "int64",
    "votes": "map:int64",
    "mean": "float64",
    "spread": "float64",
    "consistent": "bool",
    "preference": "float64",
    "first_label": "int64",
    "swapped_label": "int64",
    "error": "string",
    "text": "string",
    "input": "string",
}
_SOMETIMES = {"samples", "malformed", "votes", "mean", "spread", "consistent", "preference"} | {
    "first_label",
    "swapped_label",
}


def need_writer(path: Path) -> None:
    """Raise SreError when a file of this extension can't be written on this machine."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            message = "writing Parquet needs pyarrow: pip install pyarrow, or name a .jsonl or .csv file"
            raise SreError(message, file=path) from None


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write all rows, atomically. In CSV a mapping is a cell of JSON, and what is missing an empty cell."""
    names = [name for name in _COLUMNS if name not in _SOMETIMES or any(name in row for row in rows)]
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, names, rows)
        return
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in rows)


def _cell(value: object) -> object:
    return canonical(value) if isinstance(value, dict | bool) else value


def _write_parquet(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    def arrow_type(name: str) -> Any:
        kind = _COLUMNS[name].removeprefix("map:")
        plain = pyarrow.type_for_alias(kind)
        return plain if kind == _COLUMNS[name] else pyarrow.map_(pyarrow.string(), plain)

    def value(row: dict[str, Any], name: str) -> Any:
        found = row.get(name)
        return list(found.items()) if isinstance(found, dict) else found

    columns = {name: pyarrow.array([value(row, name) for row in rows], arrow_type(name)) for name in names}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)
