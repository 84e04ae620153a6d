"""What a run can be planned for: a table of GPUs, and this machine's processor, measured in a fifth of a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipe.system import usable_cores

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """flops: matrix products a second (16 bit with 32-bit sums on a GPU, 32 bit on a CPU). bandwidth: bytes/s of its
    memory. memory: bytes that a run may use. pace: how long Python takes for the same work, against the reference.
    cuda: a GPU.
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

# The machine that timing.py's shares were measured on: two cores of an EPYC 9004 at about 3.5 GHz.
CORE_FLOPS, CORE_BANDWIDTH, PYTHON_S = 105e9, 20e9, 0.0042


def reference(cores: int = 2, memory_gib: float = 24.0) -> Machine:
    """A CPU like the one measured; with 8 cores and 32 GiB, what is taken for the host of a GPU."""
    return Machine(f"{cores} cores", cores * CORE_FLOPS, cores * CORE_BANDWIDTH, memory_gib * GIB)


def this_cpu(threads: int | None = None) -> Machine:
    """This machine's processor. Measured in processor time, so that other work on the machine does not count."""
    cores = min(threads or usable_cores(), usable_cores())
    flops, pace = _core_flops(), _python_seconds() / PYTHON_S
    speed = cores * flops
    return Machine(f"this CPU, {cores} cores", speed, CORE_BANDWIDTH * speed / CORE_FLOPS, _memory(), pace)


def _core_flops() -> float:
    """One core's matrix products a second. The matrices are too small for BLAS to spread them over threads."""
    import numpy as np

    size, count = 64, 64
    a = np.random.default_rng(0).random((count, size, size), dtype=np.float32)
    out = np.empty_like(a)
    seconds, rounds = _timed(lambda: np.matmul(a, a, out=out), 0.08)
    return 2 * size**3 * count * rounds / seconds


def _python_seconds() -> float:
    seconds, rounds = _timed(lambda: {str(k): k for k in range(20_000)}, 0.06)
    return seconds / rounds


def _timed(work: Callable[[], object], budget: float) -> tuple[float, int]:
    work()
    start, rounds, spent = time.process_time(), 0, 0.0
    while spent < budget:
        work()
        rounds += 1
        spent = time.process_time() - start
    return spent, rounds


def _memory() -> float:
    """Bytes of memory, or as many as this container is allowed."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 16.0 * GIB
    try:
        return min(total, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total
