"""Whether llama.cpp multiplies quantised weights rightly, by a child process: `python product_check.py LIBRARY`.

Compilers have got its AMX instructions wrong, which ends that process or gives other numbers. Exit code 0: the product
is near that of the weights before they were quantised. LIBRARY: ggml's for the CPU. Imports nothing of the package.
"""

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

Q4_K = 12  # ggml's number of the type
WIDTH, ROWS, TOKENS = 256, 32, 35  # the least that AMX is used for; two of its tiles and a part of one
TOLERANCE = 0.15  # of the product's size. Q4_K is off by .06, a product without one of its tiles by .2


@functools.cache
def products_are_right() -> bool:
    """Ask a child process, once, about the installed llama-cpp-python."""
    import llama_cpp

    library = next(Path(llama_cpp.__file__).parent.glob("lib/*ggml-cpu.*"), "")
    command = [sys.executable, "-P", __file__, str(library)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main(library: str) -> int:
    """The exit code: 0 where the product is right."""
    draw = np.random.default_rng(0)
    weights, tokens = (draw.uniform(-1, 1, (count, WIDTH)).astype(np.float32) for count in (ROWS, TOKENS))
    expected = tokens @ weights.T
    missed = np.linalg.norm(_product(ctypes.CDLL(library), weights, tokens) - expected)
    return int(not missed < TOLERANCE * np.linalg.norm(expected))  # NaN is not less


def _product(ggml: Any, weights: Any, tokens: Any) -> Any:
    """`tokens` times `weights`, which ggml quantises before."""

    def call(name: str, *arguments: Any) -> Any:
        function = getattr(ggml, name)
        function.restype = ctypes.c_void_p
        # Pointers and sizes have 64 bits; a function that takes fewer reads the lower ones.
        return function(*(ctypes.c_void_p(value) if isinstance(value, int) else value for value in arguments))

    registry = call("ggml_backend_cpu_reg")
    address = call("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
    memory = listed(call("ggml_backend_reg_dev_get", registry, 0))[0]  # the AMX kernels' own, where there are any
    if not memory or ctypes.string_at(call("ggml_backend_buft_name", memory)) != b"AMX":
        memory = call("ggml_backend_cpu_buffer_type")
    stored, computed = (call("ggml_init", _Init(1 << 24, None, elsewhere)) for elsewhere in (True, False))
    matrix = call("ggml_new_tensor_2d", stored, Q4_K, WIDTH, ROWS)
    call("ggml_backend_alloc_ctx_tensors_from_buft", stored, memory)
    quantised = ctypes.create_string_buffer(weights.nbytes)
    size = call("ggml_quantize_chunk", Q4_K, weights.ctypes, quantised, 0, ROWS, WIDTH, None)
    call("ggml_backend_tensor_set", matrix, quantised, 0, size)
    vectors = call("ggml_new_tensor_2d", computed, 0, WIDTH, TOKENS)
    ctypes.memmove(call("ggml_get_data", vectors), tokens.ctypes, tokens.nbytes)
    result, graph = call("ggml_mul_mat", computed, matrix, vectors), call("ggml_new_graph", computed)
    call("ggml_build_forward_expand", graph, result)
    call("ggml_graph_compute_with_ctx", computed, graph, 2)
    return np.ctypeslib.as_array((ctypes.c_float * ROWS * TOKENS).from_address(call("ggml_get_data", result)))


class _Init(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("numbers_elsewhere", ctypes.c_bool))


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
