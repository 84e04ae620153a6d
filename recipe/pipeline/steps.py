"""The order of the stages and the loop over t; no other file knows either. `steps` is the recipe on one screen.
A stage runs once per run folder. A setting that changed since then is an error (stage_cache.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.config import Config, dump, load
from recipe.data.records import TASKS, Example, Judgement, Preference, Task, in_both_orders
from recipe.errors import NothingToTrainError, SreError
from recipe.evaluation.evaluate import FORCED
from recipe.pipeline.context import Job
from recipe.pipeline.stage_cache import RunFolder
from recipe.storage import atomic, hash_object, read_json, read_jsonl, write_json
from recipe.system import in_own_process

Facts = Mapping[str, Any]


def steps(job: Job) -> dict[str, Callable[[], Facts]]:
    """Every stage of the run by name, in order."""
    plan: dict[str, Callable[[], Facts]] = {"seed": partial(seed, job)}
    if job.config.start == "merged":
        plan["sft-pointwise"] = partial(sft, job, "pointwise")
        plan["sft-pairwise"] = partial(sft, job, "pairwise")
        plan["merged"] = partial(merge, job)
    elif job.config.start == "mixed":
        plan["sft-mixed"] = partial(sft, job, *TASKS)
    for t in range(1, job.config.iterations + 1):
        plan[f"iter-{t}:sample"] = partial(sample, job, t)
        if job.config.update == "best-of-n":
            plan[f"iter-{t}:sft"] = partial(best_of_n, job, t)
        else:
            plan[f"iter-{t}:assess"] = partial(assess, job, t)
            plan[f"iter-{t}:curate"] = partial(curate, job, t)
            plan[f"iter-{t}:dpo"] = partial(dpo, job, t)
    for judge in job.judges if job.config.data.test_split else ():
        plan[f"evaluation/{judge}"] = partial(evaluate, job, judge)
    plan["gguf"] = partial(export, job)
    return plan


def run_pipeline(config: Config, folder: Path, *, until: str | None = None) -> dict[str, Any]:
    """Run (or go on with) all stages up to and including `until`; returns what results.json then holds.

    Raises SreError for an unknown stage name or a folder made with other settings.
    """
    job = Job(config, folder)
    plan = steps(job)
    if until is not None and until not in plan:
        raise SreError(f"no stage {until!r}; the stages of this run: {', '.join(plan)}", field="--until")
    _ = job.exported  # better refused now than after hours
    with job.run.locked():
        job.keep_config()
        for name, step in plan.items():
            step()
            if name == until:
                break
        return results(job)


def run_judge(config: Config, folder: Path, judge: str, lenders: Sequence[Path]) -> None:
    """Run what a judge needs and no more, and measure it. `lenders`: run folders whose stages may be taken over.

    Raises SreError as `run_pipeline` does, and for a judge that is not of this run or without test rows.
    """
    job = Job(config, folder, lenders)
    plan = steps(job)
    if f"evaluation/{judge}" not in plan:
        raise SreError(f"nothing measures a judge {judge!r}: this run has {', '.join(job.judges)}, and takes test rows")
    before = list(plan)[: list(plan).index(job.stage_of(judge)) + 1]
    with job.run.locked():
        job.keep_config()
        for name in (*before, f"evaluation/{judge}"):
            plan[name]()
        # The run's own config.toml is that of the last call, which may have measured another judge.
        kept, settings = folder / "evaluation" / judge / "config.toml", dump(config)
        if job.run.main and not (kept.exists() and kept.read_text(encoding="utf-8") == settings):
            with atomic(kept) as file:
                file.write(settings)


def run_stage(folder: Path, name: str, overrides: Sequence[str] = ()) -> Facts:
    """Run one stage of an existing run folder; the stages it needs must be done. Raises SreError if they aren't.

    overrides: settings other than the folder's, with which the stage is made anew; the folder keeps them.
    """
    if not (folder / "config.toml").is_file():
        raise SreError("not a run folder (no config.toml); start one with `sre run CONFIG --until seed`", file=folder)
    before = load(folder / "config.toml")
    job = Job(load(folder / "config.toml", overrides), folder)
    plan = steps(job)
    if name not in plan:
        raise SreError(f"no stage {name!r}; the stages of this run: {', '.join(plan)}")
    with job.run.locked():
        if job.config != before:
            _ = job.exported  # refused before anything is forgotten
            job.run.forget(name)
            job.keep_config()
        facts = plan[name]()
        results(job)
        return facts


# --- the stages: what each takes from the others, and what its result depends on ---


def seed(job: Job) -> Facts:
    from recipe.training.seed import run_seed

    settings = job.config.model

    def work(folder: Path) -> Facts:
        report = run_seed(settings.source, folder, revision=settings.revision)
        job.check_later_stages()
        return {"kind": report.kind, "origin": report.origin, "bytes": report.bytes}

    return job.run.do("seed", work, settings={"source": settings.source, "revision": settings.revision})


def sft(job: Job, *tasks: Task) -> Facts:
    """One adapter: on the rows of one task, or of both mixed."""
    need_rationale = not job.config.sft.label_only
    rows = [row for task in tasks for row in job.rows("train", task, need_rationale=need_rationale)]
    # A held-back row without a rationale serves as an input of evaluations; it has no loss to measure here.
    dev = [row for task in tasks for row in job.rows("dev", task) if row.rationale.strip() or not need_rationale]
    if job.config.sft.both_orders:
        rows, dev = in_both_orders(rows), in_both_orders(dev)

    def work(folder: Path) -> Facts:
        return _run_sft(job, folder, rows, dev)

    settings = _training(job, "sft") | {"lora": job.config.lora.model_dump(), "rows": digest(rows), "dev": digest(dev)}
    name = f"sft-{tasks[0] if len(tasks) == 1 else 'mixed'}"
    return job.run.do(name, work, settings=settings, after=("seed",), together=True)


def merge(job: Job) -> Facts:
    settings = job.config.merge

    def work(folder: Path) -> Facts:
        from recipe.training.merge import run_merge

        adapters = {task: job.path / f"sft-{task}" / "adapter" for task in TASKS}
        return run_merge(folder, **adapters, settings=settings, default_rank=job.config.lora.r, seed=job.config.seed)

    used = {"merge": settings.model_dump(), "seed": job.config.seed}
    return job.run.do("merged", work, settings=used, after=("sft-pointwise", "sft-pairwise"))


def sample(job: Job, t: int) -> Facts:
    from recipe.training.sample import choose_inputs

    settings, seed = job.config.sample, job.config.seed
    inputs = choose_inputs(*job.all_train, settings, iteration=t, seed=seed)

    def work(folder: Path) -> Facts:
        if job.samples_on_vllm:
            from recipe.inference.pytorch.loading import free_memory

            free_memory()  # the other process takes nearly all of it
            return in_own_process(draw, Job(job.config, job.path), t, folder, inputs)
        return draw(job, t, folder, inputs)

    used = {"sample": settings.model_dump(exclude={"inputs", "pairwise_share"}), "rows": digest(inputs), "seed": seed}
    used |= {"snapshot": job.config.export.snapshot, "max_length": job.config.model.max_length}
    return job.run.do(
        f"iter-{t}:sample",
        work,
        settings=used,
        after=(job.stage_of(job.judge_before(t)),),
        makes=("samples.jsonl",),
        together=True,
    )


def draw(job: Job, t: int, folder: Path, inputs: Sequence[Example]) -> Facts:
    """Iteration t's samples of these inputs."""
    from recipe.training.sample import run_sample

    settings, seed, judge = job.config.sample, job.config.seed, job.judge_before(t)
    with job.sampler(judge) as generator:
        return run_sample(folder, generator=generator, examples=inputs, settings=settings, origin=judge, seed=seed)


def assess(job: Job, t: int) -> Facts:
    """Ask a model about the samples; nothing to do for the curation methods that go by labels alone."""
    from recipe.training.assess import ASSESSED_METHODS, run_assess
    from recipe.training.curate import distinct_texts, sides

    settings = job.config.curate

    def work(folder: Path) -> Facts:
        if settings.method not in ASSESSED_METHODS:
            return {}
        pools = {key: distinct_texts(pool) for key, pool in job.pools(t).items()}
        with job.generator(job.judge_before(t), settings.assessor) as generator:
            return run_assess(
                folder,
                generator=generator,
                examples=job.examples,
                pools=pools,
                sides=lambda pool: sides(pool, pool[0].truth if pool else None, settings),
                settings=settings,
                sampling=job.config.sample,
                seed=job.config.seed,
            )

    used = {"curate": settings.model_dump(include={"method", "margin", "assessor", "reject_malformed"})}
    return job.run.do(
        f"iter-{t}:assess", work, settings=used, after=(f"iter-{t}:sample",), makes=("assessments.jsonl",)
    )


def curate(job: Job, t: int) -> Facts:
    from recipe.training.assess import read_assessments
    from recipe.training.curate import Assessments, run_curate

    def work(folder: Path) -> Facts:
        said = Assessments(*read_assessments(folder / "assessments.jsonl"))
        return run_curate(
            folder, judgements=job.samples(t), assessments=said, settings=job.config.curate, seed=job.config.seed
        )

    used = {"curate": job.config.curate.model_dump(), "seed": job.config.seed}
    after, makes = (f"iter-{t}:sample", f"iter-{t}:assess"), ("preferences.jsonl", "dropped.jsonl")
    return job.run.do(f"iter-{t}:curate", work, settings=used, after=after, makes=makes)


def dpo(job: Job, t: int) -> Facts:
    judge = job.judge_before(t)
    lora = job.config.lora.model_dump() if judge == "seed" else None

    def work(folder: Path) -> Facts:
        engine = job.engine
        from recipe.training.dpo import run_dpo

        return run_dpo(
            folder,
            engine=engine,
            model=job.model,
            adapter=job.adapter(judge),
            lora=lora,
            examples=job.examples,
            preferences=[Preference.from_json(row) for row in read_jsonl(folder / "preferences.jsonl")],
            settings=job.config.dpo,
            seed=job.config.seed,
            **job.loading(),
        )

    used = _training(job, "dpo") | ({"lora": lora} if lora else {})
    after = (job.stage_of(judge), f"iter-{t}:curate")
    makes = ("adapter", "training.json")
    return job.run.do(f"iter-{t}:dpo", work, settings=used, after=after, makes=makes, together=True)


def best_of_n(job: Job, t: int) -> Facts:
    """In the place of curation and DPO: SFT of J_t on those of its samples that are right."""
    judge = job.judge_before(t)

    def work(folder: Path) -> Facts:
        from recipe.evaluation.baselines import best_of_n as right_samples

        judgements = job.samples(t)
        rows = right_samples(list(job.examples.values()), judgements, job.config.sample.n)
        if not rows:
            raise NothingToTrainError(f"none of {len(judgements)} samples is right")
        return _run_sft(job, folder, rows, (), adapter=job.adapter(judge))

    used = _training(job, "sft") | {"lora": job.config.lora.model_dump()}
    after = (job.stage_of(judge), f"iter-{t}:sample")
    makes = ("adapter", "training.json")
    return job.run.do(f"iter-{t}:sft", work, settings=used, after=after, makes=makes, together=True)


def evaluate(job: Job, judge: str) -> Facts:
    rows, settings = job.test_rows, job.config.evaluate
    how = settings.model_dump(exclude={"both_orders"})

    def work(folder: Path) -> Facts:
        from recipe.evaluation.evaluate import evaluate as measure
        from recipe.judge.judge import Judge

        with Judge(job.generator(judge), name=judge) as opened:
            return measure(folder, judge=opened, examples=rows, seed=job.config.seed, **how)

    used: dict[str, Any] = {"evaluate": settings.model_dump(), "rows": digest(rows)}
    used["snapshot"] = job.config.export.snapshot
    if settings.samples > 1:
        used["seed"] = job.config.seed
    return job.run.do(f"evaluation/{judge}", work, settings=used, after=(job.stage_of(judge),))


def export(job: Job) -> Facts:
    source = job.exported
    measured = bool(job.config.data.test_split)
    figures = job.path / "evaluation" / source / "figures.json"

    def work(folder: Path) -> Facts:
        from recipe.evaluation.evaluate import headline
        from recipe.training.export import run_export

        count = job.config.export.flip_rows
        held = "dev" if job.config.data.dev_split else "train"
        dev = {task: job.rows(held, task, limited=False) for task in TASKS}
        return run_export(
            folder,
            snapshot=job.snapshot(source),
            judge=job.path / "judge.gguf",
            rows=dev["pointwise"][: count - count // 2] + dev["pairwise"][: count // 2],
            config=job.config,
            figures=headline(read_json(figures)) if measured else {},
        )

    used = {"export": job.config.export.model_dump(exclude={"source"})}  # the stages before it say whose it is
    after = (job.stage_of(source), *([f"evaluation/{source}"] if measured else []))
    return job.run.do("gguf", work, settings=used, after=after)


def results(job: Job) -> dict[str, Any]:
    """Write and return results.json: figures of each evaluated judge, differences, the cost of each finished stage."""
    from recipe.evaluation.compare import compare
    from recipe.evaluation.evaluate import read_judgements

    stages = costs(job.run)
    found: dict[str, Any] = {}
    for name in (step for step in steps(job) if step in stages and "/" in step):
        judge = name.removeprefix("evaluation/")
        found[judge] = read_json(job.path / name / "figures.json")
        if judge == "seed":
            found[FORCED] = found[judge]["constrained"]
    content: dict[str, Any] = {"models": {}, "differences": {}}
    if found:
        measured = {judge: {job.config.seed: read_judgements(job.path, judge)} for judge in found}
        train, resamples = [*chain(*job.all_train)], job.config.evaluate.resamples
        content = compare(job.test_rows, measured, comparisons(list(found)), train, resamples=resamples)
    content |= {"models": found, "stages": stages}
    if job.run.main:
        write_json(job.path / "results.json", content)
    return content


def costs(run: RunFolder) -> dict[str, dict[str, Any]]:
    """wall_s, tokens and peak_rss_mb of each finished stage; "from" where it was taken over from another run."""
    kept = ("wall_s", "tokens", "peak_rss_mb", "from")
    return {s["stage"]: {key: s[key] for key in kept if key in s} for s in run.stages() if "finished" in s}


def comparisons(judges: Sequence[str]) -> list[tuple[str, str]]:
    """(first, second) of each difference reported, as far as both were evaluated: what SFT and each DPO round give."""
    rounds = [("sft", name) for name in judges if name.startswith("j")]
    return [pair for pair in [(FORCED, "sft"), *rounds] if set(pair) <= set(judges)]


def digest(rows: Sequence[Example]) -> str:
    """A hash over the rows' content, wherever they came from."""
    return hash_object([row.to_json() for row in rows])


def _run_sft(
    job: Job, folder: Path, rows: Sequence[Example], dev: Sequence[Example], adapter: Path | None = None
) -> Facts:
    engine = job.engine  # opened first: Unsloth must be imported before what TRL needs
    from recipe.training.sft import run_sft

    config = job.config
    return run_sft(
        folder,
        engine=engine,
        model=job.model,
        adapter=adapter,
        examples=rows,
        dev=dev,
        settings=config.sft,
        lora=config.lora,
        seed=config.seed,
        **job.loading(),
    )


def _training(job: Job, section: str) -> dict[str, Any]:
    model = job.config.model.model_dump(exclude={"source", "revision"})
    return {"model": model, section: getattr(job.config, section).model_dump(), "seed": job.config.seed}


def judge_one(folder: Path) -> tuple[Example, Judgement]:
    """The first test row, judged by the run's judge.gguf."""
    from recipe.judge.judge import Judge

    example = Job(load(folder / "config.toml"), folder).rows("test", "pointwise")[0]
    with Judge.from_gguf(folder / "judge.gguf") as judge:
        return example, next(iter(judge.judge([example])))
