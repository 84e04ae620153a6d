"""llama-server as a peer, played by a small program: how it is started, asked and stopped."""

from __future__ import annotations

import json
import os
import socket
import sys
import textwrap

import pytest

from benchmarks.server import run_server, serving
from recipe.errors import SreError

PROGRAM = """
    import http.server, json, os, sys

    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    log = open(options["-m"] + ".log", "a", buffering=1)
    log.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]}) + "\\n")
    mode = open(options["-m"]).read()
    if mode == "broken":
        print("unknown model architecture")
        sys.exit(3)

    class Handler(http.server.BaseHTTPRequestHandler):
        health = 0

        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            Handler.health += 1  # the first one comes while the model is being loaded
            self.answer(200 if Handler.health > 1 else 503, {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            log.write(json.dumps(body) + "\\n")
            if mode == "refusing" and body["n_predict"] > 1:
                return self.answer(500, {"error": "no slot"})
            self.answer(200, {"tokens_predicted": body["n_predict"]})

        def log_message(self, *parts):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "llama-server"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(PROGRAM)}")
    path.chmod(0o755)
    return path


@pytest.fixture
def model(tmp_path):
    """mode -> a "model" with which the program behaves so."""

    def make(mode=""):
        (tmp_path / "m.gguf").write_text(mode)
        return tmp_path / "m.gguf"

    return make


def logged(model):
    start, *asked = map(json.loads, model.with_name(f"{model.name}.log").read_text().splitlines())
    options = dict(zip(start["argv"][::2], start["argv"][1::2], strict=True))
    return start["pid"], options, asked


def stopped(pid, port):
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(port)))
    return True


def test_every_sample_is_asked_with_our_settings(binary, model, workload):
    work = workload([range(20), range(30)], [5, 7], samples=3, temperature=1.0)
    result = run_server(binary, model(), work, threads=2, parallel=4)
    assert result["new_tokens"] == work.new_tokens == 36
    assert result["seconds"] > 0
    pid, options, (warm, *asked) = logged(model())
    assert (options["-np"], options["-t"], options["-tb"], options["--host"]) == ("4", "2", "2", "127.0.0.1")
    assert int(options["-c"]) == 4 * 256  # each slot has room for the longest
    assert warm["n_predict"] == 1
    assert sorted((len(a["prompt"]), a["n_predict"], a["seed"]) for a in asked) == [
        *((20, 5, seed) for seed in range(3)),
        *((30, 7, seed) for seed in range(3)),
    ]
    assert all(a["ignore_eos"] and a["cache_prompt"] and a["temperature"] == 1.0 and a["top_k"] == 0 for a in asked)
    assert stopped(pid, options["--port"])


def test_it_is_stopped_when_it_answers_with_an_error(binary, model, workload):
    with pytest.raises(SreError, match=r"it answered 500.*no slot"):
        run_server(binary, model("refusing"), workload([[1, 2]]), threads=1, parallel=2)
    pid, options, _ = logged(model())
    assert stopped(pid, options["--port"])


def test_it_is_stopped_when_the_caller_is_interrupted(binary, model):
    with (
        pytest.raises(KeyboardInterrupt),
        serving(binary, model(), slots=1, cells=256, threads=1),
    ):
        raise KeyboardInterrupt
    pid, options, _ = logged(model())
    assert stopped(pid, options["--port"])


def test_a_server_that_ends_at_once_says_why(binary, model):
    with (
        pytest.raises(SreError, match="ended with code 3; it said last: unknown model architecture"),
        serving(binary, model("broken"), slots=1, cells=256, threads=1),
    ):
        pytest.fail("it can't be ready")


def test_a_file_that_is_no_program_is_refused(tmp_path, model):
    (tmp_path / "text").write_text("no program")
    with (
        pytest.raises(SreError, match="text: can't be run as llama-server: Permission denied"),
        serving(tmp_path / "text", model(), slots=1, cells=256, threads=1),
    ):
        pytest.fail("it can't be ready")
