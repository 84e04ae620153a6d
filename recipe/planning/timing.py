"""Seconds of each kind of stage: a roofline (the slower of arithmetic and memory traffic), and each step's extra cost.

The shares of a CPU's measured speed are from the quickstart on two cores and from the tiny preset. The shares of a
card's stated speed are assumptions, not measurements: take a GPU's times as right within a factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipe.config import TrainConfig
from recipe.planning.machines import Machine
from recipe.planning.shapes import Shape


@dataclass(frozen=True)
class Shares:
    """Of the machine's speed: training, a pass without gradients, drawing tokens, memory traffic. The rest are seconds:
    per optimiser step, per layer of a drawn token, per stage that loads a model to train, for the first of them.
    """

    train: float
    train_pairs: float
    forward: float
    decode: float
    bandwidth: float
    step_s: float
    layer_s: float
    load_s: float
    start_s: float


CPU = Shares(0.68, 0.43, 0.6, 0.3, 0.5, 0.17, 0.0, 0.6, 8.0)
GPU = Shares(0.4, 0.4, 0.4, 0.4, 0.7, 0.25, 0.0008, 30.0, 60.0)
UNSLOTH_START_S = 4.0  # on a CPU; a GPU's start has it
SEED_S, SEED_S_PER_PARAMETER = 1.9, 35e-9  # converting the embedded GGUF file
WRITE_S_PER_PARAMETER, QUANTISE_S_PER_PARAMETER = 12e-9, 20e-9


def shares(machine: Machine) -> Shares:
    return GPU if machine.cuda else CPU


def training(
    machine: Machine,
    shape: Shape,
    settings: TrainConfig,
    *,
    tokens: float,
    scored: float,
    steps: int,
    adapter: int,
    recompute: bool,
    pairs: bool = False,
) -> float:
    """SFT or DPO over `tokens` tokens, `scored` of them with logits. The frozen weights cost a forward pass and the
    gradients of the activations; the adapter its own gradients too."""
    rule = shares(machine)
    layers = (4 + 2 * recompute) * shape.linear + (6 + 2 * recompute) * adapter
    work = tokens * layers + scored * 4 * shape.head
    speed = machine.flops * (rule.train_pairs if pairs else rule.train)
    return work / speed + (rule.load_s + steps * rule.step_s) * machine.pace


def forward(machine: Machine, shape: Shape, *, tokens: float, scored: float = 0) -> float:
    """A pass without gradients: prefill, or DPO's reference."""
    work = 2 * (tokens * shape.linear + scored * shape.head)
    return work / (machine.flops * shares(machine).forward)


def decoding(machine: Machine, shape: Shape, *, tokens: float, parallel: int, context: float, nf4: bool) -> float:
    """Draw `tokens` tokens, `parallel` sequences of `context` tokens at a time: each step reads all weights once.

    bitsandbytes unpacks NF4 to 16 bit for every product of more than one row: half a byte read, two written, two read.
    """
    rule = shares(machine)
    steps = tokens / parallel
    weights = (4.5 if nf4 else 2.0) * shape.linear + 2.0 * shape.head
    traffic = (weights + shape.kv_bytes(int(parallel * context))) / (machine.bandwidth * rule.bandwidth)
    work = parallel * 2 * (shape.linear + shape.head) / (machine.flops * rule.decode)
    return steps * (max(traffic, work) + shape.layers * rule.layer_s)


def merging(machine: Machine, adapter: int, rank: int) -> float:
    """Six merges measured against the exact sum by QR of their stacked factors. adapter: its parameters."""
    products = (8 + 6 * 32) * rank * adapter  # 2 (in + out) k² a module, k = 2 ranks once and 4 ranks six times
    return 6 * machine.pace + products / (machine.flops * 0.05)  # PEFT is imported for it
