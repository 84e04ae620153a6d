"""Files that are whole or absent: atomic writes, JSON and JSONL, and the hashes of values and files."""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from recipe.errors import SreError


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def hash_object(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """A hash that tells whether a file has changed, cheap enough to be taken at every start of a run.

    It covers all of a file up to 256 MB. Of a larger one it covers the size and 256 pieces of 64 KiB, evenly spread.
    """
    found = path.stat()
    return _fingerprint(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _fingerprint(path: Path, size: int, changed: int) -> str:
    if size <= 256_000_000:
        return hash_file(path)
    digest, piece, pieces = hashlib.sha256(str(size).encode()), 65_536, 256
    with path.open("rb") as file:
        for k in range(pieces):
            file.seek(k * (size - piece) // (pieces - 1))
            digest.update(file.read(piece))
    return digest.hexdigest()


# What readers of damaged files raise.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def intact(path: Path, line: int | None = None) -> Iterator[None]:
    """Whatever a damaged file makes its reader raise is an SreError that names the file and what to do."""
    try:
        yield
    except DAMAGE as error:
        what = f"{type(error).__name__}: {error}"
        message = f"can't be read ({what}); restore the file, or remove it to make it again"
        raise SreError(message, file=path, line=line) from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises SreError, naming the file and what to do, for anything else in it."""
    with intact(path):
        return _object(path.read_text(encoding="utf-8"))


def _object(text: str | bytes) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError(f"expected a JSON object, not {type(content).__name__}")
    return content


class _Made(BaseModel):
    bytes: int
    hash: str


class _Begun(BaseModel):
    """What a stage's marker must hold: the file may have been damaged, or be somebody else's."""

    model_config = ConfigDict(strict=True)
    stage: str
    hash: str
    settings: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    made: dict[str, _Made] = {}
    peak_rss_mb: int = 0


class _Done(_Begun):
    finished: float
    wall_s: float
    tokens: int


def read_marker(path: Path) -> dict[str, Any] | None:
    """A stage's done.json or started.json; None where there is none. Raises SreError where it is no such thing."""
    try:
        content = read_json(path)
        (_Done if path.name.endswith("done.json") else _Begun).model_validate(content)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        message = "not the marker of a stage; remove the file to run its stage again"
        raise SreError(message, file=path, field=str(error.errors()[0]["loc"][0])) from None
    return content


def read_markers(run: Path) -> list[dict[str, Any]]:
    """The stage markers of a run folder: finished stages, oldest first, then unfinished ones, which lack "finished"."""
    paths = [path for kind in ("done", "started") for path in sorted(run.rglob(f"*{kind}.json"))]
    markers = [marker for path in paths if (marker := read_marker(path)) is not None]
    return sorted(markers, key=lambda marker: float(marker.get("finished", math.inf)))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[str]]:
    """Write a text file beside `path`, then rename it there: `path` is whole or untouched. No space is an SreError."""
    # A file's name can hold bytes that aren't UTF-8: escaped, they are valid JSON.
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`atomic` for what writes to a path itself: yields the file beside `path` that takes its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a fresh folder beside `path`, then put it in `path`'s place by rename. Left over halves are removed."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_inputs(out: Path, written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise SreError, which names `out`, where a file to be written is one of those that are read, or a link to it."""
    for path, source in itertools.product(written, [*read]):
        if path.exists() and source.exists() and os.path.samefile(path, source):
            raise SreError(f"{path.name} of this output is the input {source}; choose another", file=out)


def explain(error: OSError, path: Path) -> SreError:
    """The user's words for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SreError("no space left on the disk; nothing half-written was kept. Free some and run again", file=path)
    return SreError(f"can't write: {error.strerror or error}", file=path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic(path) as file:
        file.writelines(canonical(row) + "\n" for row in rows)


def append_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows in one write and sync it. A kill can leave some of them, and a partial last line."""
    data = "".join(canonical(row) + "\n" for row in rows).encode()
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # Not before the file is closed, which writes what its buffer still holds.
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise explain(error, path) from error


def read_jsonl(path: Path, make: Callable[[dict[str, Any]], Any] = dict) -> list[Any]:
    """`make` of every row of a file this project wrote. Raises SreError naming a line that is no such row."""
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            with intact(path, number):
                rows.append(make(_object(line)))
    return rows
