"""Many clients at a model behind `sre serve`, one request in ten hostile: each reply its row's own, memory flat.

`python -m benchmarks.soak` is the same for any model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak import HOSTILE, KINDS, SLOW, run_soak
from recipe.gguf.export import write_gguf

CLIENTS = 64


@pytest.mark.slow
def test_20_seconds_of_64_clients_at_a_tiny_model(tiny_model: Path, tmp_path: Path) -> None:
    write_gguf(tiny_model, tmp_path / "tiny.gguf", type_name="F32")
    seen = run_soak(tmp_path / "tiny.gguf", clients=CLIENTS, seconds=20, timeout=10)
    print(seen.told())
    assert seen.problems() == []
    assert min(seen.count[kind] for kind in KINDS) > 0
    assert {what for what, _ in seen.hostile} == {*HOSTILE, SLOW}
    assert seen.hostile[SLOW, 408] > 0


@pytest.mark.slow
def test_a_minute_of_64_clients_at_a_real_model(smollm2: Callable[[str], Path]) -> None:
    seen = run_soak(smollm2("F16"), clients=CLIENTS, seconds=60, timeout=600)
    print(seen.told())
    assert seen.problems() == []
    assert min(seen.count[kind] for kind in KINDS) > 0
