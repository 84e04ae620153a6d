"""From a model's file and a key's to a running server: what `sre serve` does. Imports nothing of the extra `serve`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.errors import SreError, install
from recipe.judge.judge import Judge

KEY_VARIABLE = "SRE_API_KEY"


def serve_file(
    model: Path,
    *,
    api_key_file: Path | None = None,
    threads: int | None = None,
    parallel: int = 16,
    context: int = 4096,
    memory: str | None = None,
    started: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serve the judge in a GGUF file until interrupted; `options` are those of `app.serve`.

    The key is the text of `api_key_file`, or else of the variable SRE_API_KEY. `started` is told, in one line, where
    the server is. Raises SreError: the extra is missing, no such file, an empty key, an address in use.
    """
    try:
        from recipe.judge.server.app import serve
    except ImportError as error:
        raise SreError(f"serving needs the extra: {install('serve')} ({error})") from None
    key = read_key(api_key_file)
    with Judge.from_gguf(model, threads=threads, parallel=parallel, context=context, memory=memory) as judge:
        said = "{} is served at {} (the page: /, the API: /docs); Ctrl-C ends it"
        serve(judge, api_key=key, started=lambda address: started(said.format(judge.name, address)), **options)


def read_key(file: Path | None) -> str | None:
    """The key that clients must send; None for none. Raises SreError."""
    try:
        text = os.environ.get(KEY_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SreError(f"the key can't be read: {error}", file=file) from None
    if text is None:
        return None
    if not text.strip() or not text.strip().isprintable():
        raise SreError("expected a key in one line, not an empty text", file=file or KEY_VARIABLE)
    return text.strip()
