"""What the package stands on: the files that travel with it, the processors it may use, the processes that share a run.

The files lie beside it in a checkout, inside it in an installed wheel.
"""

from __future__ import annotations

import os
from pathlib import Path


def resource(name: str) -> Path:
    """The folder "prompts" or "data". Raises FileNotFoundError where the installation lacks it."""
    package = Path(__file__).resolve().parent
    for folder in (package / "assets" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation lacks its {name!r} folder; reinstall self-rationalizing-evaluators")


def usable_cores() -> int:
    """The processors that this process may use: its part of them, where a launcher started several here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def process() -> tuple[int, int]:
    """(number of this process, how many) under `accelerate launch` or torchrun, else (0, 1). Number 0 is the main one:
    it alone writes what all share, and speaks for all."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
