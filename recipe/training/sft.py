"""Stage SFT: one adapter trained on labelled judgements with rationales. Only the judgement counts in the loss.

Writes adapter/ and training.json in its folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from recipe.config import SftConfig
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.training.trainer import Training, completion_ids, plain_text, prompt_ids, tokens_in
from recipe.verdict import format_verdict


def run_sft(training: Training[SftConfig], *, examples: Sequence[Example], dev: Sequence[Example]) -> dict[str, Any]:
    """Train the adapter, and keep the checkpoint that is best on the `dev` rows; returns facts for the done marker."""
    training.put(to_rows(training, examples), to_rows(training, dev))
    rows = training.rows
    if rows is None:
        longest = f"model.max_length = {training.loading.max_length} tokens"
        raise SreError(f"all {len(examples)} training rows are longer than {longest}")
    too_long = training.left_out(len(examples), len(rows), "training rows")
    trainer = make_trainer(training)
    tasks = sorted({row.task for row in examples})
    facts = training.run(trainer, f"SFT {' and '.join(tasks)}")
    return {
        "engine": training.engine.name,
        "rows": len(rows),
        "too_long": too_long,
        "tokens": round(tokens_in(rows, "input_ids") * training.settings.epochs),
        **facts,
    }


def to_rows(training: Training[SftConfig], examples: Iterable[Example]) -> Iterator[dict[str, list[int]]]:
    """Tokenise the examples whose prompt and judgement fit into `max_length` tokens. The label -100 has no loss."""
    tokenizer, label_only = training.tokenizer, training.settings.label_only
    for example in examples:
        assert example.label is not None
        prompt = prompt_ids(tokenizer, training.prompts.judge(example, label_only=label_only))
        rationale = "" if label_only else plain_text(tokenizer, example.rationale.strip())
        completion = completion_ids(tokenizer, format_verdict(rationale, example.label))
        if len(prompt) + len(completion) <= training.loading.max_length:
            yield {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def make_trainer(training: Training[SftConfig]) -> Any:
    import torch
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    config = TrlSftConfig(
        **training.arguments(),
        completion_only_loss=True,
        loss_type="chunked_nll",  # computes logits at completion tokens only
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = training.open(SFTTrainer, config)
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
