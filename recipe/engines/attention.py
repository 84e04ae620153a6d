"""The attention of attention.c in place of llama.cpp's, in the llama.cpp that llama-cpp-python has loaded.

Decoding many answers side by side spends up to half of its time in attention. attention.c does the same arithmetic in
less. It is compiled when it is first wanted, with the C compiler that the installation of llama-cpp-python needed, and
kept in the user's cache folder. Where that can't be (no compiler, another CPU or system, a ggml it was not tried with),
llama.cpp's own attention does it all, and `state` says why. SRE_ATTENTION=llama.cpp asks for llama.cpp's own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
VARIABLE = "SRE_ATTENTION"
# The arguments of ggml's function, and what it is asked to do, may change with its minor version.
TRIED = "0.25."
# No contraction: each operation rounds as llama.cpp's does.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
_COMPILE_SECONDS = 120

_library: Any = None
_why_not = "no model was opened yet"
_once = threading.Lock()


def install() -> None:
    """Put it in place, once a process; does nothing where it can't be. Call it when llama.cpp's backends are loaded."""
    global _library, _why_not
    with _once:
        if _library is not None:
            return
        if os.environ.get(VARIABLE) == "llama.cpp":
            _why_not = f"{VARIABLE} asks for it"
            return
        try:
            _library = _load()
            use(True)
        except (OSError, subprocess.SubprocessError, _Unusable) as error:
            _library, _why_not = None, str(error)


def use(ours: bool) -> None:
    """Switch between ours and llama.cpp's own, for all models of the process; not while one decodes."""
    if _library is None:
        return
    for path in _loaded():
        own = ctypes.cast(ctypes.CDLL(path).ggml_compute_forward_flash_attn_ext, ctypes.c_void_p)
        if _library.sre_attention_use(os.fsencode(path), own, ours) == 0:
            raise _Unusable(f"{path} doesn't call its attention through a slot")


def calls() -> int:
    """How many times ours was called in this process."""
    return 0 if _library is None else int(_library.sre_attention_calls())


def state() -> str:
    """For people: which attention is at work here."""
    return f"llama.cpp's own ({_why_not})" if _library is None else "our own (attention.c)"


class _Unusable(Exception):
    """Why llama.cpp's own attention stays."""


def _load() -> Any:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise _Unusable(f"ours is for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
    paths = _loaded()
    if not paths:
        raise _Unusable("llama-cpp-python has no ggml CPU library of its own")
    base = ctypes.CDLL(next(path.replace("ggml-cpu", "ggml-base") for path in paths))
    base.ggml_version.restype = ctypes.c_char_p
    version = base.ggml_version().decode()
    if not version.startswith(TRIED):
        raise _Unusable(f"ours was tried with ggml {TRIED}x, this is {version}")
    library = ctypes.CDLL(str(_compiled(_header(Path(paths[0])))))
    library.sre_attention_use.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_bool)
    library.sre_attention_calls.restype = ctypes.c_long
    return library


def _loaded() -> list[str]:
    """The files of llama-cpp-python's ggml CPU library that are loaded in this process."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    return sorted({line.split(maxsplit=5)[5] for line in lines if "llama_cpp/lib/libggml-cpu" in line})


def _header(library: Path) -> Path:
    """The folder of ggml.h, which llama-cpp-python installs beside its package."""
    for folder in (library.parents[2] / "include", library.parents[1] / "include"):
        if (folder / "ggml.h").is_file():
            return folder
    raise _Unusable("llama-cpp-python came without ggml.h")


def _compiled(include: Path) -> Path:
    """attention.c for this machine: from the cache, or compiled now. The file appears complete or not at all."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        compiler = ["cc"]
    if shutil.which(compiler[0]) is None:
        raise _Unusable("no C compiler was found")
    # All that the outcome depends on. A home folder may be shared by machines with other CPUs.
    parts = [SOURCE.read_bytes(), (include / "ggml.h").read_bytes(), " ".join([*compiler, *FLAGS]).encode(), _cpu()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sre"
    target = folder / f"attention-{name}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        command = [*compiler, *FLAGS, "-I", str(include), "-o", str(made), str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        if done.returncode != 0:
            said = next((line for line in done.stderr.splitlines() if "error" in line), "the compiler said nothing")
            raise _Unusable(f"compiling it failed: {said}")
        os.replace(made, target)
    return target


def _cpu() -> bytes:
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    return next((line for line in lines if line.startswith("flags")), "").encode()
