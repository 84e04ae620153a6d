"""Self-Rationalizing Evaluators: train your own LLM judge, take it home as one GGUF file, judge on CPU.

Importing this package imports neither torch, transformers nor llama_cpp (tests/test_imports.py proves it).
"""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("self-rationalizing-evaluators")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

# The threads of llama.cpp and PyTorch meet at a barrier thousands of times a second. By default a thread that waits
# there spins for milliseconds, and on a busy machine it takes that time from the thread it waits for. OpenMP libraries
# read these variables when they are loaded. Your own settings win.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["GOMP_SPINCOUNT"] = "1000"  # GCC's OpenMP: spin for some 50 microseconds, then sleep
