"""The stages: what each is given, and what it leaves. Nothing else of the run reaches stage_work.py.

What a stage is given is what its hash covers (stage_cache.py), so a setting that no stage is given changes no result.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recipe.config import only
from recipe.data.records import Task, in_both_orders
from recipe.data.selection import Split
from recipe.pipeline import stage_work
from recipe.pipeline.context import RunContext
from recipe.pipeline.preflight import check_model
from recipe.pipeline.stage_cache import Content
from recipe.pipeline.stage_work import Facts


def seed(run: RunContext) -> Facts:
    from recipe.training.seed import source_files

    model = run.config.model
    files = source_files(model.source)  # of a model on the hub the stage notes what it fetched
    content = Content(files[0].parent, files) if files else None
    facts = run.cache.do(
        "seed", stage_work.seed, makes=("model",), source=model.source, revision=model.revision, content=content
    )
    check_model(run.config, run.model.path)  # a model from the hub could not be checked before it was here
    return facts


def bootstrap(run: RunContext, task: Task) -> Facts:
    """Rationales for the rows of a task that have none."""
    settings, seed = run.config.bootstrap, run.judge_model("seed")
    return run.cache.do(
        f"bootstrap-{task}",
        stage_work.bootstrap,
        makes=("rationales.jsonl", "unhinted", "hinted"),
        together=True,
        judge=replace(seed, context=run.config.model.max_length + settings.max_tokens),
        teacher=run.teacher,
        teacher_model=settings.teacher_model,
        examples=[row for row in run.sft_rows(task) if not row.rationale.strip()],
        settings=only(settings, "n", "keep", "temperature", "max_tokens", "block"),
        seed=run.config.seed,
    )


def sft(run: RunContext, *tasks: Task) -> Facts:
    """One adapter: on the rows of one task, or of both mixed."""
    settings = run.config.sft
    rows = [row for task in tasks for row in run.sft_rows(task)]
    # A held-back row without a rationale serves as an input of evaluations; it has no loss to measure here.
    dev = [row for task in tasks for row in run.rows("dev", task) if row.rationale.strip() or settings.label_only]
    if settings.both_orders:
        rows, dev = in_both_orders(rows), in_both_orders(dev)
    name = f"sft-{tasks[0] if len(tasks) == 1 else 'mixed'}"
    given = {"adapter": None, "examples": rows, "dev": dev, "settings": settings, "lora": run.config.lora}
    if not settings.bootstraps:
        return train(run, name, stage_work.sft, **given)
    written = [run.made(f"bootstrap-{task}", "rationales.jsonl") for task in tasks]
    return train(run, name, stage_work.bootstrapped_sft, rationales=written, **given)


def train(run: RunContext, stage: str, training: Callable[..., Facts], **given: Any) -> Facts:
    """A stage that makes an adapter, and what all of them are given."""
    given |= {"model": run.model, "loading": run.loading, "prompts": run.prompts, "seed": run.config.seed}
    return run.cache.do(stage, training, makes=("adapter", "training.json", "checkpoints"), together=True, **given)


def merge(run: RunContext) -> Facts:
    from recipe.training.merge import run_merge

    return run.cache.do(
        "merged",
        run_merge,
        makes=("adapter", "merge.json"),
        pointwise=run.made("sft-pointwise", "adapter"),
        pairwise=run.made("sft-pairwise", "adapter"),
        settings=run.config.merge,
        default_rank=run.config.lora.r,
    )


def sample(run: RunContext, t: int) -> Facts:
    return run.cache.do(
        f"iter-{t}:sample",
        stage_work.sample,
        makes=("samples.jsonl", "unfinished-samples"),
        together=True,
        judge=run.judge_model(run.judge_before(t), sampling=True),
        examples=run.inputs(t),
        settings=only(run.config.sample, "n", "temperature", "max_tokens", "block"),
        seed=run.config.seed,
    )


def curate(run: RunContext, t: int) -> Facts:
    return run.cache.do(
        f"iter-{t}:curate",
        stage_work.curate,
        makes=("preferences.jsonl", "dropped.jsonl"),
        samples=run.made(f"iter-{t}:sample", "samples.jsonl"),
        examples=run.inputs(t),
        settings=run.config.curate,
        seed=run.config.seed,
    )


def dpo(run: RunContext, t: int) -> Facts:
    judge = run.judge_before(t)
    return train(
        run,
        f"iter-{t}:dpo",
        stage_work.dpo,
        adapter=run.adapter(judge),
        lora=run.config.lora if judge == "seed" else None,
        examples=run.inputs(t),
        preferences=run.made(f"iter-{t}:curate", "preferences.jsonl"),
        settings=run.config.dpo,
    )


def measure(run: RunContext, stage: str) -> Facts:
    """A judge on the dev rows ("dev/j1"), one greedy judgement each, or on the test rows ("evaluation/j1")."""
    kind, _, judge = stage.partition("/")
    settings = run.config.evaluate
    sampled = kind == "evaluation" and settings.samples > 1
    return run.cache.do(
        stage,
        stage_work.measure,
        makes=("judgements.jsonl", "figures.json", *(("samples.jsonl",) if sampled else ())),
        judge=run.judge_model(judge),
        examples=run.dev_rows if kind == "dev" else run.test_rows,
        settings=only(settings, "max_tokens", "label_only", "resamples", *(("samples",) if sampled else ())),
        seed=run.config.seed if sampled else 0,  # greedy judgements are the same for every seed
    )


def decide(run: RunContext, t: int) -> Facts:
    """Whether round t is kept: its judge and the one before it on the dev rows."""
    before, judge = run.judge_before(t), f"j{t}"
    return run.cache.do(
        f"iter-{t}:decide",
        stage_work.decide,
        before=run.made(f"dev/{before}", "judgements.jsonl"),
        after=run.made(f"dev/{judge}", "judgements.jsonl"),
        names=(before, judge),
        examples=run.dev_rows,
        keep=run.config.rounds.keep,
        resamples=run.config.evaluate.resamples,
    )


def export(run: RunContext) -> Facts:
    config, source, settings = run.config, run.exported, run.config.export
    merged = config.start == "merged" and len(config.data.tasks) > 1 and source != "seed"
    split: Split = "dev" if config.data.takes("dev") else "train"
    rows = {task: run.rows(split, task, limited=False) for task in config.data.tasks}
    counts = {task: settings.flip_rows // len(rows) for task in rows}
    types = tuple(f"judge-{name}.gguf" for name in settings.types if name != settings.snapshot)
    return run.cache.do(
        "gguf",
        stage_work.export,
        makes=("../judge.gguf", *types),
        judge=run.judge_model(source),
        rows=[row for task in rows for row in rows[task][: counts[task]]],
        held_out=run.made(f"dev/{source}", "judgements.jsonl") if config.data.takes("dev") else None,
        prompt_ids={row.id: row.prompt_id for row in run.dev_rows},
        settings=only(settings, "snapshot", "types", "type"),
        max_tokens=config.evaluate.max_tokens,
        figures=run.made(f"evaluation/{source}", "figures.json") if config.data.takes("test") else None,
        origin={
            "name": config.name,
            "data": {task: config.data.source(task) for task in config.data.tasks},
            "merge": config.merge.method if merged else "",
            "rounds": int(source[1:]) if source.startswith("j") else 0,
        },
    )
