"""Bytes that each kind of stage needs at its peak: weights, adapter, optimiser, activations, KV.

Exact for weights, adapter, optimiser and KV cache; the activations are an upper bound at the longest row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from recipe.config import Config
from recipe.planning.machines import GIB, Machine
from recipe.planning.shapes import Shape
from recipe.planning.workload import Workload

NF4_BYTES = 0.516  # a parameter in NF4 with doubly quantised scales
RUNTIME_GPU = 0.8 * GIB  # CUDA's context and the allocator's slack
RUNTIME_CPU = 0.9 * GIB  # Python, torch and the trainers, and what the allocator keeps
UNSLOTH_CPU = 0.4 * GIB  # more, with Unsloth imported
RUNTIME_LLAMA = 0.6 * GIB  # the same process without a trainer's buffers; compute buffers of a batch of 512
LOGIT_CHUNK = 256  # completion tokens whose logits are computed at a time


@dataclass(frozen=True)
class Memory:
    """Bytes. `runtime` is what the libraries take before any model is loaded."""

    weights: float = 0
    adapter: float = 0
    optimiser: float = 0
    activations: float = 0
    kv: float = 0
    runtime: float = 0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))


def quantised(config: Config, machine: Machine) -> bool:
    """Whether training and torch sampling load the weights in NF4 (engines/loading.resolve_quantization)."""
    return config.model.quantization == "nf4" or (config.model.quantization == "auto" and machine.cuda)


def checkpointed(config: Config, machine: Machine) -> bool:
    """Whether activations are recomputed in the backward pass (Job.loading)."""
    setting = config.model.gradient_checkpointing
    return machine.cuda if setting == "auto" else bool(setting)


def weight_bytes(shape: Shape, *, nf4: bool) -> float:
    """The model loaded to train: embeddings and norms stay in 16 bit."""
    if not nf4:
        return 2.0 * shape.parameters
    return NF4_BYTES * shape.linear + 2.0 * (shape.parameters - shape.linear)


def adapter_rank(config: Config, *, merged: bool) -> int:
    """The exact merge of two adapters has the sum of their ranks."""
    return config.lora.r * (2 if merged and config.merge.method == "exact" else 1)


def training(work: Workload, shape: Shape, machine: Machine, *, dpo: bool) -> Memory:
    """SFT, or DPO (whose trainer keeps a copy of the adapter as its reference)."""
    config = work.config
    settings = config.dpo if dpo else config.sft
    adapter = shape.adapter(adapter_rank(config, merged=dpo), config.lora.target_modules)
    # On a CPU a pair's prompt is run once (training/pair_batch.py), on a GPU once per completion.
    apart = 2 if dpo and machine.cuda else 1
    longest_answer = 2 * max(load.completion for load in work.tasks.values())
    tokens = settings.batch_size * (apart * work.longest + (longest_answer if dpo and not machine.cuda else 0))
    if not dpo:
        logits = min(LOGIT_CHUNK, settings.batch_size * longest_answer) if machine.cuda else tokens / 2
    else:
        logits = min(LOGIT_CHUNK, settings.batch_size * 2 * longest_answer)
    state = 2 if machine.cuda else 8  # 8-bit AdamW on a GPU
    return Memory(
        weights=weight_bytes(shape, nf4=quantised(config, machine)),
        adapter=4.0 * adapter * (2 if dpo else 1),
        optimiser=(4.0 + state) * adapter,  # the gradients, and two moments
        activations=_activations(shape, tokens, checkpointed(config, machine), machine)
        + logits * shape.vocab * (2 + 2 + 4),  # 16-bit logits and their gradient, 32-bit log-softmax
        runtime=runtime(config, machine),
    )


def runtime(config: Config, machine: Machine) -> float:
    """What the libraries of a training stage take."""
    if machine.cuda:
        return RUNTIME_GPU
    return RUNTIME_CPU + (UNSLOTH_CPU if config.model.engine != "transformers" else 0)


def _activations(shape: Shape, tokens: float, checkpointed: bool, machine: Machine) -> float:
    """What the backward pass needs of `tokens` tokens, in 16 bit; attention keeps no square matrix."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 2 * tokens * (6 * shape.hidden + 3 * queries + 4 * keys + 5 * shape.intermediate)
    if not machine.cuda:  # PEFT keeps 32-bit copies of what its adapters read
        layer *= 2
    if checkpointed:  # one layer at a time, its gradients beside it, and every layer's input
        return 2 * layer + 2 * tokens * shape.hidden * shape.layers
    return layer * shape.layers


def torch_sampling(work: Workload, shape: Shape, machine: Machine, *, answer: int) -> Memory:
    """engines/generation.py: batches of `parallel` rows, padded to the longest; the longest rows come first."""
    config = work.config
    prompt = max(load.longest - load.completion for load in work.tasks.values())
    tokens = config.sample.parallel * (min(config.model.max_length, prompt) + answer)
    nf4 = quantised(config, machine)
    adapter = shape.adapter(adapter_rank(config, merged=True), config.lora.target_modules)
    return Memory(
        weights=weight_bytes(shape, nf4=nf4),
        adapter=4.0 * adapter,
        activations=2.0 * tokens * (3 * shape.hidden + 3 * shape.intermediate)
        + config.sample.parallel * shape.vocab * 12,
        # One layer's keys and values stand there twice: transformers' cache grows by copying, our decoder copies the
        # rows that go on.
        kv=shape.kv_bytes(int(tokens)) * (1 + 1 / shape.layers),
        runtime=runtime(config, machine),
    )


def llama_cpp(work: Workload, shape: Shape, *, answer: int) -> Memory:
    """engines/llamacpp.py: a 16-bit snapshot in memory and a KV cache of at most so many cells."""
    config = work.config
    context = config.model.max_length + answer
    cells = max(context, config.sample.parallel * 1024)
    bytes_each = 4 if config.export.snapshot == "F32" else 2
    return Memory(
        weights=float(bytes_each * shape.parameters),
        kv=shape.kv_bytes(cells),
        activations=512 * shape.vocab * 4,
        runtime=RUNTIME_LLAMA,
    )


def on_disk(config: Config, shape: Shape, snapshots: int) -> float:
    """Bytes of the run folder: the seed model, the adapters, the snapshots and the exported types."""
    bits = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_0": 4.6}
    files = sum(bits.get(name, 8.5) for name in config.export.types) + bits[config.export.snapshot] * snapshots
    adapters = shape.adapter(config.lora.r, config.lora.target_modules) * (4 + 2 * config.iterations)
    return shape.parameters * (2 + files / 8) + 4.0 * adapters
