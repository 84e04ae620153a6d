"""A server over a scripted engine, on a free port of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recipe.inference.base import Request
from recipe.judge import Judge
from tests.scripted import ScriptedGenerator


@contextlib.contextmanager
def serving(
    script: Any, settings: Any = None, *, queue: int = 64, pace: float = 0.0, context: int | None = None
) -> Iterator[tuple[str, Any]]:
    """A server in a thread: its address and its application."""
    from recipe.judge.server.app import create_app
    from recipe.judge.server.connections import Server
    from recipe.judge.server.guard import Settings

    settings = dataclasses.replace(settings or Settings(), queue=queue)
    app = create_app(Judge(ScriptedGenerator(script, pace=pace, context=context)), settings)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        server = Server(app, app.state.service.close)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join()
            app.state.service.close()


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def echo() -> Any:
    """A script that says which question it answers; to "forever" it goes on and on."""

    def script(request: Request) -> list[str]:
        text = request.messages[-1].content
        if "forever" in text:
            return ["w " * 10_000]
        marks = re.findall(r"mark-[\w-]+", text) or ["nothing"]
        return [f"I saw {marks[0]}. [RESULT] {label}" for label in request.labels or (1,)]

    return script


@pytest.fixture(scope="session")
def events() -> Any:
    """Server-sent events as (name, data)."""

    def read(text: str) -> list[tuple[str, Any]]:
        found = []
        for block in text.strip().split("\n\n"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found

    return read


@pytest.fixture(scope="session")
def until() -> Any:
    """Wait for something that happens in another thread."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)

    return wait
