"""One run's settings, folder and means: rows, engines, judges by name. Knows no stage and no order (pipeline.py).

A judge is named "seed", "sft" (J_SFT), or "j1", "j2", … after the iteration that made it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from recipe.config import Config, dump, load
from recipe.errors import SreError
from recipe.rows import Example, Judgement, Task
from recipe.run import RunFolder, atomic, hash_file, read_jsonl
from recipe.sources import read_examples


class Job:
    """What every stage stands on."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.path = folder
        self.run = RunFolder(folder, seed=config.seed)
        self.model = folder / "seed" / "model"

    def adapter(self, judge: str) -> Path | None:
        """The adapter folder of a judge; the seed model has none."""
        if judge == "seed":
            return None
        return self.path / ("merged" if judge == "sft" else f"iter-{judge.removeprefix('j')}") / "adapter"

    def snapshot(self, judge: str) -> Path:
        """The judge as one GGUF file, written when first asked for, and again when its weights have changed."""
        from recipe.engines.gguf_header import read_metadata

        path, adapter = self.path / "gguf" / f"{judge}.gguf", self.adapter(judge)
        weights = hash_file(adapter / "adapter_model.safetensors" if adapter else self.path / "seed" / "done.json")
        weights += f" {self.config.export.snapshot}"
        if not path.exists() or read_metadata(path).get("sre.weights") != weights:
            from recipe.stages.export import run_snapshot

            name = f"{self.config.name}-{judge}"
            run_snapshot(path, model=self.model, adapter=adapter, name=name, weights=weights, config=self.config)
        return path

    def generator(self, judge: str, other: str | None = None) -> Any:
        """What runs a judge: llama.cpp on a CPU, the training engine's model on a GPU. `other`: a GGUF instead."""
        parallel = self.config.sample.parallel
        context = self.config.model.max_length + max(self.config.sample.max_tokens, self.config.evaluate.max_tokens)
        if other is None and self._sampling_engine() != "llamacpp":
            from recipe.engines.generation import TorchGenerator
            from recipe.engines.loading import resolve_quantization

            return TorchGenerator(
                self.model,
                adapter=self.adapter(judge),
                name=judge,
                parallel=parallel,
                context=context,
                quantization=resolve_quantization(self.config.model.quantization),
                engine=self.config.model.engine,
            )
        from recipe.engines.llamacpp import LlamaCppGenerator

        path = Path(other) if other else self.snapshot(judge)
        return LlamaCppGenerator(path, threads=self.config.threads, context=context, parallel=parallel)

    @cached_property
    def engine(self) -> Any:
        """The training engine, opened once."""
        from recipe.engines.loading import use_threads
        from recipe.engines.training import open_training_engine

        engine = open_training_engine(self.config.model.engine)
        use_threads(self.config.threads)
        return engine

    def rows(self, split: str, task: Task, *, need_rationale: bool = False, limited: bool = True) -> list[Example]:
        """The rows of a split, as many as the config says; [] where the config takes none of it."""
        data = self.config.data
        limit: int | None = getattr(data, f"{split}_{task}") if limited else None
        name = {"dev": data.dev_split, "test": data.test_split}.get(split, split)
        if not name or limit == 0:
            return []
        rows = read_examples(
            getattr(data, task),
            task=task,
            split=name,
            need_rationale=need_rationale,
            limit=None if data.aspects else limit,
            skip_bad_rows=self.path / f"rejects-{split}-{task}.jsonl" if data.skip_bad_rows else None,
        )
        if not data.aspects:
            return rows
        kept = [row for row in rows if row.aspect in data.aspects]
        if not kept:
            raise SreError(f"no row of {getattr(data, task)} has one of these aspects", field="data.aspects")
        return kept[:limit]

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

    def pools(self, t: int) -> dict[str, list[Judgement]]:
        """Iteration t's samples by input."""
        pools: dict[str, list[Judgement]] = {}
        for row in read_jsonl(self.path / f"iter-{t}" / "samples.jsonl"):
            judgement = Judgement.from_json(row)
            pools.setdefault(judgement.example_id, []).append(judgement)
        return pools

    def keep_config(self) -> None:
        """Write the resolved config. Raises SreError when the folder is another run's (another name or seed)."""
        path = self.path / "config.toml"
        if path.exists():
            before = load(path)
            theirs, ours = (f"{c.name!r} with seed {c.seed}" for c in (before, self.config))
            if theirs != ours:
                raise SreError(f"this folder is of the run {theirs}, not {ours}; use another --run-dir", file=path)
        with atomic(path) as file:
            file.write(dump(self.config))

    def loading(self) -> dict[str, Any]:
        """How a training stage loads the model: quantization, max_length (tokens), gradient_checkpointing."""
        import torch

        from recipe.engines.loading import resolve_quantization

        model = self.config.model
        checkpointing = model.gradient_checkpointing
        return {
            "quantization": resolve_quantization(model.quantization),
            "max_length": model.max_length,
            "gradient_checkpointing": torch.cuda.is_available() if checkpointing == "auto" else checkpointing,
        }

    def check_exportable(self) -> None:
        """Raises SreError when the seed model could not be exported: better before hours of training than after."""
        from recipe.engines.gguf import export_problem

        problem = "" if self.config.export.converter else export_problem(self.model)
        if problem:
            raise SreError(problem)

    def _sampling_engine(self) -> str:
        if self.config.sample.engine != "auto":
            return self.config.sample.engine
        import torch

        return "torch" if torch.cuda.is_available() else "llamacpp"
