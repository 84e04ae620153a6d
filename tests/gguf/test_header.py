"""A header from anywhere: read, or refused in one error; never a hang, a huge allocation or a traceback."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.errors import SreError
from recipe.gguf.header import add_metadata, read_header, read_metadata

EXAMPLES = int(os.environ.get("SRE_FUZZ", "200"))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key.encode()) + struct.pack("<I", kind) + value


def gguf(pairs: list[bytes], tensors: list[bytes] = [], *, counts: tuple[int, int] | None = None) -> bytes:  # noqa: B006
    count = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", 3, *count) + b"".join([*pairs, *tensors])
    return head + b"\0" * (-len(head) % 32) + b"\0" * 64


TENSOR = text(b"a.weight") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
ARCHITECTURE = pair("general.architecture", 8, text(b"llama"))
PROMPT = pair("sre.prompts.pointwise", 8, text("Wähle.".encode()))
NUMBERS = pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, 3) + b"\0" * 12)
WORDS = pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"b"))
GOOD = gguf([ARCHITECTURE, PROMPT, NUMBERS, WORDS, pair("x.flag", 7, b"\1"), pair("x.f", 12, b"\0" * 8)], [TENSOR])


def read(data: bytes, folder: Path) -> Any:
    path = folder / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_a_header_is_read(tmp_path: Path) -> None:
    header = read(GOOD, tmp_path)
    assert (header.pairs, header.alignment) == (6, 32)
    assert header.strings == {"general.architecture": "llama", "sre.prompts.pointwise": "Wähle."}
    assert GOOD[header.pairs_end :].startswith(TENSOR)
    assert read_metadata(tmp_path / "x.gguf") == header.strings


def test_pairs_are_added(tmp_path: Path) -> None:
    read(GOOD, tmp_path)
    add_metadata(tmp_path / "x.gguf", tmp_path / "y.gguf", {"sre.a": "ü", "sre.b": ""})
    header = read_header(tmp_path / "y.gguf")
    assert header.strings == {
        "general.architecture": "llama",
        "sre.prompts.pointwise": "Wähle.",
        "sre.a": "ü",
        "sre.b": "",
    }
    assert (tmp_path / "y.gguf").read_bytes()[header.data_start :] == b"\0" * 64
    with pytest.raises(SreError, match=r"sre\.a"):
        add_metadata(tmp_path / "y.gguf", tmp_path / "z.gguf", {"sre.a": ""})


HUGE = 2**64 - 1
BAD = {
    "pairs without end": gguf([], counts=(0, HUGE)),
    "tensors without end": gguf([], counts=(HUGE, 0)),
    "a key without end": gguf([struct.pack("<Q", HUGE)], counts=(0, 1)),
    "a long key": gguf([pair("k" * 70_000, 8, text(b""))]),
    "a text without end": gguf([text(b"k") + struct.pack("<IQ", 8, 2**62)], counts=(0, 1)),
    "an array without end": gguf([text(b"k") + struct.pack("<IIQ", 9, 4, 2**62)], counts=(0, 1)),
    "an array of texts without end": gguf([text(b"k") + struct.pack("<IIQ", 9, 8, 2**60)], counts=(0, 1)),
    "an array whose texts run out": gguf([text(b"k") + struct.pack("<IIQQ", 9, 8, 3, 2**40)], counts=(0, 1)),
    "an array of arrays": gguf([text(b"k") + struct.pack("<IIQ", 9, 9, 1) * 9], counts=(0, 1)),
    "an unknown type": gguf([pair("k", 77, b"")]),
    "a key twice": gguf([ARCHITECTURE, ARCHITECTURE]),
    "no alignment": gguf([pair("general.alignment", 4, struct.pack("<I", 0))]),
    "an odd alignment": gguf([pair("general.alignment", 4, struct.pack("<I", 33))]),
    "an alignment without end": gguf([pair("general.alignment", 4, struct.pack("<I", 1 << 31))]),
    "a tensor of many dimensions": gguf([], [text(b"t") + struct.pack("<I", 2**31)]),
    "a tensor beyond the end": gguf([], [text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**60)]),
    "another version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "only the magic": b"GGUF",
    "another kind of file": b"PK" * 50,
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_sizes_are_checked_before_they_are_used(name: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(SreError, match=r"x\.gguf"):
        read(BAD[name], tmp_path)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("key", ["sre.prompts.pointwise", "sre.calibration", "general.name", "tokenizer.chat_template"])
def test_metadata_of_the_wrong_shape_is_refused_by_name(key: str, tmp_path: Path) -> None:
    for kind, value in ((4, b"\0" * 4), (9, struct.pack("<IQ", 4, 0)), (7, b"\1")):
        with pytest.raises(SreError, match=key.replace(".", r"\.")):
            read(gguf([pair(key, kind, value)]), tmp_path)


@settings(max_examples=EXAMPLES, deadline=5000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_is_one_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes and sizes changed, cut out and put in, in a good header; or a header of random pairs."""
    sizes = st.sampled_from([0, 1, 2, 7, 2**16, 2**31, 2**32 - 1, 2**63, HUGE])
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(damaged)))
        end = data.draw(st.integers(at, min(len(damaged), at + 12)))
        new = data.draw(st.one_of(st.binary(max_size=8), sizes.map(lambda n: struct.pack("<Q", n))))
        damaged[at:end] = new
    with contextlib.suppress(SreError):
        read(bytes(damaged), tmp_path_factory.getbasetemp())
