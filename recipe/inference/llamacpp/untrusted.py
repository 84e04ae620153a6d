"""The check of a GGUF file that this machine hasn't loaded before: it may be damaged, or made to do harm.

First its header is read with every size checked, then llama.cpp loads it in a child process (trial.py), where an abort
inside llama.cpp ends the child alone. A file that passed, or that this package wrote here, isn't checked again.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from recipe.errors import SreError
from recipe.gguf.header import read_header
from recipe.gguf.known import is_known, remember
from recipe.inference.llamacpp.trial import REFUSED

_SECONDS = 600  # the file may lie on a slow disk
_TRIAL = Path(__file__).with_name("trial.py")


def check_model(path: Path) -> None:
    """Raises SreError, with llama.cpp's reason, for a file that llama.cpp refuses or breaks at."""
    if not path.is_file():
        raise SreError("no such model file (a GGUF was expected)", file=path)
    if is_known(path):
        return
    read_header(path)
    command = [sys.executable, "-P", str(_TRIAL), str(path)]
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, env=env, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SreError(f"llama.cpp doesn't load it within {_SECONDS} seconds", file=path) from None
    if done.returncode:
        said = reason(done.stderr.splitlines())
        what = "can't load this file" if done.returncode == REFUSED else "broke while it loaded this file"
        raise SreError(f"llama.cpp {what}: {said}", file=path)
    remember(path)


def reason(lines: list[str]) -> str:
    """The last of what llama.cpp said, on one line."""
    lines = [re.sub(r"^\S+/(?=[\w.-]+:\d+: )", "", line.strip()) for line in lines]  # where llama.cpp was compiled
    last = list(dict.fromkeys(filter(None, lines)))[-3:]
    return "; ".join(last)[-500:] or "it gave no reason"
