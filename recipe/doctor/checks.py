"""`sre doctor`: what this machine has, what is missing, and which command installs it.

Reads package metadata only and imports none of the packages it lists, so the answer takes a fraction of a second.
"""

import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe.errors import gpu_build, install
from recipe.planning.machines import GIB
from recipe.system import memory_limit, nvidia_gpus, usable_cores

Status = Literal["ok", "missing", "warning"]

DISTRIBUTION = "self-rationalizing-evaluators"
ENOUGH_MEMORY_GIB = 6.0
ENOUGH_DISK_GIB = 5.0
UNSLOTH_ON_CPU = "2026.10.9"  # the first version that trains on a processor
EXTRAS = ("", "train", "eval", "quickstart", "serve", "openai", "ray")
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*?(?:<(?P<below>[\d.]+))?[^;<]*(?:; extra == '(?P<extra>\w+)')?$")


class Check(NamedTuple):
    """One row of the answer. `needed`: judging doesn't work without it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    needed: bool = False


class Package(NamedTuple):
    """A package that an extra brings ("": every installation), and the first version that is refused ("": none)."""

    name: str
    extra: str
    below: str
    requirement: str


def diagnose() -> list[Check]:
    """Look at the machine and the installation."""
    gpus = nvidia_gpus()
    checks = [
        Check("Python", "ok", f"{platform.python_version()} at {sys.executable}", needed=True),
        Check("system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Check("processor cores", "ok", str(usable_cores())),
        _memory(),
        _disk(),
        _gpu(gpus),
    ]
    return [*checks, *map(_package, packages()), _llama_library(bool(gpus)), _unsloth(bool(gpus))]


def exit_status(checks: Iterable[Check]) -> int:
    """1 where something that judging needs is missing, else 0."""
    return int(any(check.needed and check.status == "missing" for check in checks))


def render(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print the checks as a table, and one closing sentence."""
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
    works = "Judging works. What is missing is needed only for what its row names."
    console.print("Judging does not work yet: see the rows marked missing." if exit_status(checks) else works)


def build_check(features: Sequence[str], *, right: bool) -> Check:
    """What llama.cpp was compiled for, and whether its products of quantised weights are right."""
    found = f"{', '.join(features)}; products of quantised weights are {'right' if right else 'wrong'}"
    remedy = "" if right else "compile it again: docs/performance.md, Compiling llama.cpp"
    return Check("llama.cpp build", "warning" if remedy else "ok", found, remedy)


def packages() -> list[Package]:
    """What this distribution requires, by its own metadata: each package once, under the first of EXTRAS."""
    found = [(match, text) for text in requires(DISTRIBUTION) or () if (match := _REQUIREMENT.match(text))]
    listed: dict[str, Package] = {}
    for extra in EXTRAS:
        for match, text in found:
            if (match["extra"] or "") == extra:
                package = Package(match["name"], extra, match["below"] or "", text.partition(";")[0])
                listed.setdefault(package.name, package)
    return list(listed.values())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version, without "+cpu", "rc1" and the like."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", text)[0])))


def _memory() -> Check:
    limit = memory_limit()
    if limit is None:
        return Check("memory", "warning", "can't be read on this system", f"training needs {ENOUGH_MEMORY_GIB:.0f} GiB")
    enough = limit / GIB >= ENOUGH_MEMORY_GIB
    remedy = f"the quickstart may need up to {ENOUGH_MEMORY_GIB:.0f} GiB; judging a small model needs about 1"
    return Check("memory", "ok" if enough else "warning", f"{limit / GIB:.1f} GiB", "" if enough else remedy)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    enough = free >= ENOUGH_DISK_GIB
    remedy = f"a run keeps weights and GGUF files: have {ENOUGH_DISK_GIB:.0f} GiB, or set --run-dir"
    detail = f"{free:.1f} GiB free in {Path.cwd()}"
    return Check("disk", "ok" if enough else "warning", detail, "" if enough else remedy)


def _gpu(gpus: list[str]) -> Check:
    if not gpus:
        return Check("GPU", "ok", "none found: training and judging run on the processor")
    torch = _version("torch")
    if torch is not None and torch.endswith("+cpu"):
        remedy = f"torch {torch} is a CPU build: install the CUDA build to train here"
        return Check("GPU", "warning", "; ".join(gpus), remedy)
    return Check("GPU", "ok", "; ".join(gpus))


def _package(package: Package) -> Check:
    found = _version(package.name)
    name = package.name + (f" ({package.extra})" if package.extra else "")
    needed = not package.extra
    if found is None:
        remedy = install(package.extra)
        if package.name == "llama-cpp-python" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            remedy = f"install a C++ compiler (it is built from source), then {remedy}"
        return Check(name, "missing", "not installed", remedy, needed)
    if package.below and _release(found) >= _release(package.below):
        remedy = f"pip install '{package.requirement}'"
        return Check(name, "warning", f"{found}; must be below {package.below}", remedy, needed)
    return Check(name, "ok", found, needed=needed)


def _llama_library(gpu: bool) -> Check:
    """What llama.cpp was built for. A llama-cpp-python whose build went wrong has metadata but no library."""
    name, spec = "llama.cpp library", importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return Check(name, "missing", "llama-cpp-python is not installed", install(), needed=True)
    libraries = sorted(Path(spec.origin).parent.glob("lib/*llama.*"))
    if not libraries:
        remedy = "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
        return Check(name, "missing", "llama-cpp-python is installed without its library", remedy, needed=True)
    names = " ".join(file.name for file in libraries[0].parent.iterdir())
    backends = sorted(set(re.findall(r"ggml-(?!base)(\w+)", names)))
    remedy = f"to judge on the GPU: {gpu_build()}" if gpu else "see docs/gpu.md for a GPU"
    detail = f"built for {', '.join(backends)}: {libraries[0]}"
    return Check(name, "ok", detail, remedy if backends == ["cpu"] else "", needed=True)


def _unsloth(gpu: bool) -> Check:
    """Unsloth is used wherever it can be imported; without it, training falls back to plain TRL and PEFT."""
    name, missing = "unsloth (gpu)", [package for package in ("unsloth", "unsloth_zoo") if not _version(package)]
    pinned = f"pip install --no-deps unsloth=={UNSLOTH_ON_CPU} unsloth_zoo=={UNSLOTH_ON_CPU}"
    if missing:
        detail = f"{missing[0]} is not installed: plain TRL and PEFT train, slower"
        return Check(name, "missing", detail, install("gpu") if gpu else pinned)
    found = str(_version("unsloth"))
    if not gpu and _release(found) < _release(UNSLOTH_ON_CPU):
        return Check(name, "warning", f"{found} can't train on a processor", pinned)
    return Check(name, "ok", f"{found}: used for training on the {'GPU' if gpu else 'processor'}")
