"""Self-Rationalizing Evaluators: train your own LLM judge, take it home as one GGUF file, judge on CPU.

Importing this package imports neither torch, transformers nor llama_cpp (tests/test_imports.py proves it).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("self-rationalizing-evaluators")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
