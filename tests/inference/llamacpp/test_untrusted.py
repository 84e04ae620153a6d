"""A stranger's GGUF file: what llama.cpp says against it is told, and what breaks llama.cpp breaks a child alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recipe.errors import SreError
from recipe.gguf import known
from recipe.gguf.export import write_gguf
from recipe.gguf.known import is_known
from recipe.inference.llamacpp import kv_cache
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.llamacpp.untrusted import check_model


@pytest.fixture
def model(models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole file of this package, as this machine has never seen it."""
    monkeypatch.setattr(known, "cache_folder", lambda: tmp_path / "cache")
    write_gguf(models("qwen3"), tmp_path / "own.gguf")
    stranger = tmp_path / "stranger.gguf"
    stranger.write_bytes((tmp_path / "own.gguf").read_bytes())
    return stranger


def spoil(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_a_whole_file_is_tried_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_known(model)
    check_model(model)
    assert is_known(model)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    check_model(model)
    check_model(model.with_name("own.gguf"))  # written here
    model.write_bytes(model.read_bytes() + b"\0")
    assert not is_known(model)


def test_an_abort_inside_llama_cpp_is_an_error(model: Path) -> None:
    spoil(model, b"[THINK]", b"<think>")  # a token twice
    with pytest.raises(SreError, match=r"stranger\.gguf: llama\.cpp broke.*: llama-vocab\.cpp:\d+: GGML_ASSERT"):
        LlamaCppGenerator(model)
    assert not is_known(model)


def test_llama_cpp_s_own_reason_is_shown(model: Path) -> None:
    spoil(model, b"blk.1.attn_q.weight", b"blk.1.attn_?.weight")
    with pytest.raises(SreError, match=r"llama\.cpp can't load this file: .*'blk\.1\.attn_q\.weight' not found"):
        LlamaCppGenerator(model)


def test_only_errors_of_llama_cpp_are_kept() -> None:
    kv_cache.start_backend()
    for level, text in ((2, b"info\n"), (3, b"a warning\n"), (4, b"the reason\n"), (1, b"detail\n")):
        kv_cache._on_log(level, text, None)
    assert kv_cache.last_log() == "the reason"


def test_a_file_that_can_not_be_tried_is_still_read_with_care(model: Path, tmp_path: Path) -> None:
    model.write_bytes(model.read_bytes()[:9000])
    with pytest.raises(SreError, match="damaged or cut short"):
        check_model(model)
    with pytest.raises(SreError, match="no such model file"):
        check_model(tmp_path / "absent.gguf")


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("cache", ["a file", "no home"])
def test_a_cache_that_can_not_be_written_changes_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setattr(known, "cache_folder", no_home if cache == "no home" else lambda: model)
    check_model(model)
    assert not is_known(model)


def test_sre_judge_says_it_in_one_line(model: Path, tmp_path: Path) -> None:
    from recipe.cli.main import main

    spoil(model, b"[THINK]", b"<think>")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Name two fruits.", "response": "apple", "criteria": "Are both fruits?"}\n')
    done = CliRunner().invoke(main, ["judge", str(rows), "-o", str(tmp_path / "o.jsonl"), "--model", str(model)])
    assert done.exit_code == 2
    assert "GGML_ASSERT" in done.output
    assert "Traceback" not in done.output
