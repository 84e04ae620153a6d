"""What a run can be planned for: a table of GPUs, and this machine's processor."""

import time
from dataclasses import dataclass, replace

from recipe.system import memory_limit, read_table, usable_cores

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    name: str
    flops: float  # of matrix products a second, 16 bit with 32-bit sums on a GPU, 32 bit on a CPU
    bandwidth: float  # bytes a second
    memory: float  # bytes that a run may use
    pace: float = 1.0  # how long Python takes for the same work, against the reference
    cuda: bool = False


_TABLE = read_table(__file__, "cards.toml")
CARDS = {
    name: Machine(card["name"], card["tflops"] * 1e12, card["gb_s"] * 1e9, card["memory_gib"] * GIB, cuda=True)
    for name, card in _TABLE.items()
}


def card_named(name: str, memory: float) -> Machine:
    """The card that the driver calls so; the nearest in the table where none of it is meant."""
    key = next((key for key in CARDS if key.split("-")[0] in name.lower()), "4090" if memory > 20 * GIB else "3060")
    return replace(CARDS[key], name=name, memory=memory)


# The machine on which the shares in costs.py were measured: two cores of an EPYC 9004 at about 3.5 GHz.
CORE_FLOPS, CORE_BANDWIDTH = 105e9, 20e9


def reference(cores: int = 2, memory_gib: float = 24.0) -> Machine:
    """A CPU like the one measured."""
    return Machine(f"{cores} cores", cores * CORE_FLOPS, cores * CORE_BANDWIDTH, memory_gib * GIB)


HOST = reference(8, 32)  # what is taken to be beside a GPU


def this_cpu(threads: int | None = None) -> Machine:
    """This machine's processor: the reference, faster or slower by one core's matrix products in a tenth of a second.

    Measured in processor time, so that other work on the machine does not count.
    """
    import numpy as np

    size, count, rounds = 64, 64, 0  # too small for BLAS to spread them over threads
    a = np.random.default_rng(0).random((count, size, size), dtype=np.float32)
    out = a @ a
    start = time.process_time()
    while (spent := time.process_time() - start) < 0.1:
        np.matmul(a, a, out=out)
        rounds += 1
    speed = 2 * size**3 * count * rounds / spent / CORE_FLOPS
    cores = min(threads or usable_cores(), usable_cores())
    like = reference(cores)
    memory = memory_limit() or 16 * GIB
    return Machine(f"this CPU, {cores} cores", like.flops * speed, like.bandwidth * speed, memory, pace=1 / speed)
