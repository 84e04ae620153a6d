"""The head of a GGUF file: its key-value pairs, read and extended without any library.

A GGUF file is, little-endian: "GGUF", version (u32), tensor count (u64), pair count (u64); the pairs, each a
string key, a value type (u32) and the value; the tensor infos; padding; the tensors' data, whose offsets
count from the padding's end. So pairs can be added without touching a tensor.
"""

from __future__ import annotations

import mmap
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from recipe.errors import SreError

STRING, ARRAY = 8, 9
# Bytes of a fixed-size value, by its type number (u8, i8, u16, i16, u32, i32, f32, bool, u64, i64, f64).
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FIRST = 24  # bytes before the first pair


@dataclass(frozen=True)
class Header:
    """strings: every string-valued pair. pairs_end, data_start: byte offsets into the file."""

    tensors: int
    pairs: int
    strings: dict[str, str]
    pairs_end: int
    infos_end: int
    data_start: int
    alignment: int


class _Cursor:
    """Reads little-endian values from `data`, moving on; raises struct.error past the end."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def string(self) -> bytes:
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise struct.error("a string runs past the end")
        self.at += size
        return self.data[self.at - size : self.at]

    def skip(self, kind: int) -> None:
        if kind == STRING:
            size = self.number("Q")
            self.at += size
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SIZES:
                self.at += _SIZES[inner] * count
                return
            for _ in range(count):
                self.skip(inner)
        elif kind in _SIZES:
            self.at += _SIZES[kind]
        else:
            raise struct.error(f"value type {kind} is unknown")


def read_header(path: Path) -> Header:
    """Parse the head of `path`. Raises SreError for a file that is missing, no GGUF, or cut short."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise SreError("this is not a GGUF file", file=path)
            return _parse(data)
    except OSError as error:
        raise SreError(f"can't be read: {error.strerror or error}", file=path) from error
    except (struct.error, ValueError) as error:
        raise SreError(f"this GGUF file is damaged or cut short ({error}); write it again", file=path) from error


def _parse(data: mmap.mmap) -> Header:
    cursor = _Cursor(data, 4)
    version = cursor.number("I")
    if version not in (2, 3):
        raise struct.error(f"version {version}")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    strings, alignment = {}, 32
    for _ in range(pairs):
        key = cursor.string().decode("utf-8", "replace")
        kind = cursor.number("I")
        if kind == STRING:
            strings[key] = cursor.string().decode("utf-8", "replace")
        elif key == "general.alignment":
            alignment = cursor.number("I")
        else:
            cursor.skip(kind)
    pairs_end = cursor.at
    for _ in range(tensors):
        cursor.string()
        dimensions = cursor.number("I")
        cursor.at += 8 * dimensions + 12  # sizes, type and offset
    if cursor.at > len(data):
        raise struct.error("the tensor infos run past the end")
    infos_end = cursor.at
    data_start = -(-infos_end // alignment) * alignment
    return Header(tensors, pairs, strings, pairs_end, infos_end, data_start, alignment)


def read_metadata(path: Path) -> dict[str, str]:
    """The string-valued `general.*` and `sre.*` pairs of a GGUF file. Raises SreError (see read_header)."""
    strings = read_header(path).strings
    return {key: value for key, value in strings.items() if key.startswith(("general.", "sre."))}


def add_metadata(source: Path, target: Path, metadata: dict[str, str]) -> None:
    """Write `source` to `target` with the string pairs of `metadata` added; the tensors stay as they are.

    Raises SreError when a key is already there, or when `source` can't be read (see read_header).
    """
    header = read_header(source)
    taken = sorted(set(metadata) & set(header.strings))
    if taken:
        raise SreError("the converter wrote this key already", file=source, field=taken[0])
    added = b"".join(_string(key) + struct.pack("<I", STRING) + _string(value) for key, value in metadata.items())
    infos_end = header.infos_end + len(added)
    padding = -infos_end % header.alignment
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(reader.read(_FIRST - 8))
        writer.write(struct.pack("<Q", header.pairs + len(metadata)))
        reader.seek(_FIRST)
        writer.write(reader.read(header.pairs_end - _FIRST) + added)
        writer.write(reader.read(header.infos_end - header.pairs_end) + b"\0" * padding)
        reader.seek(header.data_start)
        shutil.copyfileobj(reader, writer, 1 << 22)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
