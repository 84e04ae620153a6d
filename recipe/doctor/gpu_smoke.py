"""`sre doctor --gpu-smoke`: every path that only a GPU takes, once, on a small model, for a bug report.

Each step is the call that a run makes (NF4, the trainers, the samplers, the export), so what passes here works there.
A step that fails doesn't end the test; the steps that need what it makes are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from recipe.config import Config, validate
from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, Judgement, Preference, Task
from recipe.doctor.gpu_report import Report, Status, Step, device, found_versions
from recipe.errors import SreError, install
from recipe.inference.base import Generator
from recipe.prompts import Prompts
from recipe.system import in_own_process, peak_rss_mb

ROWS = 8  # of each task: two optimiser steps
# A sample's log-probability when drawn (a left-padded batch) and when trained on: beyond rounding in 16 bit, a bug.
DISAGREE_NATS = 2.0
SETTINGS: dict[str, Any] = {
    "name": "gpu-smoke",
    "model": {"max_length": 1024},
    "lora": {"r": 8, "alpha": 16},
    "sft": {"batch_size": 2, "accumulate": 2, "checkpoints": 1},
    "sample": {"n": 2, "max_tokens": 160},  # most end by then: only those have a log-probability to compare
    "dpo": {"batch_size": 1, "accumulate": 2, "checkpoints": 0},
    "export": {"types": ["Q8_0"], "flip_rows": 0},
    "evaluate": {"max_tokens": 48},
}


class Skip(Exception):
    """A step that this machine can't or needn't take, and why."""


def smoke(model: str = "smollm2-135m", *, cpu: bool = False, folder: Path | None = None) -> Report:
    """Run every step on `model` (what a config's model.source may be) in `folder` (None: a scratch folder).

    cpu: the same calls on the processor, with the stock libraries in place of Unsloth. Raises SreError without a GPU
    unless `cpu` is set, and where the packages of the `train` extra are missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise SreError(f"the test needs the extra: {install('gpu')}")
    import torch

    if not cpu and not torch.cuda.is_available():
        raise SreError(
            f"no GPU: torch {torch.__version__} sees none (+cpu is a CPU build; else compare its CUDA version with the "
            "driver's, see `nvidia-smi`). `sre doctor --gpu-smoke --cpu` makes the same calls on the processor"
        )
    problem = ""
    if not cpu and importlib.util.find_spec("unsloth") is not None:
        from recipe.training.engines import open_training_engine

        try:  # before anything imports what the trainers need
            open_training_engine("unsloth")
        except (SreError, NotImplementedError, RuntimeError) as error:
            problem = str(error)
    if folder is not None:
        return _Smoke(model, cpu, problem, folder).run()
    with tempfile.TemporaryDirectory(prefix="sre-smoke-") as scratch:
        return _Smoke(model, cpu, problem, Path(scratch)).run()


class _Smoke:
    """The steps, in the order of a run, over one scratch folder."""

    def __init__(self, model: str, cpu: bool, unsloth_problem: str, folder: Path) -> None:
        self.cpu, self.problem, self.folder = cpu, unsloth_problem, folder
        self.config: Config = validate({**SETTINGS, "model": {**SETTINGS["model"], "source": model}})
        self.model = folder / "seed" / "model"
        self.made: dict[str, Any] = {}

    def run(self) -> Report:
        """Every step, each with its time and memory."""
        report = Report(device(self.cpu), found_versions())
        for name, work in self._steps().items():
            report.steps.append(self._one(name, work, report.traces))
        return report

    def _steps(self) -> Mapping[str, Callable[[], str]]:
        return {
            "Unsloth imports": self._unsloth,
            "seed model": self._seed,
            "load in NF4": self._load,
            "SFT step, pointwise": lambda: self._sft("pointwise"),
            "SFT step, pairwise": lambda: self._sft("pairwise"),
            "exact merge": self._merge,
            "sampling with torch": self._sample,
            "judging with torch": self._judge_on_torch,
            "steps as CUDA graphs": self._graphs,
            "DPO step, J_t as reference": self._dpo,
            "saved adapter loads": self._reload,
            "GGUF export": self._export,
            "llama.cpp judges": self._judge,
            "sampling with vLLM": self._vllm,
        }

    def _one(self, name: str, work: Callable[[], str], traces: dict[str, str]) -> Step:
        start = time.monotonic()
        _reset_peak(self.cpu)
        status: Status = "pass"
        try:
            detail = work()
        except Skip as reason:
            status, detail = "skip", str(reason)
        except Exception as error:  # whatever breaks is what the report is for
            status, detail = "FAIL", f"{type(error).__name__}: {str(error)[:200]}"
            traces[name] = "".join(traceback.format_exception(error)[-6:])
        return Step(name, status, time.monotonic() - start, _peak_mb(self.cpu), detail)

    def _need(self, *names: str) -> None:
        for name in names:
            if name not in self.made:
                raise Skip(f"needs the {name} that an earlier step makes")

    def _engine(self) -> Any:
        from recipe.training.engines import open_training_engine

        return open_training_engine("transformers" if self.cpu or self.problem else "auto")

    def _loading(self) -> dict[str, Any]:
        checkpointing = not self.cpu
        return {"quantization": "nf4", "max_length": 1024, "gradient_checkpointing": checkpointing}

    # --- the steps; each returns its detail ---

    def _unsloth(self) -> str:
        if self.cpu:
            raise Skip("--cpu uses the stock libraries")
        if importlib.util.find_spec("unsloth") is None:
            raise Skip("not installed; training uses the stock libraries")
        if self.problem:
            raise RuntimeError(self.problem)
        return f"unsloth {metadata.version('unsloth')}"

    def _seed(self) -> str:
        from recipe.training.seed import run_seed

        found = run_seed(self.config.model.source, self.folder / "seed")
        self.made["seed model"] = found.model
        return f"{found.kind}, {found.bytes / 1e6:.0f} MB"

    def _load(self) -> str:
        self._need("seed model")
        lora = {**self.config.lora.model_dump(), "seed": 0}
        loaded, _ = self._engine().load(self.model, lora=lora, **self._loading())
        four_bit = sum(type(module).__name__ == "Linear4bit" for module in loaded.modules())
        if not four_bit:
            raise RuntimeError("no layer is in 4 bit")
        return f"{type(self._engine()).__name__}, {four_bit} layers in 4 bit, adapter in {_adapter_dtype(loaded)}"

    def _rows(self, task: Task) -> list[Example]:
        rows = read_examples("seed-data", task=task, split="train", need_rationale=True)
        return sorted(rows, key=lambda row: len(str(row.to_json())))[:ROWS]

    def _sft(self, task: Task) -> str:
        self._need("seed model")
        engine = self._engine()
        from recipe.training.sft import run_sft

        facts = run_sft(
            self.folder / f"sft-{task}",
            engine=engine,
            model=self.model,
            examples=self._rows(task),
            dev=self._rows(task)[:1],
            prompts=Prompts(),
            settings=self.config.sft,
            lora=self.config.lora,
            seed=0,
            **self._loading(),
        )
        self.made[f"{task} adapter"] = True
        return _trained(facts, self.folder / f"sft-{task}" / "adapter")

    def _merge(self) -> str:
        self._need("pointwise adapter", "pairwise adapter")
        from recipe.training.merge import run_merge

        adapters = {task: self.folder / f"sft-{task}" / "adapter" for task in TASKS}
        facts = run_merge(
            self.folder / "merged", **adapters, settings=self.config.merge, default_rank=self.config.lora.r, seed=0
        )
        error = facts["relative_error"]["exact"]
        if error > 1e-5:
            raise RuntimeError(f"the exact merge is off by {error:.1e}")
        self.made["merged adapter"] = self.folder / "merged" / "adapter"
        return f"relative error {error:.1e}; rank {2 * self.config.lora.r}"

    def _sample(self) -> str:
        self._need("merged adapter")
        with self._torch() as generator:
            self.made["samples"], detail = _sampled(generator, self._asked(), self.config)
        return detail

    def _judge_on_torch(self) -> str:
        self._need("merged adapter")
        from recipe.judge.judge import Judge
        from recipe.judge.options import JudgeOptions

        with Judge(self._torch()) as judge:
            return _labels(judge.judge(self._asked(), JudgeOptions(max_tokens=48)))

    def _graphs(self) -> str:
        self._need("merged adapter")
        if self.cpu:
            raise Skip("it needs a GPU")
        from recipe.doctor.gpu_graphs import compare_graphs

        found = in_own_process(compare_graphs, self.model, self.made["merged adapter"])  # free of Unsloth's patches
        if found is None:
            raise Skip("this kind of model is left to `model.generate`")
        return found

    def _vllm(self) -> str:
        self._need("merged adapter")
        if self.cpu or self.problem:
            raise Skip("it needs a GPU and Unsloth")
        if importlib.util.find_spec("vllm") is None:
            raise Skip("not installed; sampling uses torch")
        samples, detail = in_own_process(_sampled_on_vllm, self._generator(), self._asked(), self.config)
        return f"{detail}; DPO on them: {self._dpo_on(samples, 'iter-vllm')}"

    def _asked(self) -> list[Example]:
        return [row for task in TASKS for row in self._rows(task)[:2]]

    def _torch(self) -> Any:
        from recipe.inference.pytorch.generator import TorchGenerator

        engine: Literal["auto", "transformers"] = "transformers" if self.cpu or self.problem else "auto"
        return TorchGenerator(**self._generator(), parallel=4, engine=engine)

    def _generator(self) -> dict[str, Any]:
        adapter = self.made["merged adapter"]
        return {"model": self.model, "adapter": adapter, "name": "sft", "context": 1056, "quantization": "nf4"}

    def _dpo(self) -> str:
        self._need("merged adapter", "samples")
        return self._dpo_on(self.made["samples"], "iter-1")

    def _dpo_on(self, samples: list[Judgement], folder: str) -> str:
        engine = self._engine()
        from recipe.training.dpo import run_dpo

        examples = {row.id: row for task in TASKS for row in self._rows(task)}
        facts = run_dpo(
            self.folder / folder,
            engine=engine,
            model=self.model,
            adapter=self.made["merged adapter"],
            lora=None,
            examples=examples,
            preferences=_pairs(samples),
            prompts=Prompts(),
            settings=self.config.dpo,
            seed=0,
            **self._loading(),
        )
        adapter = self.made["DPO adapter"] = self.folder / folder / "adapter"
        gap = facts.get("recorded_gap_max")
        if gap is not None and gap > DISAGREE_NATS:
            raise RuntimeError(f"sampling and training disagree by {gap} nat: they don't run the same model")
        recorded = "none recorded" if gap is None else f"recorded ones differ by up to {gap} nat"
        return f"{_trained(facts, adapter)}; reference: {facts['reference']}, {recorded}"

    def _reload(self) -> str:
        self._need("DPO adapter")
        import torch

        loaded, _ = self._engine().load(self.model, adapter=self.made["DPO adapter"], **self._loading())
        norms = [float(p.detach().float().norm()) for name, p in loaded.named_parameters() if "lora_B" in name]
        if not norms or not all(map(torch.isfinite, map(torch.tensor, norms))) or not any(norms):
            raise RuntimeError("the loaded adapter is empty or not finite")
        return f"{len(norms)} modules, adapter in {_adapter_dtype(loaded)}"

    def _export(self) -> str:
        self._need("DPO adapter")
        from recipe.inference.llamacpp.generator import quantize
        from recipe.training.card import Base
        from recipe.training.export import judge_metadata, run_snapshot

        snapshot, judge = self.folder / "gguf" / "j1.gguf", self.folder / "judge.gguf"
        snapshot.parent.mkdir()
        adapter = self.made["DPO adapter"]
        metadata = judge_metadata("smoke", Base(self.config.model.source, "other"), Prompts())
        run_snapshot(snapshot, model=self.model, adapter=adapter, type_name="F16", metadata=metadata)
        quantize(snapshot, judge, "Q8_0")
        self.made["judge.gguf"] = judge
        return f"F16 {snapshot.stat().st_size / 1e6:.0f} MB, Q8_0 {judge.stat().st_size / 1e6:.0f} MB"

    def _judge(self) -> str:
        self._need("judge.gguf")
        from recipe.judge.judge import Judge
        from recipe.judge.options import JudgeOptions

        with Judge.from_gguf(self.made["judge.gguf"], context=1280, parallel=4) as judge:
            return _labels(judge.judge(self._rows("pointwise")[:2], JudgeOptions(max_tokens=48)))


def _labels(judgements: Iterable[Judgement]) -> str:
    labels = [judgement.label for judgement in judgements]
    if None in labels:
        raise RuntimeError(f"labels {labels}: a forced label is missing")
    return f"labels {labels} (two optimiser steps teach nothing: any label will do)"


def _sampled(generator: Generator, rows: list[Example], config: Config) -> tuple[list[Judgement], str]:
    from recipe.training.sample import sample_block

    start = time.monotonic()
    judgements = sample_block(generator, rows, config.sample, prompts=Prompts(), origin="sft", seed=0)
    spent = time.monotonic() - start
    missing = [judgement.id for judgement in judgements if judgement.logprob is None]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(judgements)} samples have no log-probability")
    speed = sum(judgement.tokens for judgement in judgements) / spent
    return judgements, f"{len(judgements)} samples, {speed:.0f} tokens/s from a cold start"


def _sampled_on_vllm(generator: dict[str, Any], rows: list[Example], config: Config) -> tuple[list[Judgement], str]:
    from recipe.inference.pytorch.vllm import VllmGenerator

    with VllmGenerator(**generator) as opened:
        return _sampled(opened, rows, config)


def _pairs(judgements: list[Judgement]) -> list[Preference]:
    """The two samples of each input as a pair: the trainer's path, not its teaching, is under test."""
    pools: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        pools.setdefault(judgement.example_id, []).append(judgement)
    found = [(pool[0], pool[1]) for pool in pools.values() if pool[0].text != pool[1].text]
    if not found:
        raise Skip("both samples of every input are alike")
    return [Preference(f"pair-{k}", a.example_id, a.task, chosen=a, rejected=b) for k, (a, b) in enumerate(found)]


def _trained(facts: Mapping[str, Any], adapter: Path) -> str:
    """The type matters: in bfloat16 an adapter's weights lose most of a step at DPO's small rates."""
    losses = f"loss {facts['first_loss']:.3f} -> {facts['last_loss']:.3f}"
    saved = _saved_types(adapter / "adapter_model.safetensors")
    return f"{facts['engine']}, {facts['steps']} steps, {losses}, adapter saved in {saved}"


def _saved_types(path: Path) -> str:
    """The types of the tensors in a safetensors file, from its header: "F32", "BF16/F32"."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return "/".join(sorted({tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}))


def _adapter_dtype(model: Any) -> str:
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return "/".join(sorted(kinds))


def _reset_peak(cpu: bool) -> None:
    import torch

    from recipe.inference.pytorch.loading import free_memory

    free_memory()
    if not cpu:
        torch.cuda.reset_peak_memory_stats()


def _peak_mb(cpu: bool) -> int:
    import torch

    return peak_rss_mb() if cpu else int(torch.cuda.max_memory_allocated() / 1024**2)
