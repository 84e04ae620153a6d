"""The work of the stages. A function here knows what it is given, and nothing else of the run or its settings.

The heavy libraries are imported when a stage runs: listing the stages must stay quick.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.data.records import Example, Judgement, Preference
from recipe.errors import NothingToTrainError
from recipe.pipeline.judge_model import JudgeModel
from recipe.pipeline.stage_cache import Made
from recipe.storage import read_json, read_jsonl
from recipe.system import in_own_process

Facts = Mapping[str, Any]
Rows = Sequence[Example]


def seed(folder: Path, *, source: str, revision: str | None, content: Path | None) -> Facts:
    """`content` is part of the hash only: the files at `source`."""
    from recipe.training.seed import run_seed

    return run_seed(source, folder, revision=revision)


def bootstrap(
    folder: Path, *, judge: JudgeModel, teacher: Path | str | None, teacher_model: str | None, **given: Any
) -> Facts:
    from recipe.inference.openai import OpenAIGenerator
    from recipe.training.bootstrap import run_bootstrap

    held = teacher is None and judge.engine == "llamacpp"
    if isinstance(teacher, str):
        opened: Any = OpenAIGenerator(teacher, model=teacher_model, parallel=judge.parallel)
    else:
        opened = judge.open_gguf(teacher) if teacher else judge.open()
    with opened as generator:
        return run_bootstrap(folder, generator=generator, prompts=judge.prompts, held=held, **given)


def bootstrapped_sft(folder: Path, *, examples: Rows, rationales: Sequence[Made], **given: Any) -> Facts:
    """SFT where a model wrote the rationales of the examples that have none."""
    from recipe.training.bootstrap import with_rationales

    rows = list(with_rationales(examples, [judgement for made in rationales for judgement in _judgements(made.path)]))
    if not rows:
        raise NothingToTrainError("no row got a rationale; raise bootstrap.n, or name a better bootstrap.teacher")
    return sft(folder, examples=rows, **given)


def sft(folder: Path, *, examples: Rows, dev: Rows, **given: Any) -> Facts:
    from recipe.training.sft import run_sft
    from recipe.training.trainer import Training

    return run_sft(Training(folder, **given), examples=examples, dev=dev)


def sample(folder: Path, *, judge: JudgeModel, **given: Any) -> Facts:
    if judge.engine != "vllm":
        return draw(folder, judge=judge, **given)
    from recipe.inference.pytorch.loading import free_memory

    free_memory()  # the other process takes nearly all of it
    return in_own_process(draw, folder, judge=judge, **given)


def draw(folder: Path, *, judge: JudgeModel, **given: Any) -> Facts:
    from recipe.training.sample import run_sample

    with judge.open() as generator:
        return run_sample(folder, generator=generator, origin=judge.name, prompts=judge.prompts, **given)


def curate(folder: Path, *, samples: Path, examples: Rows, **given: Any) -> Facts:
    from recipe.training.curate import run_curate

    return run_curate(folder, _judgements(samples), {row.id: row.rubric.criteria for row in examples}, **given)


def dpo(folder: Path, *, examples: Rows, preferences: Path, **given: Any) -> Facts:
    from recipe.training.dpo import run_dpo
    from recipe.training.trainer import Training

    by_id = {row.id: row for row in examples}
    return run_dpo(Training(folder, **given), examples=by_id, preferences=read_jsonl(preferences, Preference.from_json))


def measure(folder: Path, *, judge: JudgeModel, **given: Any) -> Facts:
    from recipe.evaluation.evaluate import evaluate
    from recipe.judge.judge import Judge

    with Judge(judge.open(), judge.prompts, name=judge.name) as opened:
        return evaluate(folder, judge=opened, **given)


def decide(
    folder: Path, *, before: Path, after: Path, names: tuple[str, str], keep: Any, resamples: int, examples: Rows
) -> Facts:
    from recipe.evaluation.rounds import compare_on_dev, is_kept

    found = compare_on_dev(examples, _judgements(before), _judgements(after), resamples)
    return {"before": names[0], "judge": names[1], **found, "kept": is_kept(found["gain"], keep)}


def export(
    folder: Path,
    *,
    judge: JudgeModel,
    figures: Path | None,
    held_out: Path | None,
    prompt_ids: Any,
    origin: Mapping[str, Any],
    **given: Any,
) -> Facts:
    from recipe.evaluation.audit import degenerate
    from recipe.evaluation.evaluate import headline
    from recipe.training.card import Card, base_of
    from recipe.training.export import run_export

    measured = read_json(figures) if figures else {}
    base, nf4 = base_of(judge.base_model, judge.model.path), judge.loading.quantization == "nf4"
    told: dict[str, Any] = {"figures": headline(measured) if measured else {}, "warnings": degenerate(measured)}
    card = Card(**origin, **told, base=base, nf4=nf4)
    judgements = _judgements(held_out) if held_out else []
    return run_export(
        folder,
        snapshot=judge.write_snapshot(),
        judge=folder.parent / "judge.gguf",
        prompts=judge.prompts,
        open_gguf=judge.open_gguf,
        held_out=[(judgement, prompt_ids[judgement.example_id]) for judgement in judgements],
        card=card,
        trained=judge.open if nf4 and judge.engine != "llamacpp" else None,
        **given,
    )


def _judgements(path: Path) -> list[Judgement]:
    return read_jsonl(path, Judgement.from_json)
