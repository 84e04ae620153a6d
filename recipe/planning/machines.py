"""What a run can be planned for: a table of GPUs, and this machine's processor, measured in a fifth of a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from recipe.system import memory_limit, usable_cores

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """A GPU (`cuda`) or a CPU.

    flops: matrix products a second (16 bit with 32-bit sums on a GPU, 32 bit on a CPU). bandwidth: bytes a second.
    memory: bytes that a run may use. pace: how long Python takes for the same work, against the reference.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    pace: float = 1.0
    cuda: bool = False


def _card(name: str, memory_gib: float, tflops: float, gb_s: float) -> Machine:
    return Machine(name, tflops * 1e12, gb_s * 1e9, memory_gib * GIB, cuda=True)


# Makers' data sheets: dense products of 16-bit numbers summed in 32 bit (GeForce cards do half of their 16-bit figure
# so), and what the driver leaves free of the memory.
CARDS = {
    "t4": _card("T4 16 GB", 14.6, 65, 320),
    "l4": _card("L4 24 GB", 22.0, 121, 300),
    "3060": _card("RTX 3060 12 GB", 11.6, 25.6, 360),
    "3090": _card("RTX 3090 24 GB", 23.3, 71, 936),
    "4090": _card("RTX 4090 24 GB", 23.3, 165, 1008),
    "a100-40": _card("A100 40 GB", 39.0, 312, 1555),
    "a100-80": _card("A100 80 GB", 78.5, 312, 2039),
    "h100": _card("H100 80 GB", 78.8, 989, 3350),
}

# The machine on which the shares in costs.py were measured: two cores of an EPYC 9004 at about 3.5 GHz.
CORE_FLOPS, CORE_BANDWIDTH, PYTHON_S = 105e9, 20e9, 0.0042


def reference(cores: int = 2, memory_gib: float = 24.0) -> Machine:
    """A CPU like the one measured."""
    return Machine(f"{cores} cores", cores * CORE_FLOPS, cores * CORE_BANDWIDTH, memory_gib * GIB)


def this_cpu(threads: int | None = None) -> Machine:
    """This machine's processor, measured in processor time, so that other work on the machine does not count."""
    import numpy as np

    # The matrices are too small for BLAS to spread them over threads.
    size, count = 64, 64
    a = np.random.default_rng(0).random((count, size, size), dtype=np.float32)
    out = np.empty_like(a)
    core = 2 * size**3 * count / _seconds(lambda: np.matmul(a, a, out=out), 0.08)
    pace = _seconds(lambda: {str(k): k for k in range(20_000)}, 0.06) / PYTHON_S
    cores = min(threads or usable_cores(), usable_cores())
    bandwidth = CORE_BANDWIDTH * cores * core / CORE_FLOPS
    return Machine(f"this CPU, {cores} cores", cores * core, bandwidth, memory_limit() or 16 * GIB, pace)


def _seconds(work: Callable[[], object], budget: float) -> float:
    """Processor time of one call, the mean over `budget` seconds."""
    work()
    start, rounds, spent = time.process_time(), 0, 0.0
    while spent < budget:
        work()
        rounds += 1
        spent = time.process_time() - start
    return spent / rounds
