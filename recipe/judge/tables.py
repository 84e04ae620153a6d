"""Rows of judgements -> a CSV or Parquet file. Knows columns; judges nothing."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipe.data.benchmark_formats import ORDERS, RESULTS, SAMPLES
from recipe.errors import SreError
from recipe.storage import atomic, canonical, replacing

TABLES = (".csv", ".parquet")
_ALWAYS = [name for name in RESULTS if name not in ("truth_note", "rubric")]
# Column -> Arrow type, where the values alone don't tell it; "map:x" is text -> x.
_TYPES = {
    "label": "int64",
    "expected_score": "float64",
    "confidence": "float64",
    "label_probabilities": "map:float64",
    "truth": "int64",
    "votes": "map:int64",
    "mean": "float64",
    "spread": "float64",
    "consistent": "bool",
    "preference": "float64",
}
_BATCH = 1024


class Kinds:
    """The columns that rows have, and the kind of value that each holds: int64, float64, bool or string."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            before = self._found.setdefault(name, "")
            kind = "" if value is None else _KIND.get(type(value), "string")
            if kind == "int64" and not -(2**63) <= value < 2**63:
                kind = "string"
            if kind and kind != before:
                numbers = {before, kind} == {"int64", "float64"}
                self._found[name] = kind if not before else "float64" if numbers else "string"

    def columns(self) -> dict[str, str]:
        """Column -> Arrow type: the id, the input's columns, then those of the judgement."""
        ours = [*_ALWAYS, *(name for name in (*RESULTS, *SAMPLES, *ORDERS) if name in self._found)]
        names = dict.fromkeys(["id", *(name for name in self._found if name not in ours), *ours])
        return {name: _TYPES.get(name, self._found.get(name) or "string") for name in names}


_KIND = {int: "int64", float: "float64", bool: "bool"}


def need_writer(path: Path) -> None:
    """Raise SreError when a file of this extension can't be written on this machine."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            message = "writing Parquet needs pyarrow: pip install pyarrow, or name a .jsonl or .csv file"
            raise SreError(message, file=path) from None


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], kinds: Kinds) -> None:
    """Write all rows, atomically. In CSV a list or mapping is a cell of JSON, and what is missing an empty cell."""
    columns = kinds.columns()
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, columns, rows)
        return
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: object) -> object:
    return canonical(value) if isinstance(value, dict | list | bool) else value


def _write_parquet(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    def arrow_type(kind: str) -> Any:
        plain = pyarrow.type_for_alias(kind.removeprefix("map:"))
        return pyarrow.map_(pyarrow.string(), plain) if kind.startswith("map:") else plain

    def value(found: Any, kind: str) -> Any:
        if kind.startswith("map:"):
            return list(found.items()) if found is not None else None
        if found is None or isinstance(found, str):
            return found
        return float(found) if kind == "float64" else canonical(found) if kind == "string" else found

    schema = pyarrow.schema([(name, arrow_type(kind)) for name, kind in columns.items()])
    stream = iter(rows)
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(itertools.islice(stream, _BATCH)):
            cells = [
                pyarrow.array([value(row.get(name), kind) for row in batch], schema.field(name).type)
                for name, kind in columns.items()
            ]
            writer.write_table(pyarrow.table(cells, schema=schema))
