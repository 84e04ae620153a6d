"""One run's settings, folder and means: rows, engines, judges by name. Knows no order of stages (pipeline.py).

A judge is named "seed", "sft" (J_SFT), or "j1", "j2", … after the iteration that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe.config import Config, dump, load
from recipe.data.examples import read_examples
from recipe.data.forgery import with_forged
from recipe.data.pairs import pairs_from_scores
from recipe.data.records import TASKS, Example, Judgement, Task, in_both_orders
from recipe.errors import SreError
from recipe.pipeline.stage_cache import RunFolder
from recipe.storage import atomic, hash_file, hash_object, read_json, read_jsonl, share
from recipe.system import process, wait_for


def judges_of(config: Config) -> tuple[str, ...]:
    """The judges that a run makes, in order; no "sft" where iteration 1 starts from the seed model."""
    first = ("seed",) if config.start == "seed" else ("seed", "sft")
    return (*first, *(f"j{t}" for t in range(1, config.iterations + 1)))


class Job:
    """What every stage stands on. `lenders` are run folders whose stages are taken over where they are the same."""

    def __init__(self, config: Config, folder: Path, lenders: Sequence[Path] = ()) -> None:
        self.config = config
        self.path = folder
        self.run = RunFolder(folder, seed=config.seed, lenders=lenders)
        self.model = folder / "seed" / "model"

    @property
    def judges(self) -> tuple[str, ...]:
        return judges_of(self.config)

    @property
    def exported(self) -> str:
        """The judge that becomes judge.gguf. Raises SreError where the run makes no such judge."""
        source = self.config.export.source or self.judges[-1]
        if source not in self.judges:
            message = f"no judge {source!r} in this run; it makes {', '.join(self.judges)}"
            raise SreError(message, field="export.source")
        return source

    def judge_before(self, t: int) -> str:
        """The judge that iteration t starts from; t = T + 1 is the last judge."""
        return self.judges[t - self.config.iterations - 2]

    def stage_of(self, judge: str) -> str:
        """The stage that makes a judge."""
        if judge == "seed":
            return "seed"
        if judge == "sft":
            return "sft-mixed" if self.config.start == "mixed" else "merged"
        return f"iter-{judge.removeprefix('j')}:{'dpo' if self.config.update == 'dpo' else 'sft'}"

    def adapter(self, judge: str) -> Path | None:
        """The adapter folder of a judge; the seed model has none."""
        return None if judge == "seed" else self.path / self.stage_of(judge).partition(":")[0] / "adapter"

    def snapshot(self, judge: str) -> Path:
        """The judge as one GGUF file, written when first asked for, and again when its weights have changed."""
        from recipe.gguf.header import read_metadata

        path, adapter = self.path / "gguf" / f"{judge}.gguf", self.adapter(judge)
        if adapter:
            weights = hash_file(adapter / "adapter_model.safetensors")
        else:
            made = read_json(self.path / "seed" / "done.json")
            weights = hash_object([made["hash"], made["finished"]])
        weights += f" {self.config.export.snapshot}"

        def fits(file: Path) -> bool:
            return file.exists() and read_metadata(file).get("sre.weights") == weights

        if not self.run.main:
            wait_for(lambda: fits(path))
        if fits(path):
            return path
        lent = next((file for run in self.run.lenders if fits(file := run / "gguf" / path.name)), None)
        if lent:
            share(lent, path)
        else:
            from recipe.training.export import run_snapshot

            name = f"{self.config.name}-{judge}"
            run_snapshot(path, model=self.model, adapter=adapter, name=name, weights=weights, config=self.config)
        return path

    @property
    def samples_on_vllm(self) -> bool:
        """Whether vLLM draws the samples. Raises SreError where several processes share the run."""
        wanted = self.config.sample.engine == "vllm"
        if wanted and process()[1] > 1:
            raise SreError("vLLM can't share a launched run; take the engine torch", field="sample.engine")
        return wanted

    def sampler(self, judge: str) -> Any:
        """What draws a judge's samples: vLLM where the config asks for it, else what runs the judge."""
        return self._generator(judge, None, self._sampling_engine())

    def generator(self, judge: str, other: str | None = None) -> Any:
        """What runs a judge: llama.cpp on a CPU, the training engine's model on a GPU. `other`: a GGUF instead."""
        engine = self._sampling_engine()
        return self._generator(judge, other, "torch" if engine == "vllm" else engine)

    def _generator(self, judge: str, other: str | None, engine: str) -> Any:
        parallel = self.config.sample.parallel
        context = self.config.model.max_length + max(self.config.sample.max_tokens, self.config.evaluate.max_tokens)
        if other is None and engine != "llamacpp":
            from recipe.inference.pytorch.generator import TorchGenerator
            from recipe.inference.pytorch.loading import free_memory, resolve_quantization, take_share
            from recipe.inference.pytorch.vllm import VllmGenerator

            free_memory()
            take_share(self.config.threads)
            return (VllmGenerator if engine == "vllm" else TorchGenerator)(
                self.model,
                adapter=self.adapter(judge),
                name=judge,
                parallel=parallel,
                context=context,
                quantization=resolve_quantization(self.config.model.quantization),
                engine=self.config.model.engine,
            )
        from recipe.inference.llamacpp.generator import LlamaCppGenerator

        path = Path(other) if other else self.snapshot(judge)
        return LlamaCppGenerator(path, threads=self.config.threads, context=context, parallel=parallel)

    @cached_property
    def engine(self) -> Any:
        """The training engine, opened once."""
        from recipe.inference.pytorch.loading import take_share
        from recipe.training.engines import open_training_engine

        engine = open_training_engine(self.config.model.engine)
        take_share(self.config.threads)
        return engine

    def rows(self, split: str, task: Task, *, need_rationale: bool = False, limited: bool = True) -> list[Example]:
        """The rows of a split, as many as the config says; [] where the config takes none of it.

        Pairwise training rows are followed by the pairs made from scores. A share of the training rows carries a
        forged verdict.
        """
        rows = self._read(split, task, need_rationale=need_rationale, limited=limited)
        if split == "train" and task == "pairwise":
            pairs = [pair for pair in self.score_pairs if pair.rationale or not need_rationale]
            rows += pairs[: self.config.data.train_pairs] if limited else pairs
        return with_forged(rows, self.config.data.forged_share, self.config.seed) if split == "train" else rows

    @cached_property
    def score_pairs(self) -> list[Example]:
        """Pairwise rows made of the pointwise training rows, whatever SFT's limits."""
        data = self.config.data
        scored = [] if data.pairs_from_scores == "off" else self._read("train", "pointwise", limited=False)
        return pairs_from_scores(scored, data, seed=self.config.seed)

    def _read(self, split: str, task: Task, *, need_rationale: bool = False, limited: bool = True) -> list[Example]:
        data = self.config.data
        limit: int | None = getattr(data, f"{split}_{task}") if limited else None
        name = {"dev": data.dev_split, "test": data.test_split}.get(split, split)
        if not name or limit == 0:
            return []
        return read_examples(
            getattr(data, task),
            task=task,
            split=name,
            need_rationale=need_rationale,
            limit=limit,
            skip_bad_rows=self.path / f"rejects-{split}-{task}.jsonl" if data.skip_bad_rows else None,
        )

    @cached_property
    def test_rows(self) -> list[Example]:
        """The rows that judges are measured on: pairs in both orders where the config says so."""
        rows = [row for task in TASKS for row in self.rows("test", task)]
        return in_both_orders(rows) if self.config.evaluate.both_orders else rows

    @cached_property
    def all_train(self) -> tuple[list[Example], list[Example]]:
        """All training rows, pointwise and pairwise, whatever SFT's limits: self-rationalization needs labels only."""
        return self.rows("train", "pointwise", limited=False), self.rows("train", "pairwise", limited=False)

    @cached_property
    def examples(self) -> dict[str, Example]:
        """All training inputs by id."""
        found = {row.id: row for rows in self.all_train for row in rows}
        if len(found) < sum(map(len, self.all_train)):
            raise SreError("pointwise and pairwise rows share an id; ids must differ over both files", field="id")
        return found

    def samples(self, t: int) -> list[Judgement]:
        """Iteration t's samples, those of one input together."""
        return [Judgement.from_json(row) for row in read_jsonl(self.path / f"iter-{t}" / "samples.jsonl")]

    def pools(self, t: int) -> dict[str, list[Judgement]]:
        """Iteration t's samples by input."""
        pools: dict[str, list[Judgement]] = {}
        for judgement in self.samples(t):
            pools.setdefault(judgement.example_id, []).append(judgement)
        return pools

    def keep_config(self) -> None:
        """Write the resolved config (one of several processes does).

        Raises SreError when the folder is another run's (another name or seed).
        """
        path = self.path / "config.toml"
        if path.exists():
            before = load(path)
            theirs, ours = (f"{c.name!r} with seed {c.seed}" for c in (before, self.config))
            if theirs != ours:
                raise SreError(f"this folder is of the run {theirs}, not {ours}; use another --run-dir", file=path)
        if self.run.main:
            with atomic(path) as file:
                file.write(dump(self.config))

    def loading(self) -> dict[str, Any]:
        """How a training stage loads the model: quantization, max_length (tokens), gradient_checkpointing."""
        import torch

        from recipe.inference.pytorch.loading import free_memory, resolve_quantization

        free_memory()
        model = self.config.model
        checkpointing = model.gradient_checkpointing
        return {
            "quantization": resolve_quantization(model.quantization),
            "max_length": model.max_length,
            "gradient_checkpointing": torch.cuda.is_available() if checkpointing == "auto" else checkpointing,
        }

    def check_later_stages(self) -> None:
        """Raises SreError for what would end a later stage: better before hours of training than after."""
        from recipe.gguf.export import export_problem

        problem = "" if self.config.export.converter else export_problem(self.model)
        if problem:
            raise SreError(problem)
        if self._sampling_engine() == "llamacpp":
            from recipe.inference.llamacpp.generator import check_parallel

            check_parallel(self.config.sample.parallel, "sample.parallel")

    def _sampling_engine(self) -> str:
        if self.config.sample.engine != "auto":
            return self.config.sample.engine
        import torch

        return "torch" if torch.cuda.is_available() else "llamacpp"
