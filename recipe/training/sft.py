"""Stage SFT: one adapter on labelled judgements with rationales (SPEC: The recipe, 1; paper 3.1).

Makes adapter/ and training.json in its folder. The loss is on the completion alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from recipe.config import LoraConfig, SftConfig
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.inference.base import Quantization, TrainingEngine
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.training.trainer import (
    completion_ids,
    label_places,
    one_gpu,
    output_logits,
    plain_text,
    progress_callback,
    prompt_ids,
    run_trainer,
    trainer_arguments,
)
from recipe.verdict import format_verdict


def run_sft(
    folder: Path,
    *,
    engine: TrainingEngine,
    model: Path,
    adapter: Path | None = None,
    examples: Sequence[Example],
    dev: Sequence[Example],
    prompts: Prompts,
    settings: SftConfig,
    lora: LoraConfig,
    quantization: Quantization,
    max_length: int,
    gradient_checkpointing: bool,
    seed: int,
) -> dict[str, Any]:
    """Train a new adapter, or go on with `adapter`, on `examples` (labels and, unless label_only, rationales given).

    Rows longer than `max_length` tokens are left out and counted, never cut. With `dev` rows the checkpoint of the
    lowest dev loss is kept. Raises SreError when no row fits.
    """
    peft_model, tokenizer = engine.load(
        model,
        adapter=adapter,
        lora=None if adapter else {**lora.model_dump(), "seed": seed},
        quantization=quantization,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
    )
    rows, too_long = to_rows(tokenizer, examples, max_length, prompts, label_only=settings.label_only)
    dev_rows, _ = to_rows(tokenizer, dev, max_length, prompts, label_only=settings.label_only)
    if not rows:
        raise SreError(f"all {too_long} training rows are longer than model.max_length = {max_length} tokens")
    tokens = round(sum(len(row["input_ids"]) for row in rows) * settings.epochs)
    trainer = make_trainer(peft_model, tokenizer, rows, dev_rows, folder, settings, seed, gradient_checkpointing)
    with bar(f"SFT {' and '.join(sorted({row.task for row in examples}))}", trainer.args.max_steps, "steps") as advance:
        trainer.add_callback(progress_callback(advance))
        facts = run_trainer(trainer, folder, advance)
    return {"engine": engine.name, "rows": len(rows), "too_long": too_long, "tokens": tokens, **facts}


def to_rows(
    tokenizer: Any, examples: Sequence[Example], max_length: int, prompts: Prompts, *, label_only: bool
) -> tuple[list[dict[str, list[int]]], int]:
    """Tokenise the examples; returns (rows that fit, number of those that are too long).

    A row has `input_ids`, TRL's `labels` (-100 at the prompt, where there is no loss) and `label_places`, the indices
    of the tokens that spell the judgement's label.
    """
    rows = []
    for example in examples:
        assert example.label is not None
        prompt = prompt_ids(tokenizer, prompts.judge(example, label_only=label_only))
        rationale = "" if label_only else plain_text(tokenizer, example.rationale.strip())
        text = format_verdict(rationale, example.label)
        completion = completion_ids(tokenizer, text)
        places = label_places(tokenizer, text, example.labels)
        rows.append(
            {
                "input_ids": prompt + completion,
                "labels": [-100] * len(prompt) + completion,
                "label_places": [len(prompt) + place for place in places],
            }
        )
    fitting = [row for row in rows if len(row["input_ids"]) <= max_length]
    return fitting, len(rows) - len(fitting)


def by_length(lengths: Sequence[int], batch: int, seed: int) -> list[int]:
    """The rows' indices such that each `batch` of them are of like length, in an order drawn by `seed`."""
    draw = random.Random(seed)
    shuffled = draw.sample(range(len(lengths)), len(lengths))
    # Sorted in parts: a batch's company still differs from epoch to epoch.
    parts = (shuffled[start : start + 50 * batch] for start in range(0, len(shuffled), 50 * batch))
    batches = [
        ordered[k : k + batch]
        for part in parts
        for ordered in [sorted(part, key=lengths.__getitem__)]
        for k in range(0, len(ordered), batch)
    ]
    draw.shuffle(batches)
    # The one that may be smaller goes last, so that all others stay whole.
    return [index for some in sorted(batches, key=len, reverse=True) for index in some]


def make_trainer(
    peft_model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    dev_rows: list[dict[str, list[int]]],
    folder: Path,
    settings: SftConfig,
    seed: int,
    gradient_checkpointing: bool,
) -> Any:
    """TRL's SFTTrainer over tokenised rows; `chunked_nll` computes logits at completion tokens only."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    arguments = trainer_arguments(
        settings,
        folder / "checkpoints",
        seed=seed,
        rows=len(rows),
        gradient_checkpointing=gradient_checkpointing,
    )
    if settings.batching == "by-length":
        # The order is ours, epoch by epoch, and a resume finds its place in it.
        lengths = [len(row["input_ids"]) for row in rows]
        orders = [by_length(lengths, settings.batch_size, seed + e) for e in range(math.ceil(settings.epochs))]
        # The smaller batches of all epochs go last: in between they would shift those that follow.
        whole = len(rows) - len(rows) % settings.batch_size
        rows = [rows[k] for part in (slice(whole), slice(whole, None)) for order in orders for k in order[part]]
        arguments["train_sampling_strategy"] = "sequential"
    if dev_rows and settings.checkpoints:
        arguments |= {
            "eval_strategy": "steps",
            "eval_steps": arguments["save_steps"],
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    if settings.batching == "padding-free":
        arguments["padding_free"] = True
    weight = settings.label_weight

    class LabelTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batches: list[Any], device: Any) -> Any:
            count = super()._get_num_items_in_batch(batches, device)
            if count is None or weight == 1:
                return count
            only = [{"labels": batch["labels"].masked_fill(~batch["label_mask"], -100)} for batch in batches]
            return count + (weight - 1) * super()._get_num_items_in_batch(only, device)

    trainer = LabelTrainer(
        model=peft_model,
        args=one_gpu(
            TrlSftConfig(
                **arguments,
                completion_only_loss=True,
                loss_type="chunked_nll",
                packing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            )
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(dev_rows) if dev_rows and settings.checkpoints else None,
        processing_class=tokenizer,
    )
    if not torch.cuda.is_available():
        trainer.data_collator = partial(unmasked, trainer.data_collator)
    if weight != 1:
        trainer.data_collator = partial(mark_labels, trainer.data_collator)
        weigh_labels(peft_model.get_base_model(), weight)
    return trainer


def mark_labels(collate: Callable[[Any], dict[str, Any]], rows: Any) -> dict[str, Any]:
    """A batch with `label_mask`: True at the tokens that spell a judgement's label. Rows may be laid end to end."""
    import torch

    batch = collate(rows)
    mask = torch.zeros_like(batch["labels"], dtype=torch.bool)
    start = 0
    for number, row in enumerate(rows):
        together = len(mask) == 1
        mask[0 if together else number, [start + place for place in row["label_places"]]] = True
        start += len(row["input_ids"]) if together else 0
    return {**batch, "label_mask": mask}


def weigh_labels(causal_lm: Any, weight: float) -> None:
    """Make the loss of `causal_lm`, as TRL has patched it, a weighted mean over the tokens of the completions.

    The loss becomes sum(w * nll) / sum(w), with w = `weight` at the label's tokens and 1 elsewhere. Dividing by the
    sum of the weights keeps the size of a step, so that a learning rate keeps its meaning. TRL computes the plain sum
    in chunks; what the labels' tokens add is computed from the same hidden states, a few places a row.
    """
    import torch

    plain = causal_lm.forward
    hidden: list[Any] = []
    causal_lm.base_model.register_forward_hook(lambda _, __, output: hidden.append(output.last_hidden_state))

    @wraps(plain)
    def forward(*args: Any, label_mask: Any = None, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        hidden.clear()
        if label_mask is None:
            return plain(*args, num_items_in_batch=num_items_in_batch, **kwargs)
        mask, labels = label_mask[:, 1:], kwargs["labels"][:, 1:]
        total = num_items_in_batch
        if total is None:
            total = (labels != -100).sum() + (weight - 1) * mask.sum()
        output = plain(*args, num_items_in_batch=total, **kwargs)
        logits = output_logits(causal_lm, hidden.pop()[:, :-1][mask])
        at_labels = torch.nn.functional.cross_entropy(logits, labels[mask], reduction="sum")
        output.loss = output.loss + (weight - 1) * at_labels / total
        return output

    causal_lm.forward = forward


def unmasked(collate: Callable[[Any], dict[str, Any]], rows: Any) -> dict[str, Any]:
    """A batch with positions in place of the padding mask, for half the attention on a CPU.

    Exact: padding stands at the right, where causal attention sees it from padding alone, and no loss is taken there.
    Without a mask PyTorch's kernel leaves out what lies ahead; with one it computes all of it. A batch without a mask
    (padding-free) stays as it is.
    """
    import torch

    batch = collate(rows)
    mask = batch.pop("attention_mask", None)
    if mask is not None:
        batch["position_ids"] = torch.arange(mask.shape[1]).expand_as(mask)
    return batch
