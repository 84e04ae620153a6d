"""Compiles the C files of this folder, and makes the loaded llama.cpp call them in place of two of its own functions.

The two functions are the product of matrices and attention, where nearly all time goes. The C code does the same
arithmetic in less time. It is compiled once, with the C compiler of the machine, and kept in the user's cache folder.
install.c changes the addresses through which llama.cpp's CPU library calls the two functions.
"""

import ctypes
import hashlib
import itertools
import os
import platform
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.storage import hash_file
from recipe.system import cache_folder

FOLDER = Path(__file__).parent
# ggml may change the arguments and the meaning of its functions with each minor version.
TRIED = "0.25."
# No contraction: each operation rounds as llama.cpp's does.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
# Sums over AVX-512 vectors have another order. Where llama.cpp was built without an extension, so are these kernels.
_EXTENSIONS = {b"AVX512": "-mno-avx512f", b"AVX512_BF16": "-mno-avx512bf16"}
_OBJECT_BYTES = 32  # ggml's header of a tensor

_library: Any = None
_originals: list[Any] = []


def install(features: bytes) -> None:
    """Put the kernels in place for all models of this process. Call it before anything decodes.

    `features`: llama.cpp's description of its own build. Raises SreError, which says why, where they can't be used.
    """
    global _library, _originals
    if _library is not None:
        return
    try:
        _library, _originals = _load(features)
        use(True)
    except (OSError, RuntimeError, AttributeError) as error:
        _library = None
        raise SreError(f"SRE_KERNELS=native: {error}; unset the variable to judge without them") from None


def use(native: bool) -> None:
    """Switch between these kernels and llama.cpp's own. Nothing may decode meanwhile."""
    for kernel, original in enumerate(_originals):
        if _library.sre_use(kernel, original, native) == 0:
            raise RuntimeError(f"ggml's CPU library doesn't call {_library.sre_name(kernel).decode()} through a slot")


def _load(features: bytes) -> tuple[Any, list[Any]]:
    """The compiled library, and the addresses of ggml's own functions."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise RuntimeError("the native kernels are for Linux on x86-64")
    path = loaded_library()
    base = ctypes.CDLL(str(path.with_name(path.name.replace("ggml-cpu", "ggml-base"))))
    base.ggml_version.restype = ctypes.c_char_p
    version = base.ggml_version().decode()
    if not version.startswith(TRIED):
        raise RuntimeError(f"the native kernels were tried with ggml {TRIED}x, this is {version}")
    library = ctypes.CDLL(str(_compiled(path.parents[2] / "include", features)))
    library.sre_use.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_bool)
    library.sre_name.restype = ctypes.c_char_p
    library.sre_tensor_bytes.restype = base.ggml_tensor_overhead.restype = ctypes.c_size_t
    if library.sre_tensor_bytes() + _OBJECT_BYTES != base.ggml_tensor_overhead():
        raise RuntimeError("ggml.h is not that of the loaded library")
    names = itertools.takewhile(bool, map(library.sre_name, itertools.count()))
    ggml = ctypes.CDLL(str(path))
    return library, [ctypes.cast(getattr(ggml, name.decode()), ctypes.c_void_p) for name in names]


def loaded_library() -> Path:
    """The file of ggml's CPU library that llama-cpp-python has loaded in this process."""
    lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "llama_cpp/lib/libggml-cpu" in line}
    if len(paths) != 1:
        raise RuntimeError(f"llama-cpp-python has loaded {len(paths)} CPU libraries of ggml, one was expected")
    return Path(paths.pop())


def _compiled(include: Path, features: bytes) -> Path:
    """The library for this machine: from the cache, or compiled now. `include` is the folder of ggml.h.

    Its name holds a hash of what it was made of, and one of its bytes: a file that was cut short, which would end the
    process, is made again.
    """
    flags = [*FLAGS, *(flag for name, flag in _EXTENSIONS.items() if name + b" = 1" not in features)]
    command = [*shlex.split(os.environ.get("CC", "cc")), *flags]
    sources = sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))
    # A home folder may be shared by machines with other processors.
    parts = [*(file.read_bytes() for file in (*sources, include / "ggml.h")), " ".join(command).encode(), _processor()]
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made_of = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    kept = sorted(folder.glob(f"kernels-{made_of}-*.so"))
    target = next((path for path in kept if path.name == _name(made_of, path)), None)
    if target is None:
        for damaged in kept:
            damaged.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "kernels.so"
            code = [str(path) for path in sources if path.suffix == ".c"]
            _make(made, [*command, "-I", str(include), "-o", str(made), *code, "-lm"])
            target = folder / _name(made_of, made)
            os.replace(made, target)
    for path in (folder, target):
        found = path.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RuntimeError(f"others may write {path}")
    return target


def _name(made_of: str, path: Path) -> str:
    return f"kernels-{made_of}-{hash_file(path)[:16]}.so"


def _make(library: Path, command: list[str]) -> None:
    """Compile it, and load it in a child process first: what ends that process must not end this one."""
    english = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, env=english, errors="replace", check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"{command[0]} failed")
        raise RuntimeError(f"compiling them: {said}")
    library.chmod(0o700)
    trial = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).sre_name(0)", str(library)]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        raise RuntimeError("the compiled library can't be loaded")
    with library.open("rb+") as file:
        os.fsync(file.fileno())


def _processor() -> bytes:
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return next((line for line in lines if line.startswith(b"flags")), b"")
