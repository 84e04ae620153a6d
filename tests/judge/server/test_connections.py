"""Connections that say nothing or speak slowly, more of them than there may be, and how a server ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from recipe.judge.server import connections

WAIT = 20
SCORE: dict[str, Any] = {"conversation": "Say mark-0 now", "rubric": "Is it said?", "response": "Fine."}


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def closed(client: socket.socket) -> bool:
    """Whether the server has closed it, or does within the time limit."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(4096):
            pass
    return True


def test_300_idle_connections_keep_nobody_out(running: Callable[..., Any], echo: Any) -> None:
    with running(echo) as (address, _), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(address)) for _ in range(300)]
        for client in idle[::2]:
            client.sendall(b"POST /v1/judge/score HTTP/1.1\r\n")
        begin = time.monotonic()
        for _ in range(3):
            assert httpx.post(f"{address}/v1/judge/score", json=SCORE, timeout=WAIT).json()["label"] == 1
        assert time.monotonic() - begin < WAIT / 2
        # Those that have waited longest had to go.
        assert all(closed(client) for client in idle[:40])


@pytest.mark.parametrize("files", [64, 128])
def test_with_few_files_allowed_idle_connections_keep_nobody_out_and_fill_no_log(files: int) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
    with served(limited) as (address, process), contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(connect(address))
        begin = time.monotonic()
        assert httpx.get(f"{address}/health", timeout=WAIT).status_code == 200
        assert time.monotonic() - begin < 5  # a head is waited for twice as long
        process.terminate()
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_request_under_way_is_not_idle(
    running: Callable[..., Any], echo: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(connections, "MOST", 3)
    body = {**SCORE, "conversation": "forever", "max_tokens": 300, "stream": True}
    with running(echo, pace=0.002) as (address, _), contextlib.ExitStack() as stack:
        with httpx.stream("POST", f"{address}/v1/judge/score", json=body, timeout=WAIT) as response:
            pieces = response.iter_text()
            next(pieces)
            for _ in range(9):
                stack.enter_context(connect(address))
            text = "".join(pieces)
        assert "event: result" in text


def test_a_head_that_does_not_come_in_time_ends_the_connection(
    running: Callable[..., Any], echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with running(echo) as (address, _), contextlib.ExitStack() as stack:
        silent, slow, again = (stack.enter_context(connect(address)) for _ in range(3))
        again.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in again.recv(4096)
        again.sendall(b"GET /health HT")

        def trickle() -> None:
            with contextlib.suppress(OSError):
                for byte in b"GET /health HTTP/1.1\r\nX: " + b"x" * 100:
                    slow.sendall(bytes([byte]))
                    time.sleep(0.05)

        thread = threading.Thread(target=trickle)
        thread.start()
        begin = time.monotonic()
        assert closed(silent)
        assert closed(slow)
        assert closed(again)
        assert time.monotonic() - begin < 5
        thread.join()


SERVER = """
from tests.scripted import ScriptedGenerator
from recipe.judge import Judge
from recipe.judge.server import connections
from recipe.judge.server.app import serve
connections.GRACE_SECONDS = 2.0
script = lambda request: ["w " * (60 if "short" in request.messages[-1].content else 10_000)]
serve(Judge(ScriptedGenerator(script, pace=0.01)), port=0, started=lambda address: print(address, flush=True))
"""


@contextlib.contextmanager
def served(before: str = "") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", before + SERVER], env=environment, **pipes) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_finishes_what_it_can_and_answers_the_rest_with_503(number: signal.Signals) -> None:
    found: dict[str, httpx.Response] = {}

    def ask(name: str, **more: Any) -> threading.Thread:
        def post() -> None:
            body = {**SCORE, "conversation": name, "constrain": False, "max_tokens": 9000, **more}
            found[name] = httpx.post(f"{address}/v1/judge/score", json=body, timeout=WAIT)

        thread = threading.Thread(target=post)
        thread.start()
        return thread

    with served() as (address, process):
        threads = [ask("long"), ask("stream", stream=True), ask("short")]
        end = time.monotonic() + WAIT
        while "short" not in found and "sre_queue_depth 3.0" not in httpx.get(f"{address}/metrics").text:
            assert time.monotonic() < end
        begin = time.monotonic()
        process.send_signal(number)
        for thread in threads:
            thread.join(WAIT)
        process.wait(WAIT)
        assert time.monotonic() - begin < 60  # a limit; it takes the grace
        assert process.stderr
        said = process.stderr.read()
    assert found["short"].status_code == 200
    assert (found["long"].status_code, found["long"].json()["error"]["code"]) == (503, "unavailable")
    assert '"code": "unavailable"' in found["stream"].text
    assert "event: error" in found["stream"].text
    assert said == ""
    assert process.returncode in (0, -number)
