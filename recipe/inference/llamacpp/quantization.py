"""llama.cpp's quantisation of GGUF files."""

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp

from recipe.errors import SreError
from recipe.gguf.known import remember
from recipe.inference.llamacpp.kv_cache import last_log, start_backend
from recipe.storage import replacing
from recipe.system import usable_cores

_C: Any = llama_cpp.llama_cpp
# Names of llama.cpp's file types, e.g. {"F16": 1, "Q8_0": 7}.
TYPES = {
    name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): int(value)
    for name, value in vars(_C).items()
    if name.startswith("LLAMA_FTYPE_")
}


def quantize(source: Path, target: Path, type_name: str, *, requantize: bool = False) -> None:
    """Quantise a GGUF file to a type such as "Q4_K_M". `target` appears complete or not at all.

    requantize: allow a source that is quantised already (its losses add up). Raises SreError for an unknown type, a
    source that llama.cpp can't read, and a full disk.
    """
    name = type_name.upper()
    if name not in TYPES:
        raise SreError(f"unknown type {type_name!r}; llama.cpp knows {', '.join(sorted(TYPES))}")
    if not source.is_file():
        raise SreError("no such model file (a GGUF was expected)", file=source)
    start_backend()
    params = _C.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = TYPES[name], usable_cores(), requantize
    with replacing(target) as temporary:
        code = _C.llama_model_quantize(os.fsencode(source), os.fsencode(temporary), ctypes.byref(params))
        if code != 0:
            raise SreError(f"llama.cpp can't quantise it to {name}: {last_log()}", file=source)
    remember(target)
