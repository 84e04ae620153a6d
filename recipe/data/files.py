"""Files, folders and hub data sets -> raw rows with their place. Knows formats; knows no column's meaning.

A reader yields one `RawRow` per row, and goes on after a row it can't read: `problem` then says why, and
`row` holds what was found. What makes a whole file unreadable is an SreError.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.config import SEED_DATA
from recipe.data.records import TASKS, Task
from recipe.errors import SreError
from recipe.system import resource

# Source -> the end of the names of its rubrics. A model of 135 million parameters learns the counted ones alone.
SEED_PARTS = {SEED_DATA: "", f"{SEED_DATA}:counted": "_given"}
STDIN = "-"
SEED_SPLITS = ("train", "dev", "test")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


@dataclass(frozen=True)
class RawRow:
    """One row as found. `line`, from 1: the line of a JSONL file, the row (no header) of other sources."""

    file: str
    stem: str
    line: int
    row: Any
    problem: str = ""

    def error(self, message: str, field: str | None = None) -> SreError:
        return SreError(message, file=self.file, line=self.line, field=field)


def open_rows(source: str | Path, task: Task | None, split: str, columns: Set[str]) -> Iterator[RawRow]:
    """The rows of `source` (see `sources.read_examples`), of whose columns only `columns` need be read.

    Raises SreError, at the latest at the first row, when nothing can be read there.
    """
    name = str(source)
    path = Path(source)
    if name == STDIN:
        return _jsonl(sys.stdin.buffer, "standard input", "stdin")
    if name in SEED_PARTS:
        if split not in SEED_SPLITS:
            raise SreError(f"split {split!r} of {SEED_DATA}: expected one of {', '.join(SEED_SPLITS)}")
        try:
            path = resource("data")
        except FileNotFoundError as error:
            raise SreError(str(error)) from None
    if path.is_dir():
        files = _files_of(path, task, split)
        stems = Counter(file.stem for file in files)
        names = {file: f"{file.parent.name}-{file.stem}" if stems[file.stem] > 1 else file.stem for file in files}
        rows = (replace(raw, stem=names[file]) for file in files for raw in _read(file, columns))
        end = SEED_PARTS.get(name, "")
        return (raw for raw in rows if raw.row["aspect"].endswith(end)) if end else rows
    if path.exists():
        return _read(path, columns)
    if is_hub_name(name):
        return _read_hub(name, split, columns)
    expected = f"a {', '.join(_READERS)} file, a folder, a hub name or {SEED_DATA!r}"
    raise SreError(f"no such file or folder; expected {expected}", file=source)


def _files_of(folder: Path, task: Task | None, split: str) -> list[Path]:
    """<split>.jsonl, or shards <split>-*.parquet (also in data/), or in <split>/ the tasks' files, else all."""

    def readable(where: Path, pattern: str) -> list[Path]:
        return sorted(p for p in where.glob(pattern) if p.suffix.lower() in _READERS and p.is_file())

    inside = folder / split
    places = (
        [*readable(folder, f"{split}.*"), *readable(folder, f"{split}-*")],
        [file for name in ((task,) if task else TASKS) for file in readable(inside, f"{name}.*")],
        [file for file in readable(inside, "*") if not task or file.stem not in TASKS],
        readable(folder / "data", f"{split}-*"),
        readable(folder / "data", f"*/{split}.*"),
    )
    for files in places:
        if files:
            return files
    expected = f"{split}.jsonl, .csv, .parquet or a folder {split}"
    raise SreError(f"no file of split {split!r} here; expected {expected}", file=folder)


def _read(path: Path, columns: Set[str]) -> Iterator[RawRow]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SreError(f"unknown extension {path.suffix!r}; expected {', '.join(_READERS)}", file=path)
    try:
        yield from reader(path, columns)
    except OSError as error:
        raise SreError(f"can't be read: {error.strerror or error}", file=path) from None


def _read_jsonl(path: Path, columns: Set[str]) -> Iterator[RawRow]:
    # Bytes: the iterator of a text file would end all reading at the first invalid byte.
    with path.open("rb") as lines:
        yield from _jsonl(lines, str(path), path.stem)


def _jsonl(lines: Iterable[bytes], file: str, stem: str) -> Iterator[RawRow]:
    for line, data in enumerate(lines, 1):
        if line == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if not data.strip():
            continue
        row: Any = data.decode(errors="replace").rstrip("\r\n")
        problem = ""
        try:
            row = json.loads(data.decode())
        except UnicodeDecodeError as error:
            problem = f"invalid UTF-8 at byte {error.start + 1} of the line"
        except (ValueError, RecursionError) as error:
            problem = f"expected one JSON object; invalid JSON: {error}"
        yield RawRow(file, stem, line, row, problem)


def _read_csv(path: Path, columns: Set[str]) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long response
    # surrogateescape keeps an invalid byte in its cell, where the check of that field finds it.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        rows = csv.reader(handle, strict=True)
        try:
            header = next(rows, [])
            if header and (len(set(header)) < len(header) or not columns & set(header)):
                message = f"expected a header of different column names such as orig_criteria, not {header}"
                raise SreError(message if len(message) < 200 else f"{message[:197]}...", file=path)
            for line, cells in enumerate((cells for cells in rows if cells), 1):
                row: Any = cells
                problem = f"expected {len(header)} cells as in the header, not {len(cells)}"
                if len(cells) == len(header):
                    row, problem = dict(zip(header, cells, strict=True)), ""
                yield RawRow(str(path), path.stem, line, row, problem)
        except csv.Error as error:
            raise SreError(f"invalid CSV at line {rows.line_num} of the text: {error}", file=path) from None


def _read_parquet(path: Path, columns: Set[str]) -> Iterator[RawRow]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        message = "reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl or .csv file"
        raise SreError(message, file=path) from None
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for row in batch.to_pylist():
                    line += 1
                    yield RawRow(str(path), path.stem, line, row)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise SreError(f"no readable Parquet after row {line}: {error}", file=path) from None


def _read_json(path: Path, columns: Set[str]) -> Iterator[RawRow]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SreError(f"expected a JSON list of objects; invalid JSON: {error}", file=path) from None
    if not isinstance(rows, list):
        raise SreError(f"expected a JSON list of objects, not {type(rows).__name__}", file=path)
    for line, row in enumerate(rows, 1):
        yield RawRow(str(path), path.stem, line, row)


_READERS: dict[str, Callable[[Path, Set[str]], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
}


def has_split(source: str, task: Task, split: str) -> bool:
    """Whether a source has the rows of a split apart. A single file has training rows alone."""
    path = Path(source)
    if source in SEED_PARTS:
        return split in SEED_SPLITS
    if path.is_dir():
        try:
            return bool(_files_of(path, task, split))
        except SreError:
            return False
    return is_hub_name(source) and split in _hub_splits(source)


def is_hub_name(source: str) -> bool:
    """Whether a source is read from the Hugging Face hub."""
    path = Path(source)
    return not path.exists() and path.suffix.lower() not in _READERS and bool(_HUB_NAME.fullmatch(source))


@functools.cache
def _hub_splits(name: str) -> tuple[str, ...]:
    with _from_hub(name, "a list of its splits") as datasets:
        repository, *config = name.split(":")
        return tuple(datasets.get_dataset_split_names(repository, *config))


def _read_hub(name: str, split: str, columns: Set[str]) -> Iterator[RawRow]:
    with _from_hub(name, f"split {split!r}") as datasets:
        repository, *config = name.split(":")
        table = datasets.load_dataset(repository, *config, split=split)
        table = table.select_columns([column for column in table.column_names if column in columns])
    for line, row in enumerate(table, 1):
        yield RawRow(name, name.rpartition("/")[2].partition(":")[0], line, row)


@contextlib.contextmanager
def _from_hub(name: str, what: str) -> Iterator[Any]:
    """The module `datasets`. Raises SreError, saying what to do, where it is missing or what it is asked for fails."""
    try:
        import datasets
    except ImportError:
        message = f"a hub name needs datasets: pip install datasets, or give a local {_names()} file"
        raise SreError(message, file=name) from None
    try:
        yield datasets
    except Exception as error:  # whatever the hub's client raises, the ways out are the same
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise SreError(
            f"no such folder, and {what} can't be loaded from the hub ({reason}); check the name and the split, go "
            f"online, or give a local {_names()} file",
            file=name,
        ) from error


def _names() -> str:
    return ", ".join(_READERS)
