"""Bytes and seconds of each kind of stage.

Bytes are exact for weights, adapter, optimiser and KV cache; the activations are an upper bound at the longest row.
Seconds are a roofline (the slower of arithmetic and memory traffic) plus what each step costs beside it. The shares of
a CPU's measured speed are from the quickstart on two cores and from the tiny preset; those of a card's stated speed are
assumptions: take a GPU's times as right within a factor of two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from recipe.config import Task, TrainConfig
from recipe.gguf.shape import Shape
from recipe.planning.machines import CORE_FLOPS, GIB, HOST, Machine
from recipe.planning.workload import Workload

NF4_BYTES = 0.516  # a parameter in NF4 with doubly quantised scales
RUNTIME_GPU = 0.8 * GIB  # CUDA's context and the allocator's slack
RUNTIME_CPU = 1.2 * GIB  # Python, torch, Unsloth and the trainers, and what the allocator keeps
RUNTIME_LLAMA = 0.6 * GIB  # the same process without a trainer's buffers; compute buffers of a batch of 512
LOGIT_CHUNK = 256  # completion tokens whose logits are computed at a time
DRAW_S_PER_LOGIT = 13e-9  # a token drawn by numpy, and its log-probability: measured on one core
VLLM_SEQUENCES = 256  # that it decodes together at most
VLLM_MEMORY = 0.85  # of the card's
SEED_S = 2.0  # linking the seed model; some seconds more for converting the embedded one
MERGE_S = 1.0  # reading two adapters and writing one
WRITE_S_PER_PARAMETER, QUANTISE_S_PER_PARAMETER = 12e-9, 20e-9
GGUF_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_0": 4.6}


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


@dataclass(frozen=True)
class Shares:
    """Of the machine's stated or measured speed; the last four are seconds beside it."""

    train: float
    train_pairs: float
    forward: float  # a pass without gradients
    decode: float
    bandwidth: float
    step_s: float  # per optimiser step
    layer_s: float  # per layer of a drawn token
    load_s: float  # per stage that loads a model to train
    start_s: float  # for the first of them


CPU = Shares(0.68, 0.43, 0.6, 0.3, 0.5, 0.17, 0.0, 0.6, 10.0)
GPU = Shares(0.4, 0.4, 0.4, 0.4, 0.7, 0.25, 0.0008, 30.0, 60.0)


class Costs:
    """What the stages of one run take on one machine. host: the processor beside a GPU, where llama.cpp judges."""

    def __init__(self, work: Workload, shape: Shape, machine: Machine, *, host: bool = False) -> None:
        self.work, self.shape, self.machine = work, shape, machine
        self.config = config = work.config
        self.shares = GPU if machine.cuda else CPU
        quantization, checkpointing = config.model.quantization, config.model.gradient_checkpointing
        self.nf4 = quantization == "nf4" or (quantization == "auto" and machine.cuda)
        self.checkpointed = machine.cuda if checkpointing == "auto" else bool(checkpointing)
        engine, layers = config.sample.engine, config.sample.gpu_layers
        self.on_torch = not host and (engine in ("torch", "vllm") or (engine == "auto" and machine.cuda))
        # Of the layers that llama.cpp runs. Whether it was built for a GPU is not known for another machine.
        self.offloaded = 1.0 if layers in (None, -1) else min(1.0, (layers or 0) / shape.layers)

    # --- bytes ---

    def training_memory(self, *, dpo: bool) -> Memory:
        """SFT, or DPO, whose trainer keeps a copy of the adapter as its reference."""
        shape, cuda = self.shape, self.machine.cuda
        size = (self.config.dpo if dpo else self.config.sft).batch_size
        adapter = self._adapter(merged=dpo)
        longest_answer = 2 * max(load.completion for load in self.work.tasks.values())
        # On a CPU a pair's prompt is run once (training/pair_batch.py), on a GPU once per completion.
        tokens: float = size * self.work.longest
        if dpo:
            tokens = 2 * tokens if cuda else tokens + size * longest_answer
        logits = tokens / 2
        if dpo or cuda:
            logits = min(LOGIT_CHUNK, size * longest_answer * (2 if dpo else 1))
        # What the backward pass needs of the tokens, in 16 bit; attention keeps no square matrix.
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        layer = 2 * tokens * (6 * shape.hidden + 3 * queries + 4 * keys + 5 * shape.intermediate)
        if not cuda:  # PEFT keeps 32-bit copies of what its adapters read
            layer *= 2
        layers = layer * shape.layers
        if self.checkpointed:  # one layer at a time, its gradients beside it, and every layer's input
            layers = 2 * layer + 2 * tokens * shape.hidden * shape.layers
        return Memory(
            weights=self._weights(),
            adapter=4.0 * adapter * (2 if dpo else 1),
            optimiser=(4.0 + (2 if cuda else 8)) * adapter,  # the gradients and two moments: 8-bit AdamW on a GPU
            # Beside the layers': 16-bit logits and their gradient, 32-bit log-softmax.
            activations=layers + logits * shape.vocab * (2 + 2 + 4),
            runtime=RUNTIME_GPU if cuda else RUNTIME_CPU,
        )

    def generation_memory(self, answer: int) -> Memory:
        """Judging with torch in batches of `parallel` rows, padded to the longest; or with llama.cpp."""
        if not self.on_torch:
            return self.llama_cpp_memory(answer)
        config, shape = self.config, self.shape
        prompt = max(load.longest - load.completion for load in self.work.tasks.values())
        tokens = config.sample.parallel * (min(config.model.max_length, prompt) + answer)
        return Memory(
            weights=self._weights(),
            adapter=4.0 * self._adapter(merged=True),
            activations=2.0 * tokens * (3 * shape.hidden + 3 * shape.intermediate)
            + config.sample.parallel * shape.vocab * 12,
            # One layer's keys and values are there twice: transformers' cache grows by copying.
            kv=shape.kv_bytes(int(tokens)) * (1 + 1 / shape.layers),
            runtime=RUNTIME_GPU if self.machine.cuda else RUNTIME_CPU,
        )

    def llama_cpp_memory(self, answer: int) -> Memory:
        """A snapshot in memory and the cells of a KV cache."""
        config, shape = self.config, self.shape
        cells = max(config.model.max_length + answer, config.sample.parallel * 1024)
        part = self.offloaded if self.machine.cuda else 1.0
        return Memory(
            weights=part * (4 if config.export.snapshot == "F32" else 2) * shape.parameters,
            kv=part * shape.kv_bytes(cells),
            activations=512 * shape.vocab * 4,
            runtime=RUNTIME_LLAMA,
        )

    def host_memory(self) -> float:
        """Bytes beside a GPU: the libraries, and all training rows as Python holds them (measured on 300,000)."""
        rows = self.work.tasks.values()
        return RUNTIME_CPU + sum(load.train * (4 * (load.prompt + load.completion) + 4000) for load in rows)

    def disk(self) -> float:
        """Bytes of the run folder: the seed model, the adapters, the snapshots and the exported types."""
        config, snapshots = self.config, 1 if self.on_torch else self.config.iterations + 2
        bits = sum(GGUF_BITS.get(name, 8.5) for name in config.export.types)
        bits += GGUF_BITS[config.export.snapshot] * snapshots
        adapters = self._adapter(merged=False) * (4 + 2 * config.iterations)
        return self.shape.parameters * (2 + bits / 8) + 4.0 * adapters

    def _weights(self) -> float:
        """The model loaded to train: with NF4, embeddings and norms stay in 16 bit."""
        linear = NF4_BYTES if self.nf4 else 2.0
        return linear * self.shape.linear + 2.0 * (self.shape.parameters - self.shape.linear)

    def _adapter(self, *, merged: bool) -> int:
        """Parameters of an adapter; the exact merge of two has the sum of their ranks. `merged`: it comes after SFT."""
        two = merged and self.config.start == "merged" and len(self.work.tasks) > 1
        rank = self.config.lora.r * (2 if two and self.config.merge.method == "exact" else 1)
        return self.shape.adapter(rank, self.config.lora.target_modules)

    # --- seconds ---

    def training(self, settings: TrainConfig, rows: int, tokens: float, scored: float, *, dpo: bool) -> float:
        """SFT or DPO over `tokens` tokens, `scored` of them with logits.

        The frozen weights cost a forward pass and the gradients of the activations; the adapter its own gradients too.
        """
        rule, recompute = self.shares, self.checkpointed
        layers = (4 + 2 * recompute) * self.shape.linear + (6 + 2 * recompute) * self._adapter(merged=dpo)
        work = tokens * layers + scored * 4 * self.shape.head
        steps = max(1, math.ceil(rows * settings.epochs / (settings.batch_size * settings.accumulate)))
        speed = self.machine.flops * (rule.train_pairs if dpo else rule.train)
        return work / speed + (rule.load_s + steps * rule.step_s) * self.machine.pace

    def forward(self, tokens: float, scored: float = 0) -> float:
        """A pass without gradients: prefill, or DPO's reference."""
        work = 2 * (tokens * self.shape.linear + scored * self.shape.head)
        return work / (self.machine.flops * self.shares.forward)

    def generating(self, counts: Mapping[Task, int], n: int, most: int, *, samples: bool = False) -> float:
        """Judge so many inputs of each task `n` times. samples: those of a round, which alone vLLM draws."""
        prompt, completion = self.work.mean(counts)
        total, answer = sum(counts.values()), min(most, 1.2 * completion)  # a few go on until `most`
        vllm = samples and self.config.sample.engine == "vllm"
        # PyTorch runs a prompt once for each of its samples, llama.cpp and vLLM once for all.
        prefills = total * (n if self.on_torch and not vllm else 1)
        parallel = max(
            1, min(self._side_by_side(prompt / n + answer) if vllm else self.config.sample.parallel, total * n)
        )
        # Each step reads all weights once. bitsandbytes unpacks NF4 to 16 bit for every product of more than one row:
        # half a byte read, two written, two read.
        rule, shape = self.shares, self.shape
        weights = (4.5 if self.on_torch and self.nf4 else 2.0) * shape.linear + 2.0 * shape.head
        cache = shape.kv_bytes(int(parallel * (prompt + answer)))
        traffic = (weights + cache) / (self.machine.bandwidth * rule.bandwidth)
        work = parallel * 2 * (shape.linear + shape.head) / (self.machine.flops * rule.decode)
        # llama.cpp and vLLM launch a whole step at once; llama.cpp's tokens are drawn on the host.
        beside = shape.layers * rule.layer_s if self.on_torch and not vllm else 0.0
        if self.machine.cuda and not self.on_torch:
            beside = parallel * shape.vocab * DRAW_S_PER_LOGIT
        drawing = total * n * answer / parallel * (max(traffic, work) + beside)
        fixed = (self.shares.load_s if self.on_torch else 0.3) * self.machine.pace
        spent = fixed + self.forward(prefills * prompt) + drawing
        if self.on_torch or not self.machine.cuda or self.offloaded == 1:
            return spent
        rest = Costs(self.work, shape, HOST, host=True).generating(counts, n, most)
        return self.offloaded * spent + (1 - self.offloaded) * rest

    def _side_by_side(self, tokens: float) -> int:
        """How many sequences of so many tokens vLLM finds room for beside the weights."""
        room = VLLM_MEMORY * self.machine.memory - self._weights() - RUNTIME_GPU
        return max(1, min(VLLM_SEQUENCES, int(room / self.shape.kv_bytes(int(tokens) + 1))))

    def exporting(self) -> float:
        """Quantising, and the flip rows judged by the snapshot and each type."""
        rows, types, tasks = self.config.export.flip_rows, len(self.config.export.types), self.work.tasks
        quantising = types * QUANTISE_S_PER_PARAMETER * 2 / (self.machine.flops / CORE_FLOPS)
        spent = self.shape.parameters * (WRITE_S_PER_PARAMETER + quantising)
        counts = dict.fromkeys(tasks, math.ceil(rows / len(tasks)))
        judging = self.generating(counts, 1, self.config.evaluate.max_tokens) if rows else 0.0
        return spent + (types + 1) * judging
