"""The whole of `python -m benchmarks`: every workload with every peer, each measurement in a fresh process, in turn."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import OURS, Results, own_figures, peer_figures
from benchmarks.measure import Job, check_length, measure
from benchmarks.server import run_server
from benchmarks.workloads import NAMES, Workload, cold_start, make_workload
from recipe.errors import SreError, install
from recipe.gguf.header import read_metadata
from recipe.judge.judge import prompts_in
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import write_json
from recipe.system import usable_cores

PEERS = (OURS, "loop", "transformers", "llama-server")
_CEILING = "ceiling"
_FOR_TRANSFORMERS = ("torch", "transformers", "gguf", "safetensors")


@dataclass
class Bench:
    """What was measured. results: workload -> peer -> figures (see figures.py). titles: workload -> what it is."""

    results: Results = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)


def run_bench(
    model: Path,
    *,
    workloads: Sequence[str] = NAMES,
    peers: Sequence[str] | None = None,
    rows: int | None = None,
    repeats: int = 3,
    threads: int | None = None,
    parallel: int = 16,
    llama_server: Path | None = None,
    json_file: Path | None = None,
) -> Bench:
    """Measure a GGUF model. Peers take turns in every repeat, so that a slow minute of the machine hits all of them.

    peers: some of PEERS; None takes those that can be run here. rows: at most so many prompts of a workload. threads:
    of every peer (None: all cores). parallel: sequences decoded at once by ours, slots of llama-server, prompts of a
    padded batch in transformers. json_file: written after each repeat, whole. Raises SreError: no such model, workload,
    peer or program; a peer that fails or writes other lengths; prompts longer than the model's context.
    """
    chosen = choose_peers(peers, llama_server)
    tasks = make_tasks(model, workloads, rows, cold=OURS in chosen)
    job = Job("", model, next(iter(tasks.values())), threads or usable_cores(), parallel)
    plan = [(task, kind) for task in tasks.values() for kind in _kinds(task, chosen)]
    measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
    bench = Bench(titles={name: task.title for name, task in tasks.items()})
    converting = "transformers" in chosen
    total = len(plan) * repeats + converting
    with _stopped_cleanly(), tempfile.TemporaryDirectory() as scratch, bar("bench", total, "measurements") as advance:
        job = replace(job, folder=Path(scratch))
        if converting:
            _convert(job)
            advance(note="converted for transformers")
        for _ in range(repeats):
            for task, kind in plan:
                result = _measure(replace(job, kind=kind, workload=task), llama_server)
                measured.setdefault(task.name, {}).setdefault(kind, []).append(result)
                advance(note=f"{task.name} {kind}")
            bench.results = {name: _figures(tasks[name], found, model) for name, found in measured.items()}
            if json_file:
                write_json(json_file, bench.results)
    return bench


def choose_peers(peers: Sequence[str] | None, llama_server: Path | None) -> tuple[str, ...]:
    """`peers` in the order of PEERS; None stands for all that can be run here. Raises SreError for one that can't."""
    lacking = [name for name in _FOR_TRANSFORMERS if importlib.util.find_spec(name) is None]
    if llama_server and not llama_server.is_file():
        raise SreError("no such program; expected llama-server of llama.cpp", file=llama_server)
    if peers is None:
        able = {OURS: True, "loop": True, "transformers": not lacking, "llama-server": llama_server is not None}
        return tuple(peer for peer in PEERS if able[peer])
    unknown = sorted(set(peers) - set(PEERS))
    if unknown or not peers:
        given = f"no peer {unknown[0]!r}" if unknown else "no peers"
        raise SreError(f"{given}; expected some of {', '.join(PEERS)}", field="peers")
    if "llama-server" in peers and llama_server is None:
        raise SreError("the peer llama-server needs --llama-server PATH", field="peers")
    if "transformers" in peers and lacking:
        advice = install("train")
        raise SreError(f"the peer transformers needs {', '.join(lacking)}: {advice}", field="peers")
    return tuple(peer for peer in PEERS if peer in peers)


def _kinds(task: Workload, peers: Sequence[str]) -> tuple[str, ...]:
    """What is measured of a workload: the peers, and what ours is held against."""
    if task.name not in NAMES:
        return ("cold",)
    return (*peers, _CEILING) if OURS in peers else tuple(peers)


def make_tasks(model: Path, names: Sequence[str], rows: int | None, *, cold: bool = False) -> dict[str, Workload]:
    """The workloads, rendered and tokenised by the model's own template and vocabulary."""
    if not names:
        raise SreError(f"expected some of {', '.join(NAMES)}", field="workload")
    prompts = Prompts(prompts_in(read_metadata(model)))
    from recipe.inference.llamacpp.generator import LlamaCppGenerator

    with LlamaCppGenerator(model, parallel=1) as generator:

        def encode(messages: Any, begun: str) -> list[int]:
            return generator.tokenize(generator.render(messages) + begun)

        tasks = [make_workload(name, rows, prompts, encode) for name in dict.fromkeys(names)]
        if cold:
            tasks += [cold_start(prompts, encode, label_only=label_only) for label_only in (True, False)]
        for task in tasks:
            if task.longest > generator.context:
                needed = f"workload {task.name} needs {task.longest} tokens"
                raise SreError(f"{needed}, more than the context of {generator.context}", file=model)
    return {task.name: task for task in tasks}


def _convert(job: Job) -> None:
    """Write the GGUF's weights as a folder that transformers reads."""
    try:
        measure(replace(job, kind="convert"))
    except SreError as error:
        raise SreError(f"{error}; or leave transformers out: --peers ours,loop") from error


def _measure(job: Job, llama_server: Path | None) -> dict[str, Any]:
    if job.kind != "llama-server":
        return measure(job)
    assert llama_server is not None
    # The server is a fresh process itself; what asks it only waits.
    result = run_server(llama_server, job.model, job.workload, threads=job.threads, parallel=job.parallel)
    check_length(job.kind, job.workload, result)
    return result


def _figures(task: Workload, measured: dict[str, list[dict[str, Any]]], model: Path) -> dict[str, dict[str, Any]]:
    """Peer -> figures, of one workload."""
    found = {OURS if kind == "cold" else kind: results for kind, results in measured.items() if kind != _CEILING}
    seconds = {peer: [result["seconds"] for result in results] for peer, results in found.items()}
    figures = {peer: peer_figures(task, taken, seconds.get(OURS)) for peer, taken in seconds.items()}
    if _CEILING in measured:
        file_mib = model.stat().st_size / 2**20
        figures[OURS] |= own_figures(task, found[OURS], measured[_CEILING], file_mib)
    for peer, results in found.items():
        figures[peer] |= {"dtype": results[0]["dtype"]} if "dtype" in results[0] else {}
    return figures


@contextlib.contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """A SIGTERM ends the block like an exception, so that no measurement or server goes on by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
