"""What the package stands on: the files that travel with it, and the processors it may use.

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
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
