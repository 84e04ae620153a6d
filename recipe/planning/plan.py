"""`sre plan`: every stage of a run with the memory and the time it will take, and whether it fits.

Nothing is fetched and no model library is imported. A GPU's run judges its exported files on the host's processor,
which is taken for eight cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from recipe.config import Config
from recipe.errors import SreError
from recipe.planning import memory, timing
from recipe.planning.machines import CARDS, GIB, Machine, reference, this_cpu
from recipe.planning.memory import Memory
from recipe.planning.shapes import Shape, shape_of
from recipe.planning.workload import Workload, read_workload, steps

ADVICE = {
    "sft": "lower sft.batch_size (and raise sft.accumulate), or model.max_length",
    "dpo": "lower model.max_length, or dpo.batch_size",
    "sample": "lower sample.parallel",
    "evaluation": "lower sample.parallel",
    "gguf": "lower sample.parallel, or set export.flip_rows = 0",
}


@dataclass(frozen=True)
class StagePlan:
    """One stage: bytes by what takes them, seconds, and what it does in words. host: it runs beside the GPU."""

    stage: str
    memory: Memory
    seconds: float
    work: str
    host: bool = False


@dataclass(frozen=True)
class Plan:
    """A whole run on one machine. download: bytes of the seed model where it comes from the hub; disk: bytes."""

    config: Config
    machine: Machine
    stages: tuple[StagePlan, ...]
    download: float
    disk: float

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak(self) -> StagePlan:
        """The stage that needs most of the machine's memory."""
        return max((stage for stage in self.stages if not stage.host), key=lambda stage: stage.memory.total)

    @property
    def fits(self) -> bool:
        return self.peak.memory.total <= self.machine.memory

    @property
    def verdict(self) -> str:
        """One line: whether it fits, by how much, and what to lower where it does not."""
        need, have, name = self.peak.memory.total / GIB, self.machine.memory / GIB, self.machine.name
        if self.fits:
            return f"fits {name}: {self.peak.stage} needs most, {need:.1f} of {have:.1f} GiB"
        kind = self.peak.stage.split("/")[0].split(":")[-1].split("-")[0]
        return f"does not fit {name}: {self.peak.stage} needs {need:.1f} of {have:.1f} GiB; {ADVICE[kind]}"


def make_plan(config: Config, gpu: str = "cpu", machine: Machine | None = None) -> Plan:
    """Plan a run for a card (a name of `machines.CARDS`), for "cpu" (this machine's), or for `machine`.

    Raises SreError for an unknown card, and for a model or data whose size can't be told without a download.
    """
    if gpu != "cpu" and gpu not in CARDS:
        raise SreError(f"unknown card {gpu!r}; known: cpu, {', '.join(CARDS)}", field="--gpu")
    if (config.start, config.update) != ("merged", "dpo"):
        raise SreError('only runs with start = "merged" and update = "dpo" can be planned', field="start")
    shape, work = shape_of(config.model.source), read_workload(config)
    chosen = machine or (CARDS[gpu] if gpu != "cpu" else this_cpu(config.threads))
    planner = _Planner(config, chosen, shape, work)
    snapshots = 1 if planner.on_torch else config.iterations + 2
    return Plan(
        config=config,
        machine=chosen,
        stages=tuple(planner.stages()),
        download=2.0 * shape.parameters if config.model.source.count("/") == 1 else 0.0,
        disk=memory.on_disk(config, shape, snapshots),
    )


class _Planner:
    """The stages in the pipeline's order (tests hold the names to pipeline.steps)."""

    def __init__(self, config: Config, machine: Machine, shape: Shape, work: Workload) -> None:
        self.config, self.machine, self.shape, self.work = config, machine, shape, work
        self.host = reference(8, 32) if machine.cuda else machine
        self.host = replace(self.host, name="its host" if machine.cuda else machine.name)
        self.nf4 = memory.quantised(config, machine)
        engine = config.sample.engine
        # vLLM reads a prompt once for all its samples and packs the GPU by itself: it is planned as torch, too long.
        self.on_torch = engine in ("torch", "vllm") or (engine == "auto" and machine.cuda)

    def stages(self) -> Iterator[StagePlan]:
        """Each stage of the run that takes time, with all its rounds."""
        loads = self.work.tasks
        dev = {task: load.dev * (2 if task == "pairwise" else 1) for task, load in loads.items()}
        yield self._seed()
        for task in loads:
            yield self._sft(task)
        if len(loads) > 1:
            rank = self.config.lora.r
            spent = timing.merging(self.host, self.shape.adapter(rank, self.config.lora.target_modules), rank)
            yield StagePlan("merged", Memory(runtime=memory.RUNTIME_CPU), spent, "six methods compared", host=True)
        for t in range(1, self.config.iterations + 1):
            yield self._sample(t)
            if self.config.curate.method not in ("correct-answer", "majority-vote", "random-equal"):
                yield self._assess(t)
            yield self._dpo(t)
            if self.config.data.has_dev():
                for judge in ("sft", "j1") if t == 1 else (f"j{t}",):
                    yield self._measure(f"dev/{judge}", dev)
        if self.config.data.has_test():
            for judge in ("seed", "sft", *(f"j{t}" for t in range(1, self.config.iterations + 1))):
                yield self._measure(f"evaluation/{judge}", {task: load.test for task, load in loads.items()})
        if self.config.data.has_dev() and not self.config.iterations:  # the rows that the readout is fitted on
            yield self._measure("dev/sft", dev)
        yield self._export()

    def _seed(self) -> StagePlan:
        embedded = self.config.model.source == "smollm2-135m"
        spent = timing.SEED_S * self.host.pace + embedded * self.shape.parameters * timing.SEED_S_PER_PARAMETER
        words = "converted" if embedded else "linked; the time of a download is not counted"
        needed = Memory(weights=4.0 * self.shape.parameters if embedded else 0, runtime=memory.RUNTIME_LLAMA)
        return StagePlan("seed", needed, spent, words, host=True)

    def _sft(self, task: Any) -> StagePlan:
        rows, settings = self.work.sft_rows(task), self.config.sft
        tokens, scored = self.work.sft_tokens(task)
        # On a CPU most of a row's logits would be waste; chunked_nll computes the completion's alone.
        spent = self._training(settings, tokens, scored, steps(settings, rows), merged=False)
        if task == next(iter(self.work.tasks)):
            start = timing.shares(self.machine).start_s
            unsloth = self.config.model.engine != "transformers" and not self.machine.cuda
            spent += (start + timing.UNSLOTH_START_S * unsloth) * self.machine.pace
        needed = memory.training(self.work, self.shape, self.machine, dpo=False)
        return StagePlan(f"sft-{task}", needed, spent, f"{rows:,} rows, {tokens / 1e6:.2f} M tokens")

    def _training(self, settings: Any, tokens: float, scored: float, count: int, *, merged: bool) -> float:
        rank = memory.adapter_rank(self.config, merged=merged)
        return timing.training(
            self.machine,
            self.shape,
            settings,
            tokens=tokens,
            scored=scored,
            steps=count,
            adapter=self.shape.adapter(rank, self.config.lora.target_modules),
            recompute=memory.checkpointed(self.config, self.machine),
            pairs=merged,
        )

    def _generating(self, counts: dict[Any, int], n: int, most: int) -> float:
        """Seconds to judge so many inputs `n` times each: prefill, then decoding."""
        prompt, completion = self.work.mean(counts)
        total, answer = sum(counts.values()), self.work.drawn(completion, most)
        # Unsloth runs a prompt once for each of its samples, the others once for all.
        prefills = total * (n if self.on_torch and self.config.model.engine != "transformers" else 1)
        parallel = max(1, min(self.config.sample.parallel, total * n))
        machine = self.machine
        drawing = timing.decoding(
            machine,
            self.shape,
            tokens=total * n * answer,
            parallel=parallel,
            context=prompt + answer,
            nf4=self.on_torch and self.nf4,
        )
        fixed = (timing.shares(machine).load_s if self.on_torch else 0.3) * machine.pace
        return fixed + timing.forward(machine, self.shape, tokens=prefills * prompt) + drawing

    def _generation_memory(self, answer: int) -> Memory:
        if self.on_torch:
            return memory.torch_sampling(self.work, self.shape, self.machine, answer=answer)
        return memory.llama_cpp(self.work, self.shape, answer=answer)

    def _sample(self, t: int) -> StagePlan:
        sample, counts = self.config.sample, self.work.inputs(t)
        spent = self._generating(counts, sample.n, sample.max_tokens) + self._snapshot()
        words = f"{sum(counts.values()):,} inputs x {sample.n}"
        return StagePlan(f"iter-{t}:sample", self._generation_memory(sample.max_tokens), spent, words)

    def _snapshot(self) -> float:
        """Writing J_t as a GGUF file, where llama.cpp samples it."""
        return 0.0 if self.on_torch else self.shape.parameters * timing.WRITE_S_PER_PARAMETER

    def _assess(self, t: int) -> StagePlan:
        counts = self.work.inputs(t)
        n = self.config.sample.n if self.config.curate.method == "self-assessment" else 2
        spent = self._generating(counts, n, self.config.sample.max_tokens)
        needed = self._generation_memory(self.config.sample.max_tokens)
        return StagePlan(
            f"iter-{t}:assess", needed, spent, f"{sum(counts.values()):,} inputs, asked about their samples"
        )

    def _dpo(self, t: int) -> StagePlan:
        settings, pairs = self.config.dpo, self.work.pairs(t)
        prompt, completion = self.work.mean(self.work.inputs(t))
        prompts = 2 if self.machine.cuda else 1
        tokens = pairs * (prompts * prompt + 2 * completion)
        scored = tokens if self.machine.cuda else pairs * 2 * completion
        again = tokens * settings.epochs
        spent = self._training(settings, again, scored * settings.epochs, steps(settings, pairs), merged=True)
        # The recorded log-probabilities replace the pass on a GPU or where asked for; some pairs check them.
        share = 1.0 if settings.reference == "pass" else min(1.0, 8 / pairs)
        spent += share * timing.forward(self.machine, self.shape, tokens=tokens, scored=scored)
        needed = memory.training(self.work, self.shape, self.machine, dpo=True)
        return StagePlan(f"iter-{t}:dpo", needed, spent, f"about {pairs:,} pairs, {again / 1e6:.2f} M tokens")

    def _measure(self, stage: str, counts: dict[Any, int]) -> StagePlan:
        most = self.config.evaluate.max_tokens
        words = f"{sum(counts.values()):,} rows"
        return StagePlan(stage, self._generation_memory(most), self._generating(counts, 1, most), words)

    def _export(self) -> StagePlan:
        """Quantising, and the flip rows judged by each type with llama.cpp on the processor."""
        rows, types = self.config.export.flip_rows, len(self.config.export.types)
        prompt, completion = self.work.mean(dict.fromkeys(self.work.tasks, 1))
        answer = self.work.drawn(completion, self.config.evaluate.max_tokens)
        spent = self.shape.parameters * (
            timing.WRITE_S_PER_PARAMETER + types * timing.QUANTISE_S_PER_PARAMETER * 2 / (self.host.flops / 105e9)
        )
        parallel = max(1, min(self.config.sample.parallel, rows))
        for _ in range(types + 1 if rows else 0):
            spent += timing.forward(self.host, self.shape, tokens=rows * prompt) + timing.decoding(
                self.host, self.shape, tokens=rows * answer, parallel=parallel, context=prompt + answer, nf4=False
            )
        needed = memory.llama_cpp(self.work, self.shape, answer=self.config.evaluate.max_tokens)
        return StagePlan("gguf", needed, spent, f"{types} types, {rows} rows judged by each", host=self.machine.cuda)
