"""`sre plan`: every stage of a run with the memory and the time it will take, and whether it fits.

Nothing is fetched and no model library is imported. A GPU's run merges and judges its exported files on the host's
processor, which is taken for eight cores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe.config import Config, Task
from recipe.data.selection import Selection
from recipe.errors import SreError
from recipe.gguf.shape import Shape
from recipe.planning.costs import MERGE_S, RUNTIME_CPU, RUNTIME_LLAMA, SEED_S, Costs, Memory
from recipe.planning.machines import CARDS, GIB, HOST, Machine, this_cpu
from recipe.planning.shapes import shape_of
from recipe.planning.workload import Workload, read_workload
from recipe.progress import duration


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
    """A whole run on one machine."""

    config: Config
    machine: Machine
    stages: tuple[StagePlan, ...]
    download: float  # bytes of the seed model where it comes from the hub
    disk: float  # bytes
    host_memory: float  # bytes beside a GPU while it trains and samples
    ways: Mapping[str, float]  # the seconds of all samples by each way of a GPU to draw them

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
        trains = self.peak.stage.startswith("sft") or self.peak.stage.endswith(":dpo")
        advice = "model.max_length, or the stage's batch_size (and raise accumulate)" if trains else "sample.parallel"
        return f"does not fit {name}: {self.peak.stage} needs {need:.1f} of {have:.1f} GiB; lower {advice}"


def make_plan(
    config: Config, gpu: str = "cpu", machine: Machine | None = None, selection: Selection | None = None
) -> Plan:
    """Plan a run for a card (a name of `machines.CARDS`), for "cpu" (this machine's), or for `machine`.

    selection: the run's rows; None selects them by the settings.
    """
    if gpu != "cpu" and gpu not in CARDS:
        raise SreError(f"unknown card {gpu!r}; known: cpu, {', '.join(CARDS)}", field="--gpu")
    if config.start == "seed":
        raise SreError("only runs that start with SFT can be planned", field="start")
    shape, work = shape_of(config.model.source), read_workload(config, selection or Selection(config))
    chosen = machine or (CARDS[gpu] if gpu != "cpu" else this_cpu(config.threads))
    costs = Costs(work, shape, chosen)
    host = Costs(work, shape, HOST if chosen.cuda else chosen, host=True)
    download = 2.0 * shape.parameters if config.model.source.count("/") == 1 else 0.0
    ways = _ways(work, shape, chosen) if config.iterations and chosen.cuda else {}
    return Plan(config, chosen, tuple(_stages(costs, host)), download, costs.disk(), costs.host_memory(), ways)


def _ways(work: Workload, shape: Shape, machine: Machine) -> dict[str, float]:
    """The seconds that all rounds' samples take by each way of a GPU to draw them, by the settings that ask for it."""
    config, found = work.config, {}
    every: list[dict[str, Any]] = [{"engine": "vllm"}, {"engine": "torch"}]
    every += [{"engine": "llamacpp", "gpu_layers": layers} for layers in (-1, 0)]
    for way in every:
        name = ", ".join(f"sample.{key}={value}" for key, value in way.items())
        sample = config.sample.model_copy(update=way)
        costs = Costs(replace(work, config=config.model_copy(update={"sample": sample})), shape, machine)
        rounds = range(1, config.iterations + 1)
        found[name] = sum(costs.generating(work.inputs(t), sample.n, sample.max_tokens, samples=True) for t in rounds)
    return found


def show_plan(plan: Plan, console: Console) -> None:
    """Print the stages with their memory (GiB) by part and their time, then the verdict."""
    title = f"{plan.config.name}: {plan.config.model.source} on {plan.machine.name} (GiB)"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for heading in (*(part.name for part in fields(Memory)), "all", "time"):
        table.add_column(heading, justify="right")
    table.add_column("work")
    for stage in plan.stages:
        total = stage.memory.total
        parts = [f"{value / GIB:.1f}" if value >= 0.05 * GIB else "" for value in astuple(stage.memory)]
        style = "red" if not stage.host and total > plan.machine.memory else ""
        name = f"{stage.stage} (host)" if stage.host and plan.machine.cuda else stage.stage
        table.add_row(name, *parts, f"{total / GIB:.1f}", duration(stage.seconds), Text(stage.work), style=style)
    console.print(table)
    fetched = f"downloads {plan.download / 1e9:.1f} GB, " if plan.download else ""
    disk = f"the run folder takes up to {plan.disk / 1e9:.1f} GB"
    if plan.ways:
        listed = "; ".join(f"{duration(seconds)} by {way}" for way, seconds in plan.ways.items())
        console.print(f"All samples would take (estimated): {listed}.")
    console.print(f"All stages: {duration(plan.seconds)}; {fetched}{disk}.")
    if plan.machine.cuda:
        console.print(f"Beside the GPU, the libraries and the rows take {plan.host_memory / GIB:.1f} GiB of memory.")
        console.print("A GPU's times are estimates from its data sheet: right within a factor of two, not measured.")
    console.print(Text(plan.verdict[0].upper() + plan.verdict[1:] + ".", style="green" if plan.fits else "bold red"))


def _stages(costs: Costs, host: Costs) -> Iterator[StagePlan]:
    """Each stage of the run that takes time, in the pipeline's order, with all its rounds."""
    config, work, tasks = costs.config, costs.work, tuple(costs.work.tasks)
    dev = {task: load.dev * (2 if task == "pairwise" else 1) for task, load in work.tasks.items()}
    test = {task: load.test for task, load in work.tasks.items()}
    sample, most = config.sample, config.evaluate.max_tokens
    words = "converted or linked; the time of a download is not counted"
    yield StagePlan("seed", Memory(runtime=RUNTIME_LLAMA), SEED_S * host.machine.pace, words, host=True)
    for task in tasks if config.sft.bootstraps else ():
        unexplained, n = {task: work.tasks[task].unexplained}, config.bootstrap.n
        asked = _judging(costs, f"bootstrap-{task}", unexplained, n, config.bootstrap.max_tokens, "rows")
        # By the seed model; half of the rows are taken to be asked again, with their label.
        yield replace(asked, seconds=1.5 * asked.seconds)
    if config.start == "mixed" and len(tasks) > 1:
        yield _sft(costs, "sft-mixed", tasks, first=True)
    else:
        for task in tasks:
            yield _sft(costs, f"sft-{task}", (task,), first=task == tasks[0])
        if len(tasks) > 1:
            spent = MERGE_S * host.machine.pace
            yield StagePlan("merged", Memory(runtime=RUNTIME_CPU), spent, "two adapters added", host=True)
    for t in range(1, config.iterations + 1):
        inputs = work.inputs(t)
        yield _judging(costs, f"iter-{t}:sample", inputs, sample.n, sample.max_tokens, "inputs", samples=True)
        settings, pairs, (prompt, completion) = config.dpo, work.pairs(t), work.mean(inputs)
        # On a CPU a pair's prompt is run once, and only completions have logits.
        tokens = pairs * ((2 if costs.machine.cuda else 1) * prompt + 2 * completion)
        scored = tokens if costs.machine.cuda else pairs * 2 * completion
        spent = costs.training(settings, pairs, tokens * settings.epochs, scored * settings.epochs, dpo=True)
        spent += costs.forward(tokens, scored)  # the reference
        words = f"about {pairs:,} pairs, {tokens * settings.epochs / 1e6:.2f} M tokens"
        yield StagePlan(f"iter-{t}:dpo", costs.training_memory(dpo=True), spent, words)
        if config.data.takes("dev"):
            for judge in ("sft", "j1") if t == 1 else (f"j{t}",):
                yield _judging(costs, f"dev/{judge}", dev, 1, most, "rows")
    if config.data.takes("test"):
        for judge in ("seed", "sft", *(f"j{t}" for t in range(1, config.iterations + 1))):
            yield _judging(costs, f"evaluation/{judge}", test, 1, most, "rows")
    if config.data.takes("dev") and not config.iterations:  # the rows that the calibration is fitted on
        yield _judging(costs, "dev/sft", dev, 1, most, "rows")
    words = f"{len(config.export.types)} types, {config.export.flip_rows} rows judged by each"
    yield StagePlan("gguf", costs.llama_cpp_memory(most), host.exporting(), words, host=costs.machine.cuda)


def _judging(
    costs: Costs, stage: str, counts: Mapping[Task, int], n: int, most: int, unit: str, *, samples: bool = False
) -> StagePlan:
    """So many rows of each task, judged `n` times with up to `most` tokens."""
    words = f"{sum(counts.values()):,} {unit}" + (f" x {n}" if n > 1 else "")
    spent = costs.generating(counts, n, most, samples=samples)
    return StagePlan(stage, costs.generation_memory(most), spent, words)


def _sft(costs: Costs, stage: str, tasks: Sequence[Task], *, first: bool) -> StagePlan:
    rows, tokens, scored = (sum(part) for part in zip(*map(costs.work.sft, tasks), strict=True))
    spent = costs.training(costs.config.sft, int(rows), tokens, scored, dpo=False)
    if first:  # importing what training needs
        spent += costs.shares.start_s * costs.machine.pace
    words = f"{rows:,} rows, {tokens / 1e6:.2f} M tokens"
    return StagePlan(stage, costs.training_memory(dpo=False), spent, words)
