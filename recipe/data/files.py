"""Files, folders and hub data sets -> the rows in them. Knows formats; knows no column's meaning.

Reading goes on after a row that can't be read: its `problem` says why. A file that can't be read is an SreError.
"""

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
from recipe.data.columns import NO_HEADER, Row, looks_like_values
from recipe.data.records import TASKS, Task
from recipe.data.values import writable
from recipe.errors import SreError, plural
from recipe.system import read_table, resource

# Source -> the end of the names of its rubrics. A model of 135 million parameters learns the counted ones alone.
SEED_PARTS = {SEED_DATA: "", f"{SEED_DATA}:counted": "_given"}
STDIN = "-"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_DEEPEST = 100  # levels of lists and objects in one row
_FOREIGN = {
    mark.encode("latin-1").lower(): kind for kind, marks in read_table(__file__)["foreign"].items() for mark in marks
}
"""What a file begins with, in lower case, that holds no rows -> what it is, and what to do with it."""
_JSON_LIST = re.compile(r"\s*\[\s*(?:\{|$)")
"""How the first line of a JSON list of objects begins."""

Found = tuple[int, Any, str]  # what a reader yields: the line, the row, and why it could not be read


@dataclass(frozen=True)
class Source:
    """Where rows are.

    name: a file, a folder, a hub name, "seed-data" or "-", which is standard input. task: of a folder with a file for
    each task, that task's alone. split: which files of a folder, or which split of a hub data set.
    """

    name: str
    task: Task | None
    split: str

    def rows(self) -> Iterator[Row]:
        """Raises SreError, at the latest at the first row, when nothing can be read there."""
        name = self.name
        if name == STDIN:
            stdin: Any = sys.stdin.buffer
            buffered = stdin if hasattr(stdin, "peek") else io.BufferedReader(stdin)
            return _placed(_read_json(buffered), "standard input", "stdin")
        if is_hub_name(name):
            return _placed(_read_hub(name, self.split), name, name.partition(":")[0].rpartition("/")[2])
        files = self.files()
        stems = Counter(_plain(path).stem for path in files)
        rows = (row for path in files for row in _read(path, alone=stems[_plain(path).stem] == 1))
        end = SEED_PARTS.get(name, "")
        return (row for row in rows if row.cells["aspect"].endswith(end)) if end else rows

    def files(self) -> list[Path]:
        """The files that are read; none for standard input and hub names. Raises SreError where there are none."""
        name, path = self.name, Path(self.name)
        if name == STDIN or is_hub_name(name):
            return []
        if name in SEED_PARTS:
            try:
                path = resource("data")
            except FileNotFoundError as error:
                raise SreError(str(error)) from None
        if path.is_dir():
            return _files_of(path, self.task, self.split)
        if path.exists():
            return [path]
        expected = f"a {_EXTENSIONS} file, a folder, a hub name or {SEED_DATA!r}"
        raise SreError(f"no such file or folder; expected {expected}", file=path)

    def count(self) -> int | None:
        """How many rows there are, where they are the lines of files. A pipe can be read once only."""
        files = self.files()
        if not files or any(path.suffix not in (".jsonl", ".ndjson") or not path.is_file() for path in files):
            return None
        total = 0
        for path in files:
            with path.open("rb") as file:
                total += sum(bool(line.strip()) for line in file)
        return total

    def has_split(self) -> bool:
        """Whether the split's rows are apart. A single file has training rows alone."""
        if self.name in SEED_PARTS or Path(self.name).is_dir():
            with contextlib.suppress(SreError):
                return bool(self.files())
        return is_hub_name(self.name) and self.split in _hub_splits(self.name)


def is_hub_name(source: str) -> bool:
    """Whether a source is read from the Hugging Face hub."""
    path = Path(source)
    return not path.exists() and _suffix(path) not in _READERS and bool(_HUB_NAME.fullmatch(source))


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
    hint = f"; sre split FILE -o DIR --{split} 0.1 makes one" if split in ("dev", "test") else ""
    expected = f"expected {split}.jsonl or a folder {split}"
    raise SreError(f"no file of split {split!r} here; {expected}{found}{hint}", file=folder)


def _plain(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def _suffix(path: Path) -> str:
    """The extension that says the format: ".csv" of rows.csv.gz."""
    return _plain(path).suffix.lower()


def _read(path: Path, *, alone: bool) -> Iterator[Row]:
    """alone: No other file of the source has its name."""
    stem = _plain(path).stem if alone else f"{path.parent.name}-{_plain(path).stem}"
    try:
        with path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw  # whatever it is called
            yield from _placed(_reader(path, file.peek(512))(file), str(path), str(writable(stem)))
    except (OSError, EOFError, zlib.error) as error:
        raise SreError(f"can't be read: {getattr(error, 'strerror', None) or error}", file=path) from None


def _reader(path: Path, begins: bytes) -> Callable[[Any], Iterator[Found]]:
    """What reads a file that begins so: its name says it, unless it is Parquet or JSON under another name."""
    text = begins.lstrip(b"\xef\xbb\xbf\r\n ")
    kind = next((kind for mark, kind in _FOREIGN.items() if text.lower().startswith(mark)), "")
    if kind:
        raise SreError(f"this is {kind}", file=path)
    if begins.startswith(b"PAR1"):
        return _read_parquet
    reader = _READERS.get(_suffix(path))
    if reader is None:
        hint = "; export a table as CSV" if _plain(path) == path else ""
        raise SreError(f"unknown extension of {path.name!r}; expected {_EXTENSIONS}, or .gz after it{hint}", file=path)
    return _read_json if reader is _read_csv and re.match(rb'\{\s*"|\[\s*\{', text) else reader


def _placed(found: Iterable[Found], name: str, stem: str) -> Iterator[Row]:
    """The rows, and the reader's errors, with the name of the file."""
    try:
        for line, row, problem in found:
            if _deep(row):  # what walks through it, here and in other programs, would not come to its end
                yield Row(name, stem, line, {}, f"its values are nested more than {_DEEPEST} levels deep")
            else:
                yield Row(name, stem, line, row, problem)
    except SreError as error:
        raise SreError(error.message, file=name) from None


def _deep(value: Any, left: int = _DEEPEST) -> bool:
    items: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_deep(item, left - 1) for item in items)


@contextlib.contextmanager
def _decoded(file: Any, newline: str) -> Iterator[io.TextIOWrapper]:
    """The text, in any encoding of Unicode. An invalid byte of UTF-8 is an error only in a column that is read."""
    encoding = json.detect_encoding(file.peek(4)[:4])
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    text = io.TextIOWrapper(file, encoding, errors=errors, newline=newline)
    try:
        yield text
    finally:
        text.detach()  # or it would close standard input


def _read_json(file: Any) -> Iterator[Found]:
    """JSON lines, or one JSON text of them all: files of both kinds go by the same names."""
    with _decoded(file, "\n") as text:
        first = text.readline()
        lines: Iterable[str] = itertools.chain([first], text)
        if _goes_on(first):
            rest = first + text.read()
            problem = _json(rest)[1]
            if problem and _JSON_LIST.match(first):
                raise SreError(f"expected a JSON list of objects; {problem}")
            lines = io.StringIO(rest, newline="\n") if problem else [rest]
        for line, data in enumerate(lines, 1):
            if data.strip():
                row, problem = _json(data.rstrip("\r\n ,"))
                if rows := _objects(row):
                    yield from ((number, one, "") for number, one in enumerate(rows, 1))
                else:
                    hint = "; a table's name ends in .csv" if line == 1 and "{" not in data else ""
                    yield line, row, problem and f"expected one JSON object in the line; {problem}{hint}"


def _objects(value: Any) -> list[Any]:
    """The objects of a list, of the list that an object holds as `data` or alone, or of pandas' columns; else []."""
    listed = value
    if isinstance(value, dict):
        listed = value["data"] if "data" in value else next(iter(value.values()), None) if len(value) == 1 else None
        if isinstance(value.get("columns"), list) and isinstance(listed, list):
            return [dict(zip(value["columns"], cells, strict=False)) for cells in listed if isinstance(cells, list)]
        cells = list(value.values())
        columns = [list(one) for one in cells if isinstance(one, dict)]
        if columns and columns.count(columns[0]) == len(value) and all(map(str.isdigit, columns[0])):
            return [{name: column[key] for name, column in value.items()} for key in columns[0]]
        if len(columns) == len(value) and all(map(str.isdigit, value)):  # rows by their numbers
            return cells
        lengths = {len(one) if isinstance(one, list) and not _deep(one, 2) else 0 for one in cells}
        if len(lengths) == 1 and 0 not in lengths:  # columns as lists
            return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return []
    turns = listed is not value and {"role", "from", "content", "data"} & listed[0].keys()
    return [] if turns else listed


def _json(text: str) -> tuple[Any, str]:
    """The value and "", or the text and what is wrong with it."""
    try:
        return json.loads(text.lstrip("\ufeff")), ""  # files that were joined have a mark in the middle
    except (ValueError, RecursionError) as error:
        return text, f"invalid JSON: {error}"


def _goes_on(text: str) -> bool:
    """Whether what is wrong with a JSON text is that it ends. A broken first row is no reason to read all others."""
    begun = text.rstrip()
    try:
        json.loads(begun)
    except json.JSONDecodeError as error:
        return bool(_JSON_LIST.match(text)) or error.pos >= len(begun) - 1 >= 0
    except (ValueError, RecursionError):
        pass
    return False


def _read_csv(file: Any) -> Iterator[Found]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long response
    with _decoded(file, "") as text:
        # Excel may write "sep=;" above the header.
        lines = ((skipped, line) for skipped, line in enumerate(text) if line.strip() and not line.startswith("sep="))
        skipped, first = next(lines, (0, ""))
        # What stands outside quotes oftenest in the header separates cells.
        bare = re.sub(r'"[^"]*"', "", first)
        mark = max(",;\t|", key=bare.count)
        spaced = bare.count(mark) == bare.count(f"{mark} ") > 0
        rows = csv.reader(itertools.chain([first], text), delimiter=mark, strict=True, skipinitialspace=spaced)
        found = _csv_rows(rows)
        _, header, problem = next(found, (1, [], ""))
        if problem:
            raise SreError(problem)
        header = [name.strip() for name in header]
        twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
        if twice:
            hint = f"; {NO_HEADER}" if looks_like_values(header) else ""
            raise SreError(f"two columns are called {twice[0]!r}; names must differ{hint}")
        for line, cells, problem in found:
            row, problem = (cells, problem) if problem else _named(header, cells, mark)
            yield skipped + line, row, problem


def _named(header: list[str], cells: list[str], mark: str) -> tuple[Any, str]:
    """The row of a table and "", or its cells and what is wrong. Separators at the end of a line make no column."""
    while len(cells) > len(header) and not cells[-1]:
        cells = cells[:-1]
    if not any(header[len(cells) :]):
        header = header[: len(cells)]
    if len(cells) != len(header):
        hint = NO_HEADER if len(header) == 1 else f"put a cell with a line break or {mark!r} in it into double quotes"
        return cells, f"expected {plural(len(header), 'cell')} as in the header, not {len(cells)}; {hint}"
    # pandas writes its index without a name, as the first column.
    names = [name or (f"column {k}" if k > 1 else "") for k, name in enumerate(header, 1)]
    return {shown: cell for name, shown, cell in zip(header, names, cells, strict=True) if name or cell}, ""


def _csv_rows(rows: Any) -> Iterator[tuple[int, list[str], str]]:
    """The rows that aren't blank, with the lines they begin in. One that can't be read ends no other."""
    while True:
        line, cells, problem = rows.line_num + 1, list[str](), ""
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"invalid CSV: {error}; a quote inside a quoted cell is written twice"
        if problem or any(cell.strip() for cell in cells):
            yield line, cells, problem


def _read_parquet(file: Any) -> Iterator[Found]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise SreError("reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl or .csv file") from None
    try:
        yield from _cells(parquet.ParquetFile(file).iter_batches(batch_size=256))
    except (ArrowException, ValueError, ArithmeticError, OSError, RecursionError) as error:
        raise SreError(f"no readable Parquet: {error}") from None


def _cells(batches: Iterable[Any]) -> Iterator[Found]:
    """The rows of Arrow's tables. What Python can't hold, a date after the year 9999, is an error of its row."""
    line = 0
    for batch in batches:
        try:
            rows = [(row, "") for row in batch.to_pylist()]
        except (ValueError, ArithmeticError):
            rows = [_row(batch.slice(k, 1)) for k in range(batch.num_rows)]
        for row, problem in rows:
            line += 1
            yield line, row, problem


def _row(batch: Any) -> tuple[dict[str, Any], str]:
    """The values of a table of one row, and what is wrong with the others."""
    cells: dict[str, Any] = {}
    problem = ""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (cells[name],) = column.to_pylist()
        except (ValueError, ArithmeticError) as error:
            problem = f"the value of {name!r} can't be read: {error}"
    return cells, problem


_READERS: dict[str, Callable[[Any], Iterator[Found]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    ".parquet": _read_parquet,
}
_EXTENSIONS = ", ".join(_READERS)


@functools.cache
def _hub_splits(name: str) -> tuple[str, ...]:
    with _from_hub(name, "a list of its splits") as datasets:
        return tuple(datasets.get_dataset_split_names(*name.split(":")))


def _read_hub(name: str, split: str) -> Iterator[Found]:
    with _from_hub(name, f"split {split!r}") as datasets:
        table = datasets.load_dataset(*name.split(":"), split=split)
        # As Arrow: pictures and sounds stay bytes, which takes no further library.
        yield from _cells(table.with_format("arrow").iter(batch_size=256))


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
        advice = f"check the name and the split, go online, or give a local {_EXTENSIONS} file"
        message = f"no such folder, and {what} can't be loaded from the hub ({reason}); {advice}"
        raise SreError(message, file=name) from error
