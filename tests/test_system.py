"""Work in a process of its own: its result, its errors, its end."""

from __future__ import annotations

import os

import pytest

from recipe.errors import SreError
from recipe.system import in_own_process


def whose(number: int, *, add: int) -> tuple[int, int]:
    return os.getpid(), number + add


def refuse() -> None:
    raise SreError("no such thing", file="rows.jsonl", line=3, field="label")


def die() -> None:
    os._exit(9)


def test_work_is_done_elsewhere_and_comes_back() -> None:
    pid, result = in_own_process(whose, 2, add=3)
    assert pid != os.getpid()
    assert result == 5


def test_the_users_errors_come_back_whole() -> None:
    with pytest.raises(SreError, match=r"rows\.jsonl.*3.*label.*no such thing"):
        in_own_process(refuse)


def test_a_process_that_ends_early_is_an_error() -> None:
    with pytest.raises(SreError, match="ended early"):
        in_own_process(die)
