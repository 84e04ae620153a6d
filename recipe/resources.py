"""Where the files that travel with the package lie: beside it in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path


def resource(name: str) -> Path:
    """The folder "prompts" or "data". Raises FileNotFoundError where the installation lacks it."""
    package = Path(__file__).resolve().parent
    for folder in (package / "assets" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation lacks its {name!r} folder; reinstall self-rationalizing-evaluators")
