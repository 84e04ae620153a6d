"""One run: its settings, folder, rows and judges. It knows no order of stages (stage_order.py).

A judge is named "seed", "sft" (J_SFT), or "j1", "j2", … after the round that made it.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe.config import Config, dump, load
from recipe.data.records import TASKS, Example, Task, in_both_orders
from recipe.data.selection import Selection, Split
from recipe.errors import SreError
from recipe.pipeline.judge_model import JudgeModel
from recipe.pipeline.stage_cache import Content, Made, RunFolder
from recipe.prompts import Prompts
from recipe.storage import atomic
from recipe.system import process, user_path
from recipe.training.trainer import Loading


def judges_of(config: Config) -> tuple[str, ...]:
    """The judges that a run makes at most, in order; no "sft" where round 1 starts from the seed model."""
    first = ("seed",) if config.start == "seed" else ("seed", "sft")
    return (*first, *(f"j{t}" for t in range(1, config.iterations + 1)))


class RunContext:
    """Where stages are given things from.

    No stage sees this object or the settings as a whole: it is handed what it may read, and its hash is made of that.
    """

    def __init__(self, config: Config, path: Path, selection: Selection | None = None) -> None:
        self.config = config
        self.path = path
        self.selection = selection or Selection(config, path)
        self.cache = RunFolder(path, begin=self.keep_config)
        self.prompts = Prompts()

    # --- the judges and the rounds that make them ---

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that the run makes, as far as is known: none after a round that wasn't kept."""
        every, rounds = judges_of(self.config), range(1, self.config.iterations + 1)
        last = next((t for t in rounds if not self.kept(t)), self.config.iterations)
        made = last - 1 if "problem" in self.outcome(last) else last
        return every[: len(every) - self.config.iterations + made]

    def outcome(self, t: int) -> Mapping[str, Any]:
        """What became of round t: the marker of its decision, or the "problem" that ended it; {} while it is open."""
        if (self.cache.marker(f"iter-{t}:curate") or {}).get("pairs") == 0:
            return {"kept": False, "problem": "its judgements gave no preference pair"}
        return self.cache.marker(f"iter-{t}:decide") or {}

    def kept(self, t: int) -> bool:
        """Whether round t is kept, which it is until the dev rows say otherwise."""
        return bool(self.outcome(t).get("kept", True))

    @property
    def exported(self) -> str:
        """The judge that becomes judge.gguf. Raises SreError where the run has made no such judge."""
        source, made = self.config.export.source, self.judges
        named = {judge: judge for judge in made} | {"best": self.best, "last": made[-1]}
        if source not in named:
            raise SreError(f"no judge {source!r} in this run; it makes {', '.join(made)}", field="export.source")
        return named[source]

    @property
    def best(self) -> str:
        """The judge that is best on the dev rows, of those that were kept; without dev rows the last one."""
        outcomes = [self.outcome(int(judge[1:])) for judge in self.judges if judge.startswith("j")]
        decided = [found for found in outcomes if "figures" in found]
        if not decided:
            return self.judges[-1]
        figures = {decided[0]["before"]: decided[0]["figures"]["before"]}
        figures |= {found["judge"]: found["figures"]["after"] for found in decided if found["kept"]}
        return str(max(figures, key=lambda judge: figures[judge]))

    def judge_before(self, t: int) -> str:
        """The judge that round t starts from."""
        return judges_of(self.config)[t - self.config.iterations - 2]

    def stage_of(self, judge: str) -> str:
        tasks = self.config.data.tasks
        if judge == "seed":
            return "seed"
        if judge == "sft":
            mixed = "sft-mixed" if self.config.start == "mixed" else "merged"
            return mixed if len(tasks) > 1 else f"sft-{tasks[0]}"
        return f"iter-{judge.removeprefix('j')}:dpo"

    # --- what stages are given ---

    def made(self, stage: str, name: str) -> Made:
        return Made(self.path, stage, name)

    @property
    def model(self) -> Made:
        return self.made("seed", "model")

    def adapter(self, judge: str) -> Made | None:
        """The adapter folder of a judge; the seed model has none."""
        return None if judge == "seed" else self.made(self.stage_of(judge), "adapter")

    @property
    def loading(self) -> Loading:
        import torch

        from recipe.inference.pytorch.loading import resolve_quantization

        model, checkpointing = self.config.model, self.config.model.gradient_checkpointing
        return Loading(
            engine=model.engine,
            quantization=resolve_quantization(model.quantization),
            max_length=model.max_length,
            gradient_checkpointing=torch.cuda.is_available() if checkpointing == "auto" else checkpointing,
            threads=self.config.threads,
            report_to=self.config.report_to,
            run=self.config.name,
        )

    def judge_model(self, judge: str, *, sampling: bool = False) -> JudgeModel:
        """A judge and how it is run. `sampling`: for samples, which alone vLLM draws."""
        import torch

        config, engine = self.config, self.config.sample.engine
        if engine == "vllm" and process()[1] > 1:
            raise SreError("vLLM can't share a launched run; use the engine torch", field="sample.engine")
        if engine == "auto":
            engine = "llamacpp" if not torch.cuda.is_available() else "vllm" if self._has_vllm else "torch"
        return JudgeModel(
            name=judge,
            model=self.model,
            adapter=self.adapter(judge),
            prompts=self.prompts,
            loading=self.loading,
            engine="torch" if engine == "vllm" and not sampling else engine,
            context=config.model.max_length + max(config.sample.max_tokens, config.evaluate.max_tokens),
            parallel=config.sample.parallel,
            snapshot=config.export.snapshot,
            base_model=config.model.source,
            gpu_layers=config.sample.gpu_layers,
        )

    @property
    def _has_vllm(self) -> bool:
        """Whether vLLM can draw this run's samples: it comes through Unsloth, in one process, and is never greedy."""
        wanted = self.config.model.engine != "transformers" and self.config.sample.temperature > 0
        return wanted and process()[1] == 1 and all(map(importlib.util.find_spec, ("vllm", "unsloth")))

    @property
    def teacher(self) -> Content | str | None:
        """Who writes rationales: a GGUF file or a server's address; None for the seed model."""
        named = self.config.bootstrap.teacher
        if not named or named.startswith(("http://", "https://")):
            return named or None
        path = user_path(named)
        if not path.is_file():
            raise SreError("no such file; expected a GGUF file, or http://…/v1", file=path, field="bootstrap.teacher")
        return Content(path, (path,))

    # --- rows ---

    def rows(self, split: Split, task: Task, *, limited: bool = True) -> list[Example]:
        """The rows of a split, as many as the settings say; [] where they take none of it."""
        return self.selection.rows(split, task, limited=limited)

    def sft_rows(self, task: Task) -> list[Example]:
        return self.selection.sft_rows(task)

    @cached_property
    def test_rows(self) -> list[Example]:
        """The rows that judges are measured on: pairs in both orders where the settings say so."""
        rows = [row for task in TASKS for row in self.rows("test", task)]
        return in_both_orders(rows) if self.config.evaluate.both_orders else rows

    @cached_property
    def dev_rows(self) -> list[Example]:
        """The rows that decide which judge is best, each pair in both orders: a position must not win."""
        rows = in_both_orders([row for task in TASKS for row in self.rows("dev", task)])
        return list({row.id: row for row in rows}.values())

    @cached_property
    def all_train(self) -> tuple[list[Example], list[Example]]:
        """All training rows, pointwise and pairwise, whatever SFT's limits: self-rationalization needs labels only."""
        return self.rows("train", "pointwise", limited=False), self.rows("train", "pairwise", limited=False)

    def inputs(self, t: int) -> list[Example]:
        """The training rows whose judgements round t samples."""
        from recipe.training.sample import choose_inputs

        return choose_inputs(*self.all_train, self.config.sample, iteration=t, seed=self.config.seed)

    # --- the folder ---

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the run folder; its config.toml is that of this run from the first stage that runs, or else at the end.

        A run that a finished stage refuses leaves the config as it was. Raises SreError when another process holds the
        folder, or when it is another run's (another name or seed).
        """
        path = self.path / "config.toml"
        with self.cache.locked():
            before = load(path) if path.exists() else self.config
            if (before.name, before.seed) != (self.config.name, self.config.seed):
                theirs = f"{before.name!r} with seed {before.seed}"
                raise SreError(f"this folder is of the run {theirs}; use another --run-dir", file=path)
            yield
            self.keep_config()

    def keep_config(self) -> None:
        """Write the resolved config (one of several processes does)."""
        if self.cache.main:
            with atomic(self.path / "config.toml") as file:
                file.write(dump(self.config))
