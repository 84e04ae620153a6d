"""Reads the header of a GGUF file from anywhere, and adds key-value pairs to it.

A GGUF file is, little-endian: "GGUF", version (u32), tensor count (u64), pair count (u64); the pairs, each a string
key, a value type (u32) and the value; the tensor infos; padding; the tensors' data, at offsets that count from the
padding's end. Every count and size is compared with the rest of the file before it is used.
"""

import mmap
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from recipe.errors import SreError
from recipe.gguf.known import remember

UINT32, STRING, ARRAY = 4, 8, 9
# Bytes of a fixed-size value, by its type number (u8, i8, u16, i16, u32, i32, f32, bool, u64, i64, f64).
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FIRST = 24  # bytes before the first pair
_SMALLEST_PAIR, _SMALLEST_TENSOR, _LONGEST_NAME = 13, 32, 256  # bytes
_MOST = {"pairs": 1 << 16, "tensors": 1 << 20, "strings": 1 << 23}  # beyond any model; reading them takes seconds
# Keys that must hold text, beside all that begin with "sre.".
_TEXTS = ("general.architecture", "general.name", "tokenizer.chat_template", "tokenizer.ggml.model")


@dataclass(frozen=True)
class Header:
    """strings: every string-valued pair. pairs_end, data_start: byte offsets. types: of the tensors, ggml's numbers."""

    pairs: int
    strings: dict[str, str]
    pairs_end: int
    infos_end: int
    data_start: int
    alignment: int
    types: frozenset[int]


class _Reader:
    """Reads little-endian values from `data`, moving on."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.key = data, path, 4, ""

    def damaged(self, why: str) -> NoReturn:
        field = self.key or None
        raise SreError(f"this GGUF file is damaged or cut short ({why})", file=self.path, field=field)

    def advance(self, size: int) -> int:
        """Move on by `size` bytes and return where they begin."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            self.damaged(f"{size:,} bytes are wanted, {len(self.data) - start:,} are left")
        return start

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.advance(struct.calcsize(form)))
        return int(value)

    def count(self, what: str, smallest: int) -> int:
        """A number of things of at least `smallest` bytes each."""
        value = self.number("Q")
        if value > min(_MOST[what], (len(self.data) - self.at) // smallest):
            self.damaged(f"{value:,} {what} can't be in it")
        return value

    def string(self, longest: int = 1 << 26) -> str:
        size = self.number("Q")
        if size > longest:
            self.damaged(f"a text of {size:,} bytes")
        return self.data[self.advance(size) : self.at].decode("utf-8", "replace")

    def skip(self, kind: int) -> None:
        """Move over a value."""
        if kind in _SIZES:
            self.advance(_SIZES[kind])
        elif kind == ARRAY:
            inner = self.number("I")
            if inner in _SIZES:
                self.advance(_SIZES[inner] * self.number("Q"))
            elif inner == STRING:
                self.skip_strings(self.count("strings", 8))
            else:
                self.damaged(f"an array of type {inner}")
        else:
            self.damaged(f"value type {kind} is unknown")

    def skip_strings(self, count: int) -> None:
        """Move over strings: a vocabulary has hundreds of thousands."""
        size, at, last = struct.Struct("<Q"), self.at, len(self.data) - 8
        for _ in range(count):
            if at > last:
                break
            at += 8 + size.unpack_from(self.data, at)[0]
        self.advance(at - self.at)


def read_header(path: Path) -> Header:
    """Parse the header. Raises SreError for a damaged file, for no GGUF, and for a number where text is needed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise SreError("this is not a GGUF file", file=path)
            return _parse(_Reader(data, path))
    except OSError as error:
        raise SreError(f"can't be read: {error.strerror or error}", file=path) from error
    except ValueError as error:  # an empty file
        raise SreError("this is not a GGUF file: it is empty", file=path) from error


def _parse(reader: _Reader) -> Header:
    version = reader.number("I")
    if version not in (2, 3):
        reader.damaged(f"version {version}; 2 and 3 are known")
    tensors, pairs = reader.count("tensors", _SMALLEST_TENSOR), reader.count("pairs", _SMALLEST_PAIR)
    strings: dict[str, str] = {}
    seen, alignment = set(), 32
    for _ in range(pairs):
        reader.key = ""
        reader.key = key = reader.string(_LONGEST_NAME)
        kind = reader.number("I")
        if key in seen:
            reader.damaged("the key stands there twice")
        seen.add(key)
        if kind == STRING:
            strings[key] = reader.string()
        elif key in _TEXTS or key.startswith("sre."):
            raise SreError(f"this key of the GGUF file must hold text, not type {kind}", file=reader.path, field=key)
        elif key == "general.alignment" and kind == UINT32:
            alignment = reader.number("I")
            if alignment < 8 or alignment > 1 << 16 or alignment & (alignment - 1):
                reader.damaged(f"an alignment of {alignment}")
        else:
            reader.skip(kind)
    reader.key, pairs_end = "", reader.at
    types = set()
    for _ in range(tensors):
        reader.key = ""
        reader.key = reader.string(_LONGEST_NAME)
        dimensions = reader.number("I")
        if dimensions > 4:
            reader.damaged(f"a tensor of {dimensions} dimensions")
        reader.advance(8 * dimensions)
        types.add(reader.number("I"))
        if reader.number("Q") > len(reader.data):
            reader.damaged("its data lies beyond the file's end")
    infos_end = reader.at
    data_start = -(-infos_end // alignment) * alignment
    return Header(pairs, strings, pairs_end, infos_end, data_start, alignment, frozenset(types))


def read_metadata(path: Path) -> dict[str, str]:
    """The string-valued `general.*` and `sre.*` pairs of a GGUF file. Raises SreError (see read_header)."""
    strings = read_header(path).strings
    return {key: value for key, value in strings.items() if key.startswith(("general.", "sre."))}


def add_metadata(source: Path, target: Path, metadata: dict[str, str]) -> None:
    """Write `source` to `target` with string pairs added, whose keys must be new; the tensors stay as they are."""
    header = read_header(source)
    taken = sorted(set(metadata) & set(header.strings))
    if taken:
        raise SreError("the GGUF file has this key already", file=source, field=taken[0])
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
    remember(target)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
