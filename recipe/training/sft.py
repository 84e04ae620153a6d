"""Stage SFT: one adapter trained on labelled judgements with rationales. Only the judgement counts in the loss.

Writes adapter/ and training.json in its folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipe.config import LoraConfig, SftConfig
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.prompts import Prompts
from recipe.training.trainer import (
    TrainingSetup,
    completion_ids,
    open_trainer,
    plain_text,
    prompt_ids,
    rows_on_disk,
    run_trainer,
    tokens_in,
    trainer_arguments,
)
from recipe.verdict import format_verdict


def run_sft(
    folder: Path,
    setup: TrainingSetup,
    *,
    examples: Sequence[Example],
    dev: Sequence[Example],
    settings: SftConfig,
    lora: LoraConfig,
    adapter: Path | None = None,
) -> dict[str, Any]:
    """Train a new adapter, or go on with `adapter`; returns facts for the done marker.

    Raises SreError where no row fits into `setup.max_length` tokens.

    Args:
        folder: The stage's folder.
        setup: What the two trainers share.
        examples: The training rows, with labels and, unless `settings.label_only`, rationales.
        dev: Held-out rows. If there are any, the checkpoint with the lowest loss on them is kept.
        settings: The section `sft`.
        lora: The section `lora`, for a new adapter.
        adapter: An adapter to go on with.
    """
    model, tokenizer = setup.load(adapter, lora)
    label_only, longest = settings.label_only, setup.max_length
    rows, dev_rows = (
        rows_on_disk(folder, name, to_rows(tokenizer, part, longest, setup.prompts, label_only=label_only))
        for name, part in (("rows", examples), ("dev", dev))
    )
    if rows is None:
        raise SreError(f"all {len(examples)} training rows are longer than model.max_length = {longest} tokens")
    trainer = make_trainer(setup, model, tokenizer, rows, dev_rows, folder, settings)
    tasks = sorted({row.task for row in examples})
    facts = run_trainer(trainer, folder, settings, f"SFT {' and '.join(tasks)}")
    return {
        "engine": setup.engine.name,
        "rows": len(rows),
        "too_long": len(examples) - len(rows),
        "tokens": round(tokens_in(rows, "input_ids") * settings.epochs),
        **facts,
    }


def to_rows(
    tokenizer: Any, examples: Iterable[Example], max_length: int, prompts: Prompts, *, label_only: bool
) -> Iterator[dict[str, list[int]]]:
    """Tokenise the labelled examples that fit into `max_length` tokens, prompt and judgement together.

    Yields `input_ids`, and `labels`: the same ids with -100, which has no loss, at the prompt's.
    """
    for example in examples:
        assert example.label is not None
        prompt = prompt_ids(tokenizer, prompts.judge(example, label_only=label_only))
        rationale = "" if label_only else plain_text(tokenizer, example.rationale.strip())
        completion = completion_ids(tokenizer, format_verdict(rationale, example.label))
        if len(prompt) + len(completion) <= max_length:
            yield {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def make_trainer(
    setup: TrainingSetup, model: Any, tokenizer: Any, rows: Any, dev_rows: Any, folder: Path, settings: SftConfig
) -> Any:
    """TRL's SFTTrainer over datasets of `to_rows`; `dev_rows` may be None."""
    import torch
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    config = TrlSftConfig(
        **trainer_arguments(settings, folder, setup, rows=len(rows), dev=dev_rows is not None),
        completion_only_loss=True,
        loss_type="chunked_nll",  # computes logits at completion tokens only
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    dev = dev_rows if settings.checkpoints else None
    trainer = open_trainer(SFTTrainer, model, config, train_dataset=rows, eval_dataset=dev, processing_class=tokenizer)
    if not torch.cuda.is_available():
        trainer.data_collator = partial(collate, trainer.data_collator)
    return trainer


def collate(trl_collate: Callable[..., dict[str, Any]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """TRL's batch with positions in place of the padding mask, with which PyTorch's CPU kernel takes twice the time.

    The result is the same, because padding is at the right: under causal attention no other token sees it.
    """
    import torch

    batch = trl_collate(rows)
    padding = batch.pop("attention_mask")
    return {**batch, "position_ids": torch.arange(padding.shape[1]).expand_as(padding)}
