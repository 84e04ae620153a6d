"""llama.cpp's tokenizer on text of any length.

Several of its pre-tokenizers (tekken, gpt-4o, llama4, deepseek, bloom) use std::regex. Its recursion takes about 330
bytes of stack for each character of a run: 30,000 equal characters would overflow 8 MB and end the process.
"""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llama_cpp

LONG_TEXT = 1000  # characters from which on a text gets a thread with a stack of its own
_stack_size = threading.Lock()  # Python has one setting for all threads


def token_ids(vocab: Any, text: str) -> list[int]:
    """Token ids of `text`. Special tokens spelt in it are recognised, none are added."""
    if len(text) < LONG_TEXT:
        return _token_ids(vocab, text)
    with _stack_size, ThreadPoolExecutor(1) as pool:
        before = threading.stack_size(2**20 + 1024 * len(text))
        try:
            return pool.submit(_token_ids, vocab, text).result()
        finally:
            threading.stack_size(before)


def _token_ids(vocab: Any, text: str) -> list[int]:
    raw = text.encode("utf-8")
    ids = (ctypes.c_int32 * (4 * len(raw) + 8))()  # a space may become the three bytes of ▁
    count: int = llama_cpp.llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, len(ids), False, True)
    return list(ids[:count])
