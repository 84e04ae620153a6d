"""What importing the package does to the process: how the threads of llama.cpp and PyTorch wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def loaded(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter whose environment says nothing of waiting but `settings`."""
    environment = {name: value for name, value in os.environ.items() if name not in POLICY}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="GCC's OpenMP prints its settings")
@pytest.mark.parametrize("library", ["llama_cpp", "torch"])
def test_threads_of_the_libraries_wait_asleep(library: str) -> None:
    said = loaded(f"import recipe, {library}", OMP_DISPLAY_ENV="VERBOSE").stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
    assert "GOMP_SPINCOUNT = '1000'" in said


@pytest.mark.parametrize("name", POLICY)
def test_the_users_own_settings_win(name: str) -> None:
    code = f"import os, recipe; print([os.environ.get(name) for name in {POLICY}])"
    assert loaded(code, **{name: "7"}).stdout.strip() == str(["7" if own == name else None for own in POLICY])
