"""One measurement in one fresh process: `measure(job)` starts it, `python -m benchmarks.measure` is it.

The job comes pickled on standard input; the result goes as the last line of standard output:

    {"seconds": 4.4, "new_tokens": 640, "peak_mib": 402, "kv_mib": 360.0}
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.workloads import Workload
from recipe.errors import SreError
from recipe.inference.base import Generator, Request, Sampling
from recipe.system import peak_rss_mb

if TYPE_CHECKING:
    from recipe.inference.llamacpp.generator import LlamaCppGenerator


@dataclass(frozen=True)
class Job:
    """kind: a name in KINDS. model: a GGUF file. folder: the same model for transformers. started: time.time() when
    its process was started."""

    kind: str
    model: Path
    workload: Workload
    threads: int
    parallel: int
    folder: Path | None = None
    started: float = 0.0


def measure(job: Job, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `job` in a new interpreter, with `environment` in addition to this process's own.

    Raises SreError when it fails, or when it wrote another number of tokens than the workload has: then nothing can be
    compared.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure"],
        input=pickle.dumps(replace(job, started=time.time())),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise SreError(f"measuring {job.kind} ended with code {done.returncode}: {said[0]}")
    result: dict[str, Any] = json.loads(lines[-1])
    if "error" in result:
        raise SreError(f"measuring {job.kind}: {result['error']}")
    check_length(job.kind, job.workload, result)
    return result


def check_length(peer: str, workload: Workload, result: dict[str, Any]) -> None:
    """Raise SreError unless as many tokens were written as the workload asks for."""
    written = result.get("new_tokens", workload.new_tokens)
    if written != workload.new_tokens:
        raise SreError(
            f"{peer} wrote {written} tokens where workload {workload.name} has {workload.new_tokens}: "
            "lengths differ, so times can't be compared"
        )


def draw(generator: Generator, workload: Workload) -> int:
    """Run a workload with its fixed lengths; the number of new tokens. Raises SreError for what can't be judged."""
    ordered = sorted(workload.items, key=lambda item: item.new_tokens)
    new = 0
    # Sampling has one length a call, so a workload of three lengths is three calls.
    for count, items in itertools.groupby(ordered, key=lambda item: item.new_tokens):
        requests = [Request(item.id, item.messages, item.labels, label_only=workload.label_only) for item in items]
        sampling = Sampling(workload.temperature, workload.samples, count)
        for completion in generator.generate(requests, sampling):
            if completion.error:
                raise SreError(f"{completion.request_id}: {completion.error}")
            new += 1 if workload.label_only else len(completion.token_ids)
    return new


def _ours(job: Job) -> dict[str, Any]:
    from benchmarks.speed import kv_bytes
    from recipe.inference.llamacpp.kv_cache import wants_kernels

    with _generator(job) as generator:
        first = job.workload.items[0]
        draw(generator, replace(job.workload, items=(replace(first, new_tokens=1),), samples=1))  # untimed
        begin = time.perf_counter()
        new = draw(generator, job.workload)
        seconds = time.perf_counter() - begin
        kv_mib = kv_bytes(generator) / 2**20
    return {
        "seconds": seconds,
        "new_tokens": new,
        "peak_mib": peak_rss_mb(),
        "kv_mib": kv_mib,
        "kernels": "native" if wants_kernels("native") else "llama.cpp's own",
    }


def _cold(job: Job) -> dict[str, Any]:
    """From the start of the process: the way of a user who opens a judge and asks it once."""
    from recipe.judge.judge import Judge

    with Judge.from_gguf(job.model, threads=job.threads, parallel=job.parallel) as judge:
        new = draw(without_end(cast("LlamaCppGenerator", judge.generator)), job.workload)
        seconds = time.time() - job.started
    return {"seconds": seconds, "new_tokens": new}


def _ceiling(job: Job) -> dict[str, Any]:
    from benchmarks.speed import decode_rate, prefill_rate

    by_length = sorted(job.workload.items, key=lambda item: len(item.ids))
    by_answer = sorted(job.workload.items, key=lambda item: item.new_tokens)
    middle = len(by_length) // 2
    with _generator(job) as generator:
        prefill = prefill_rate(generator, by_length[middle].ids)
        decode = decode_rate(generator, by_length[middle].ids, by_answer[middle].new_tokens, job.parallel)
    return {"prefill": prefill, "decode": decode}


def _loop(job: Job) -> dict[str, Any]:
    from benchmarks.peers import run_loop

    workload = job.workload
    prompts = [(item.ids, item.new_tokens) for item in workload.items]
    seconds, new = run_loop(
        job.model, prompts, samples=workload.samples, temperature=workload.temperature, threads=job.threads
    )
    return {"seconds": seconds, "new_tokens": new}


def _convert(job: Job) -> dict[str, Any]:
    from benchmarks.peers import dtype_name
    from recipe.gguf.importer import import_gguf

    assert job.folder is not None
    import_gguf(job.model, job.folder, dtype_name())
    return {}


def _transformers(job: Job) -> dict[str, Any]:
    from benchmarks.peers import run_transformers

    assert job.folder is not None
    workload = job.workload
    seconds, new, dtype = run_transformers(
        job.folder,
        [(item.ids, item.new_tokens) for item in workload.items],
        samples=workload.samples,
        temperature=workload.temperature,
        threads=job.threads,
        parallel=job.parallel,
    )
    return {"seconds": seconds, "new_tokens": new, "dtype": dtype}


def _train(job: Job) -> dict[str, Any]:
    """Steps of a random model as wide as SmolLM2-135M, in the precision that training takes here."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipe.inference.pytorch.loading import compute_dtype, use_threads

    use_threads(job.threads)
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(vocab_size=49_152, num_hidden_layers=6, tie_word_embeddings=True, **sizes)
    model = LlamaForCausalLM(config).to(compute_dtype())
    ids = torch.randint(config.vocab_size, (1, 512))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    step()  # untimed
    begin = time.perf_counter()
    for _ in range(4):
        step()
    return {"seconds": time.perf_counter() - begin}


def _generator(job: Job) -> LlamaCppGenerator:
    from recipe.inference.llamacpp.generator import LlamaCppGenerator

    return without_end(LlamaCppGenerator(job.model, threads=job.threads, parallel=job.parallel))


def without_end(generator: LlamaCppGenerator) -> LlamaCppGenerator:
    """The generator, whose answers now have exactly `max_tokens` tokens: no token ends one."""
    generator.cache.is_end = lambda token: False  # type: ignore[assignment]
    return generator


KINDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "ours": _ours,
    "cold": _cold,
    "ceiling": _ceiling,
    "loop": _loop,
    "convert": _convert,
    "transformers": _transformers,
    "train": _train,
}


def main() -> None:
    """Read a job, do it, write its result."""
    job: Job = pickle.loads(sys.stdin.buffer.read())
    try:
        result = KINDS[job.kind](job)
    except SreError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
