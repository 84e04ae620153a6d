"""Files, folders and hub data sets -> raw rows with their place. Knows formats; knows no column's meaning.

Reading goes on after a row that can't be read: `problem` of its `RawRow` says why. What makes a whole file unreadable
is an SreError.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.config import SEED_DATA
from recipe.data.records import TASKS, Task
from recipe.data.values import writable
from recipe.errors import SreError
from recipe.system import resource

# Source -> the end of the names of its rubrics. A model of 135 million parameters learns the counted ones alone.
SEED_PARTS = {SEED_DATA: "", f"{SEED_DATA}:counted": "_given"}
STDIN = "-"
SEED_SPLITS = ("train", "dev", "test")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_COUNTED = 2**28
"""Bytes of the longest file whose rows are counted before they are read."""

Found = tuple[int, Any, str]
"""What a reader yields: the line, the row, and why it could not be read."""


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


def open_rows(source: str | Path, task: Task | None, split: str) -> Iterator[RawRow]:
    """The rows of `source` (see `examples.read_rows`).

    Raises SreError, at the latest at the first row, when nothing can be read there.
    """
    name = str(source)
    if name == STDIN:
        stdin: Any = sys.stdin.buffer
        buffered = stdin if hasattr(stdin, "peek") else io.BufferedReader(stdin)
        return _placed(_json_lines(buffered), "standard input", "stdin")
    if is_hub_name(name):
        return _read_hub(name, split)
    files = source_files(source, task, split)
    if Path(source).is_file():
        return _read(files[0], _stem(files[0]))
    stems = Counter(map(_stem, files))
    names = {file: f"{file.parent.name}-{_stem(file)}" if stems[_stem(file)] > 1 else _stem(file) for file in files}
    rows = (raw for file in files for raw in _read(file, names[file]))
    end = SEED_PARTS.get(name, "")
    return (raw for raw in rows if raw.row["aspect"].endswith(end)) if end else rows


def source_files(source: str | Path, task: Task | None, split: str) -> list[Path]:
    """The files that `open_rows` reads; none for standard input and hub names. Raises SreError where there are none."""
    name, path = str(source), Path(source)
    if name == STDIN or is_hub_name(name):
        return []
    if name in SEED_PARTS:
        if split not in SEED_SPLITS:
            raise SreError(f"split {split!r} of {SEED_DATA}: expected one of {', '.join(SEED_SPLITS)}")
        try:
            path = resource("data")
        except FileNotFoundError as error:
            raise SreError(str(error)) from None
    if path.is_dir():
        return _files_of(path, task, split)
    if path.exists():
        return [path]
    expected = f"a {_EXTENSIONS} file, a folder, a hub name or {SEED_DATA!r}"
    raise SreError(f"no such file or folder; expected {expected}", file=source)


def count_rows(source: str | Path, task: Task | None, split: str) -> int | None:
    """How many rows `source` has, where that is known at little cost."""
    files = source_files(source, task, split)
    if not files or any(p.suffix not in (".jsonl", ".ndjson") or p.stat().st_size > _COUNTED for p in files):
        return None
    total = 0
    for path in files:
        with path.open("rb") as file:
            total += sum(bool(line.strip()) for line in file)
    return total


def _files_of(folder: Path, task: Task | None, split: str) -> list[Path]:
    """<split>.jsonl, or shards <split>-*.parquet (also in data/), or in <split>/ the tasks' files, else all."""

    def readable(where: Path, pattern: str) -> list[Path]:
        return sorted(p for p in where.glob(pattern) if _suffix(p) in _READERS and p.is_file())

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
    there = sorted({p.name for p in folder.iterdir() if p.is_dir() or _suffix(p) in _READERS})
    found = f"; found {', '.join(there[:8])}" if there else ""
    raise SreError(f"no file of split {split!r} here; expected {split}.jsonl or a folder {split}{found}", file=folder)


def _suffix(path: Path) -> str:
    """The extension that says the format: ".csv" of rows.csv.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _stem(path: Path) -> str:
    return str(writable(Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem))


def _read(path: Path, stem: str) -> Iterator[RawRow]:
    reader = _READERS.get(_suffix(path))
    if reader is None:
        raise SreError(f"unknown extension {path.suffix!r}; expected {_EXTENSIONS}, or .gz of one", file=path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield from _placed(reader(file), str(path), stem)
    except (OSError, EOFError, zlib.error) as error:
        raise SreError(f"can't be read: {getattr(error, 'strerror', None) or error}", file=path) from None


def _placed(found: Iterable[Found], name: str, stem: str) -> Iterator[RawRow]:
    """The rows, and the reader's errors, with the name of the file."""
    try:
        for line, row, problem in found:
            yield RawRow(name, stem, line, row, problem)
    except SreError as error:
        raise SreError(error.message, file=name) from None


def _json_lines(file: Any) -> Iterator[Found]:
    """The rows of JSON lines; or of one JSON list, which other programs write under the same names."""
    encoding = json.detect_encoding(file.peek(4)[:4])
    # As bytes where possible: decoding a file would end at the first invalid byte.
    lines: Iterable[bytes] = file
    if not encoding.startswith("utf-8"):
        lines = (line.encode() for line in io.TextIOWrapper(file, encoding, errors="replace", newline="\n"))
    first = True
    numbered = enumerate(lines, 1)
    for line, data in numbered:
        data = data.removeprefix(codecs.BOM_UTF8) if line == 1 else data
        if first and (data.strip() == b"[" or data.lstrip().startswith(b"[{")):
            whole = b"".join([data, *(more for _, more in numbered)])
            try:
                rows = json.loads(whole)
            except (ValueError, RecursionError) as error:
                raise SreError(f"expected a JSON list of objects; invalid JSON: {error}") from None
            yield from _json_list(rows)
        elif data.strip():
            first = False
            yield (line, *_json_row(data))


def _json_row(data: bytes) -> tuple[Any, str]:
    try:
        return json.loads(data.decode()), ""
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 at byte {error.start + 1} of the line"
    except (ValueError, RecursionError) as error:
        problem = f"expected one JSON object; invalid JSON: {error}"
    return data.decode(errors="replace").rstrip("\r\n"), problem


def _json_list(rows: Any) -> Iterator[Found]:
    """The rows of a list, or of an object with one list in it, such as {"data": [...]}."""
    lists = [value for value in rows.values() if isinstance(value, list)] if isinstance(rows, dict) else [rows]
    if len(lists) != 1 or not isinstance(lists[0], list):
        hint = "; in pandas: to_json(orient='records', lines=True)" if isinstance(rows, dict) else ""
        raise SreError(f"expected a JSON list of objects, not {type(rows).__name__}{hint}")
    for line, row in enumerate(lists[0], 1):
        yield line, row, ""


def _read_json(file: Any) -> Iterator[Found]:
    """A JSON list; or, as many data sets have it, JSON lines."""
    data = file.read()
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        yield from _json_lines(io.BufferedReader(io.BytesIO(data)))
    else:
        yield from _json_list(rows)


def _read_csv(file: Any) -> Iterator[Found]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long response
    encoding = json.detect_encoding(file.peek(4)[:4])
    # surrogateescape keeps an invalid byte in its cell, where the check of that column finds it.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    text = io.TextIOWrapper(file, encoding, errors=errors, newline="")
    first = text.readline()
    # What stands outside quotes oftenest in the header separates cells.
    bare = re.sub(r'"[^"]*"', "", first)
    rows = csv.reader(
        itertools.chain([first] if first else [], text), delimiter=max(",;\t|", key=bare.count), strict=True
    )
    try:
        header = [name.strip() for name in next(rows, [])]
        twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
        if twice:
            raise SreError(f"two columns are called {twice[0]!r}; names must differ")
        for line, cells in enumerate((cells for cells in rows if cells), 1):
            if len(cells) == len(header):
                yield line, {name: cell for name, cell in zip(header, cells, strict=True) if name}, ""
            else:
                yield line, cells, f"expected {len(header)} cells as in the header, not {len(cells)}"
    except csv.Error as error:
        raise SreError(f"invalid CSV at line {rows.line_num} of the text: {error}") from None


def _read_parquet(file: Any) -> Iterator[Found]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise SreError("reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl or .csv file") from None
    line = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            for row in _cells(batch):
                line += 1
                yield line, row, ""
    except (ArrowException, ValueError, OSError) as error:
        raise SreError(f"no readable Parquet after row {line}: {error}") from None


def _cells(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow batch."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, ArithmeticError):
        for index in range(batch.num_rows):
            yield {name: _cell(batch.column(name)[index]) for name in batch.schema.names}


def _cell(scalar: Any) -> Any:
    """The value; an error in place of one that Python can't hold, e.g. a date in the year 20000."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, ArithmeticError) as error:
        return ValueError(f"unreadable: {error}")


_READERS: dict[str, Callable[[Any], Iterator[Found]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
_EXTENSIONS = ", ".join(_READERS)


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
    return not path.exists() and _suffix(path) not in _READERS and bool(_HUB_NAME.fullmatch(source))


@functools.cache
def _hub_splits(name: str) -> tuple[str, ...]:
    with _from_hub(name, "a list of its splits") as datasets:
        return tuple(datasets.get_dataset_split_names(*name.split(":")))


def _read_hub(name: str, split: str) -> Iterator[RawRow]:
    with _from_hub(name, f"split {split!r}") as datasets:
        table = datasets.load_dataset(*name.split(":"), split=split)
        # As Arrow: pictures and sounds stay bytes, which takes no further library.
        batches = table.with_format("arrow").iter(batch_size=256)
        rows = (row for batch in batches for row in _cells(batch))
        stem = name.partition(":")[0].rpartition("/")[2]
        yield from (RawRow(name, stem, line, row) for line, row in enumerate(rows, 1))


@contextlib.contextmanager
def _from_hub(name: str, what: str) -> Iterator[Any]:
    """The module `datasets`. Raises SreError, saying what to do, where it is missing or what it is asked for fails."""
    try:
        import datasets
    except ImportError:
        message = f"a hub name needs datasets: pip install datasets, or give a local {_EXTENSIONS} file"
        raise SreError(message, file=name) from None
    try:
        yield datasets
    except Exception as error:  # whatever the hub's client raises, the ways out are the same
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise SreError(
            f"no such folder, and {what} can't be loaded from the hub ({reason}); check the name and the split, go "
            f"online, or give a local {_EXTENSIONS} file",
            file=name,
        ) from error
