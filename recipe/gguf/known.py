"""Which GGUF files llama.cpp has loaded on this machine before, so that the check of a stranger's file is done once.

For each there is an empty file in the cache folder, named after the place on disk, size and time of the GGUF file and
the version of llama-cpp-python. Where the cache can't be written, nothing is known.
"""

import contextlib
import hashlib
from importlib.metadata import version
from pathlib import Path

from recipe.system import cache_folder


def is_known(path: Path) -> bool:
    """Whether this very file was loaded here, or written here by this package."""
    with contextlib.suppress(OSError, RuntimeError):  # there is no home folder
        return _mark(path).is_file()
    return False


def remember(path: Path) -> None:
    """Note that llama.cpp can load `path`, or that it was written here."""
    with contextlib.suppress(OSError, RuntimeError):
        mark = _mark(path)
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.touch()


def _mark(path: Path) -> Path:
    found = path.stat()
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, version("llama-cpp-python"))
    return cache_folder() / "known-models" / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
