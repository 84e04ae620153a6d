"""Rows of judgements -> a CSV or Parquet file. In both, a list or mapping is a cell of JSON text."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recipe.data.benchmark_formats import ORDERS, RESULTS, SAMPLES
from recipe.errors import SreError
from recipe.storage import atomic, canonical, replacing

TABLES = (".csv", ".parquet")
_ALWAYS = [name for name in RESULTS if name not in ("truth_note", "rubric")]
# Of columns that may be empty in all rows, so that values don't tell the type.
_TYPES = {
    **dict.fromkeys(("label", "truth"), "int64"),
    **dict.fromkeys(("expected_score", "confidence", "mean", "spread", "preference"), "float64"),
    "consistent": "bool",
}
_BATCH = 1024


def need_writer(path: Path) -> None:
    """Raise SreError when a file of this extension can't be written on this machine."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            message = "writing Parquet needs pyarrow: pip install pyarrow, or name a .jsonl or .csv file"
            raise SreError(message, file=path) from None


def write_table(path: Path, read: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Write the rows that `read` gives, atomically. It is called twice, and its rows are not held in memory."""
    columns = _columns(read())
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, columns, read())
        return
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(row.get(name)) for name in columns] for row in read())


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Column -> Arrow type: the id, the input's columns, then those of the judgement."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            fits = not isinstance(value, int) or -(2**63) <= value < 2**63
            kinds.setdefault(name, set()).add(type(value) if fits else str)
    ours = [*_ALWAYS, *(name for name in (*RESULTS, *SAMPLES, *ORDERS) if name in kinds)]
    names = dict.fromkeys(["id", *(name for name in kinds if name not in ours), *ours])
    return {name: _TYPES.get(name) or _arrow_type(kinds.get(name, set())) for name in names}


def _arrow_type(kinds: set[type]) -> str:
    kinds = kinds - {type(None)}
    if kinds and kinds <= {int, float}:
        return "float64" if float in kinds else "int64"
    return "bool" if kinds == {bool} else "string"


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else canonical(value)


def _write_parquet(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])
    stream = iter(rows)
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(itertools.islice(stream, _BATCH)):
            cells = {name: [row.get(name) for row in batch] for name in columns}
            cells |= {name: list(map(_text, cells[name])) for name, kind in columns.items() if kind == "string"}
            writer.write_table(pyarrow.table(cells, schema=schema))
