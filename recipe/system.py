"""What the package stands on: the files that travel with it, the processors it may use, the processes of one run."""

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from recipe.errors import SreError

_PACKAGES = ("torch", "transformers", "trl", "peft", "unsloth", "llama-cpp-python", "self-rationalizing-evaluators")

P = ParamSpec("P")
T = TypeVar("T")


def resource(name: str) -> Path:
    """The folder "prompts" or "data": beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "assets" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation lacks its {name!r} folder; reinstall self-rationalizing-evaluators")


def read_table(module: str, name: str = "") -> dict[str, Any]:
    """The .toml file `name` beside a module's file (`__file__`); by default the one that is named like the module."""
    import tomllib  # here, so that `sre --help` answers at once

    path = Path(module).with_name(name) if name else Path(module).with_suffix(".toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def user_text(path: Path) -> str:
    """A text file that a user wrote, in any encoding of Unicode. Raises SreError for another one."""
    import json  # here, so that `sre --help` answers at once

    raw = path.read_bytes()
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SreError("expected text in UTF-8; save the file as UTF-8", file=path, line=line) from None


def user_path(source: str) -> Path:
    """The path, with "~" as the user's home folder; "~nobody" stays as it is, and so leads nowhere."""
    return Path(os.path.expanduser(source))


def cache_folder() -> Path:
    """Where the package keeps what it can make again: ~/.cache/sre, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "sre"


def usable_cores() -> int:
    """The processors that this process may use: its part of them, where a launcher started several here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def memory_limit() -> float | None:
    """Bytes of memory, or what this container is allowed of it (cgroup v2); None where the system doesn't say."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None
    with contextlib.suppress(OSError, ValueError):
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def nvidia_gpus() -> list[str]:
    """One line for each GPU that the NVIDIA driver lists: "name, memory in MiB, driver version"."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def process() -> tuple[int, int]:
    """(number of this process, how many) under `accelerate launch` or torchrun, else (0, 1). Number 0 is the main one:
    it alone writes what all share, and speaks for all."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another process of this launch does; when one of them fails, the launcher ends them all.

    Files and not a collective call: those give up after minutes, and the main process may evaluate for hours.
    """
    while not condition():
        time.sleep(0.2)


def in_own_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call `work` (of a module, with what can be pickled) in a process that then ends: all it took is handed back, a
    GPU's memory too. Its errors are raised here; SreError where the process ended early."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from recipe.errors import SreError

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments, **options).result()
        except BrokenProcessPool:
            message = f"the process of {work.__name__} ended early, for want of memory perhaps; run it again to go on"
            raise SreError(message) from None


@contextlib.contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fill a dict with wall_s and peak_rss_mb of the block (peak of this process; Linux resets it per block)."""
    cost: dict[str, Any] = {}
    start = time.monotonic()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield cost
    finally:
        cost |= {"wall_s": round(time.monotonic() - start, 2), "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> int:
    """Peak resident memory of this process in MiB since the last reset."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    import resource

    scale = 1024**2 if platform.system() == "Darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose version can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
