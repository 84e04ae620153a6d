"""llama-server as a peer: started for one measurement on a free loopback port, asked in parallel, always stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.workloads import Item, Workload
from recipe.errors import SreError

LOOPBACK = "127.0.0.1"
START_S, STOP_S, ANSWER_S = 300.0, 10.0, 3600.0


def run_server(binary: Path, model: Path, workload: Workload, *, threads: int, parallel: int) -> dict[str, Any]:
    """Send every sample of a workload to a fresh llama-server with `parallel` slots, as many at a time.

    Its prompt cache is on and end tokens are ignored. Returns {"seconds", "new_tokens"}; starting is not timed. Raises
    SreError when the program can't be run, ends, or answers with an error.
    """
    cell = -(-(workload.longest + 1) // 256) * 256  # llama-server shares its context out evenly
    with serving(binary, model, slots=parallel, cells=parallel * cell, threads=threads) as port:
        _complete(port, workload.items[0].ids[:8], 1, 0.0, 0)  # untimed: pages the weights in
        jobs = [(item, sample) for item in workload.items for sample in range(workload.samples)]

        def ask(job: tuple[Item, int]) -> int:
            item, sample = job
            return _complete(port, item.ids, item.new_tokens, workload.temperature, sample)

        with ThreadPoolExecutor(parallel) as clients:
            begin = time.perf_counter()
            new = sum(clients.map(ask, jobs))
            seconds = time.perf_counter() - begin
    return {"seconds": seconds, "new_tokens": new}


@contextlib.contextmanager
def serving(binary: Path, model: Path, *, slots: int, cells: int, threads: int) -> Iterator[int]:
    """The port of a llama-server that is ready; it is stopped on every way out. cells: context of all slots."""
    port = _free_port()
    options = {
        "-m": model,
        "--host": LOOPBACK,
        "--port": port,
        "-np": slots,
        "-c": cells,
        "-t": threads,
        "-tb": threads,
    }
    command = [os.fspath(binary), *(str(part) for pair in options.items() for part in pair)]
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            raise SreError(f"can't be run as llama-server: {error.strerror}", file=binary) from error
        try:
            _wait(process, port)
            yield port
        except (OSError, http.client.HTTPException, SreError) as error:
            log.seek(0)
            said = log.read().decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise SreError(f"llama-server failed: {error or type(error).__name__}; it said last: {said[0]}") from error
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Until the server has loaded its model."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SreError(f"it ended with code {process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _call(port, "GET", "/health")[0] == 200:
                return
        time.sleep(0.05)
    raise SreError(f"it was not ready after {START_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _complete(port: int, ids: tuple[int, ...], count: int, temperature: float, seed: int) -> int:
    """The number of tokens that came back for one prompt."""
    body = {
        "prompt": list(ids),
        "n_predict": count,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": seed,
        "ignore_eos": True,
        "cache_prompt": True,
    }
    status, text = _call(port, "POST", "/completion", body)
    if status != 200:
        raise SreError(f"it answered {status}: {text[:200]}")
    return int(json.loads(text)["tokens_predicted"])


def _call(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_S)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
