"""The kernels of native/ in place of llama.cpp's, in the llama.cpp that llama-cpp-python has loaded.

Reading prompts and decoding answers side by side spends nearly all of its time in products of matrices and in
attention. native/ does the same arithmetic in less. It is compiled when it is first wanted, with the C compiler that
the installation of llama-cpp-python needed, and kept in the user's cache folder. Where that can't be (no compiler,
another CPU or system, a ggml it was not tried with), llama.cpp's own kernels do it all, and `state` says why.
SRE_KERNELS=llama.cpp asks for llama.cpp's own.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import platform
import shlex
import stat
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe.system import cache_folder

FOLDER = Path(__file__).parent / "native"
VARIABLE = "SRE_KERNELS"
# The arguments of ggml's functions, and what they are asked to do, may change with its minor version.
TRIED = "0.25."
# No contraction: each operation rounds as llama.cpp's does.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
# What llama.cpp says that its build uses, and what keeps ours from using it: sums have another order with it.
_INSTRUCTIONS = {b"AVX512": "-mno-avx512f", b"AVX512_BF16": "-mno-avx512bf16"}
_OBJECT_BYTES = 32  # what ggml keeps of a tensor beside the tensor
_COMPILE_SECONDS = 120

_library: Any = None
_own: list[Any] = []
_why_not = "no model was opened yet"
_once = threading.Lock()
_decoding = threading.Lock()


def install(features: bytes) -> None:
    """Put them in place, once a process, before anything decodes; does nothing where that can't be.

    features: what llama.cpp says of its own build. The same instructions give the same sums.
    """
    global _library, _own, _why_not
    with _once:
        if _library is not None:
            return
        if not suits():
            system = f"ours are for Linux on x86-64, this is {platform.system()} on {platform.machine()}"
            _why_not = f"{VARIABLE} asks for them" if _unwanted() else system
            return
        try:
            _library, _own = _load(features)
            use(True)
        # They make judging faster and nothing else: whatever hinders them must not stop a judge.
        except Exception as error:
            _library, _why_not = None, str(error) or type(error).__name__


def suits() -> bool:
    """Whether ours are made for this system and wanted."""
    return platform.system() == "Linux" and platform.machine() == "x86_64" and not _unwanted()


def _unwanted() -> bool:
    return os.environ.get(VARIABLE) == "llama.cpp"


def use(ours: bool) -> None:
    """Switch between ours and llama.cpp's own, for all models of the process; not while one decodes."""
    for kernel, own in enumerate(_own if installed() else []):
        if _library.sre_use(kernel, own, ours) == 0:
            for earlier in range(kernel):
                _library.sre_use(earlier, _own[earlier], False)
            raise _Unusable(f"ggml's CPU library doesn't call {_library.sre_name(kernel).decode()} through a slot")


@contextmanager
def together(wanted: bool) -> Iterator[None]:
    """While a batch is decoded: whether few tokens, too, may see together what they have in common, as many always do.
    That is quicker, and rounds less than llama.cpp, which is asked for with False. One batch at a time in a process;
    llama.cpp objects that don't decode through this must not do so meanwhile.
    """
    if _library is None:
        yield
        return
    with _decoding:
        _library.sre_together(wanted)
        try:
            yield
        finally:
            _library.sre_together(False)


def calls() -> dict[str, int]:
    """How many times each of ours was called in this process, by the name of ggml's function."""
    kernels = range(len(_own)) if installed() else ()
    return {_library.sre_name(kernel).decode(): int(_library.sre_calls(kernel)) for kernel in kernels}


def installed() -> bool:
    """Whether ours are in place."""
    return _library is not None


def state() -> str:
    """For people: whose kernels are at work here, and why."""
    return "our own (native/)" if installed() else f"llama.cpp's own ({_why_not})"


class _Unusable(Exception):
    """Why llama.cpp's own kernels stay."""


def _load(features: bytes) -> tuple[Any, list[Any]]:
    """The library of native/, and the addresses of ggml's own functions."""
    path = _loaded()
    base = ctypes.CDLL(str(path.with_name(path.name.replace("ggml-cpu", "ggml-base"))))
    base.ggml_version.restype = ctypes.c_char_p
    version = base.ggml_version().decode()
    if not version.startswith(TRIED):
        raise _Unusable(f"ours was tried with ggml {TRIED}x, this is {version}")
    library = ctypes.CDLL(str(_compiled(_header(path), features)))
    library.sre_together.argtypes = (ctypes.c_bool,)
    library.sre_use.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_bool)
    library.sre_name.restype, library.sre_calls.restype = ctypes.c_char_p, ctypes.c_long
    library.sre_tensor_bytes.restype = base.ggml_tensor_overhead.restype = ctypes.c_size_t
    if library.sre_tensor_bytes() + _OBJECT_BYTES != base.ggml_tensor_overhead():
        raise _Unusable("ggml.h is not that of the loaded library")
    names = itertools.takewhile(bool, map(library.sre_name, itertools.count()))
    ggml = ctypes.CDLL(str(path))
    return library, [ctypes.cast(getattr(ggml, name.decode()), ctypes.c_void_p) for name in names]


def _loaded() -> Path:
    """The file of llama-cpp-python's ggml CPU library that is loaded in this process."""
    lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "llama_cpp/lib/libggml-cpu" in line}
    if len(paths) != 1:
        raise _Unusable(f"llama-cpp-python has loaded {len(paths)} CPU libraries of ggml, one was expected")
    return Path(paths.pop())


def _header(library: Path) -> Path:
    """The folder of ggml.h, which llama-cpp-python installs beside its package."""
    folder = library.parents[2] / "include"
    if not (folder / "ggml.h").is_file():
        raise _Unusable("llama-cpp-python came without ggml.h")
    return folder


def _compiled(include: Path, features: bytes) -> Path:
    """native/ for this machine: from the cache, or compiled now. The file appears complete or not at all."""
    lacking = [name for name in _INSTRUCTIONS if name + b" = 1" not in features]
    flags = [*FLAGS, *(_INSTRUCTIONS[name] for name in lacking)]
    sources = sorted(map(str, FOLDER.glob("*.c")))
    # All that the outcome depends on. A home folder may be shared by machines with other CPUs.
    files = [*sorted(FOLDER.iterdir()), include / "ggml.h"]
    parts = [*(file.read_bytes() for file in files), " ".join(flags).encode(), _cpu()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"kernels-{name}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            _compile([*flags, "-I", str(include), "-o", str(made), *sources, "-lm"])
            made.chmod(0o700)
            os.replace(made, target)
    for path in (folder, target):
        found = path.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _Unusable(f"others may write {path}")
    return target


def _compile(arguments: list[str]) -> None:
    """By the first C compiler that can."""
    said = "no C compiler was found"
    compilers = (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang")
    for compiler in dict.fromkeys(filter(None, compilers)):
        try:
            words = shlex.split(compiler)
            done = subprocess.run(
                [*words, *arguments],
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                errors="replace",
                timeout=_COMPILE_SECONDS,
                check=False,
            )
        except (OSError, ValueError):
            continue
        if done.returncode == 0:
            return
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"{words[0]} failed")
    raise _Unusable(f"compiling it: {said}")


def _cpu() -> bytes:
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return next((line for line in lines if line.startswith(b"flags")), b"")
