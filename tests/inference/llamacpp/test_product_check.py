"""The child process that multiplies quantised weights: right, wrong, and ended by a signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe.inference.llamacpp import product_check

SCRIPT = Path(product_check.__file__)


@pytest.fixture(autouse=True)
def ask_anew() -> None:
    product_check.products_are_right.cache_clear()


def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Have `code` in place of the script, with its functions at hand."""
    file = tmp_path / "child.py"
    file.write_text(f"import os, sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\nimport product_check\n{code}\n")
    monkeypatch.setattr(product_check, "__file__", str(file))


def test_the_installed_llama_cpp_multiplies_rightly() -> None:
    assert product_check.products_are_right()


@pytest.mark.parametrize(
    "wrong",
    ["0 * p", "p * np.nan", "p + 1", "np.roll(p, 1)", "p * (np.arange(p.size).reshape(p.shape) % 32 < 16)"],
)
def test_wrong_products_are_noticed(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def compute(_ggml: Any, weights: Any, tokens: Any) -> Any:
        return eval(wrong, {"np": np, "p": tokens @ weights.T})

    monkeypatch.setattr(product_check, "_product", compute)
    monkeypatch.setattr(product_check.ctypes, "CDLL", lambda _: None)
    assert product_check.main("") == 1
    monkeypatch.setattr(product_check, "_product", lambda _ggml, weights, tokens: tokens @ weights.T)
    assert product_check.main("") == 0


@pytest.mark.skipif(not hasattr(signal, "SIGILL"), reason="needs signals")
def test_a_child_that_an_illegal_instruction_ends_is_a_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child(monkeypatch, tmp_path, "os._exit(0)")
    assert product_check.products_are_right()
    product_check.products_are_right.cache_clear()
    child(monkeypatch, tmp_path, f"os.kill(os.getpid(), {int(signal.SIGILL)})")
    assert not product_check.products_are_right()
    assert os.getpid()  # this process goes on


def test_an_installation_without_the_library_is_a_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "__file__", str(tmp_path / "__init__.py"))
    assert not product_check.products_are_right()
