"""Loads one GGUF file in a process of its own: `python trial.py FILE`. A damaged file can end that process, no other.

Exit code 0: llama.cpp loads the file, tokenises with it and builds its graph. REFUSED: it said no, and why, on standard
error. Anything else, a signal mostly: llama.cpp itself broke. Imports nothing of the package, so that it starts fast.
"""

import ctypes
import os
import sys
from typing import Any

REFUSED = 3
ERROR = 4  # ggml's log level


def main(path: str) -> int:
    """Load, tokenise, make a context; the exit code comes back."""
    import llama_cpp.llama_cpp as llama

    library: Any = llama

    @library.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_log(level: int, text: bytes, _data: object) -> None:
        if level == ERROR:
            sys.stderr.write(text.decode("utf-8", "replace"))
            sys.stderr.flush()

    library.llama_log_set(on_log, ctypes.c_void_p(0))
    library.llama_backend_init()
    model_options = library.llama_model_default_params()
    model_options.use_extra_bufts = False  # no second copy of the weights
    model_options.n_gpu_layers = 0
    model = library.llama_model_load_from_file(os.fsencode(path), model_options)
    if not model:
        return REFUSED
    context_options = library.llama_context_default_params()
    context_options.n_ctx = context_options.n_batch = context_options.n_ubatch = 64
    context_options.n_threads = context_options.n_threads_batch = 1
    if not library.llama_init_from_model(model, context_options):
        return REFUSED
    ids = (ctypes.c_int32 * 64)()
    library.llama_tokenize(library.llama_model_get_vocab(model), b"a <b>", 5, ids, 64, True, True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
