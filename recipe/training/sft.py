"""Stage SFT: one adapter on labelled judgements with rationales. The loss is on the completion alone.

Makes adapter/ and training.json in its folder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from recipe.config import LoraConfig, SftConfig
from recipe.data.records import Example
from recipe.errors import SreError
from recipe.inference.base import Quantization
from recipe.inference.pytorch.loading import TrainingEngine
from recipe.prompts import Prompts
from recipe.training.trainer import (
    adapter_unrounded,
    completion_ids,
    label_places,
    one_gpu,
    output_logits,
    plain_text,
    prompt_ids,
    rows_on_disk,
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
    report_to: str = "none",
    run: str = "",
) -> dict[str, Any]:
    """Train a new adapter, or go on with `adapter`.

    Args:
        folder: The stage's folder.
        engine: Loads the model.
        model: The seed model's folder.
        adapter: An adapter to go on with; None makes a new one.
        examples: The training rows: labels and, unless `settings.label_only`, rationales given.
        dev: Held-back rows. Where there are any, the checkpoint of the lowest dev loss is kept.
        prompts: The templates.
        settings: The section `sft`.
        lora: The section `lora`, for a new adapter.
        quantization: How the base is loaded.
        max_length: Rows of more tokens are left out and counted, never cut.
        gradient_checkpointing: Whether the backward pass computes activations anew.
        seed: The run's seed.
        report_to: Where the log goes besides training.json; see `run_trainer`.
        run: The run's name in that log.

    Returns:
        Facts for the done marker.

    Raises:
        SreError: No row fits.
    """
    peft_model, tokenizer = engine.load(
        model,
        adapter=adapter,
        lora=None if adapter else {**lora.model_dump(), "seed": seed},
        quantization=quantization,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
    )
    rows, dev_rows = (
        rows_on_disk(folder, name, to_rows(tokenizer, part, max_length, prompts, label_only=settings.label_only))
        for name, part in (("rows", examples), ("dev", dev))
    )
    if rows is None:
        raise SreError(f"all {len(examples)} training rows are longer than model.max_length = {max_length} tokens")
    trainer = make_trainer(peft_model, tokenizer, rows, dev_rows, folder, settings, seed, gradient_checkpointing)
    label = f"SFT {' and '.join(sorted({row.task for row in examples}))}"
    facts = run_trainer(trainer, folder, settings, label, report_to=report_to, run=run)
    tokens = round(sum(lengths(rows)) * settings.epochs)
    return {"engine": engine.name, "rows": len(rows), "too_long": len(examples) - len(rows), "tokens": tokens, **facts}


def to_rows(
    tokenizer: Any, examples: Iterable[Example], max_length: int, prompts: Prompts, *, label_only: bool
) -> Iterator[dict[str, Any]]:
    """Tokenise the examples that fit into `max_length` tokens.

    Args:
        tokenizer: The model's tokeniser, with its chat template.
        examples: Labelled rows.
        max_length: The most tokens of a prompt and its judgement together.
        prompts: The templates.
        label_only: Whether the judgement is the label alone.

    Yields:
        `input_ids` of prompt and judgement; `prompt_tokens`, how many of them are the prompt's; `label_places`, the
        indices of those that spell the label.
    """
    for example in examples:
        assert example.label is not None
        prompt = prompt_ids(tokenizer, prompts.judge(example, label_only=label_only))
        rationale = "" if label_only else plain_text(tokenizer, example.rationale.strip())
        text = format_verdict(rationale, example.label)
        ids = prompt + completion_ids(tokenizer, text)
        if len(ids) <= max_length:
            places = [len(prompt) + place for place in label_places(tokenizer, text, example.labels)]
            yield {"input_ids": ids, "prompt_tokens": len(prompt), "label_places": places}


def lengths(rows: Any) -> list[int]:
    """Tokens of each row of a dataset, without reading the tokens into memory."""
    import pyarrow.compute

    return list(pyarrow.compute.list_value_length(rows.data.column("input_ids")).to_pylist())


def by_length(lengths: Sequence[int], batch: int, seed: int) -> list[int]:
    """An order of the rows, drawn by `seed`, in which the `batch` rows of each batch are of similar length."""
    draw = random.Random(seed)
    shuffled = draw.sample(range(len(lengths)), len(lengths))
    # Sorted in parts, so that a row meets other rows in each epoch.
    parts = (shuffled[start : start + 50 * batch] for start in range(0, len(shuffled), 50 * batch))
    batches = [
        ordered[k : k + batch]
        for part in parts
        for ordered in [sorted(part, key=lengths.__getitem__)]
        for k in range(0, len(ordered), batch)
    ]
    draw.shuffle(batches)
    # The smaller one goes last, so that all others stay whole.
    return [index for some in sorted(batches, key=len, reverse=True) for index in some]


def make_trainer(
    peft_model: Any,
    tokenizer: Any,
    rows: Any,
    dev_rows: Any,
    folder: Path,
    settings: SftConfig,
    seed: int,
    gradient_checkpointing: bool,
) -> Any:
    """TRL's SFTTrainer over the rows of `to_rows`, as datasets; `dev_rows` may be None.

    `chunked_nll` computes logits at completion tokens only. See `weigh_labels` for what the label's tokens count.
    """
    import torch
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    dev = dev_rows is not None
    arguments = trainer_arguments(
        settings, folder, seed=seed, rows=len(rows), gradient_checkpointing=gradient_checkpointing, dev=dev
    )
    if settings.batching == "by-length":
        # The order is ours, epoch by epoch, and a resume finds its place in it.
        sizes = lengths(rows)
        orders = [by_length(sizes, settings.batch_size, seed + e) for e in range(math.ceil(settings.epochs))]
        # The smaller batches of all epochs go last: in between they would shift those that follow.
        whole = len(rows) - len(rows) % settings.batch_size
        rows = rows.select([k for part in (slice(whole), slice(whole, None)) for order in orders for k in order[part]])
        arguments["train_sampling_strategy"] = "sequential"
    if settings.batching == "padding-free":
        arguments["padding_free"] = True
    weight = settings.label_weight

    class LabelTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batches: list[Any], device: Any) -> Any:
            """What the loss is divided by: the sum of the weights of a step's tokens."""
            count = super()._get_num_items_in_batch(batches, device)
            only = [{"labels": batch["labels"].masked_fill(~batch["label_mask"], -100)} for batch in batches]
            return count + (weight - 1) * super()._get_num_items_in_batch(only, device)

        def compute_loss(self, *args: Any, **more: Any) -> Any:
            loss = super().compute_loss(*args, **more)
            hits, labels = self.accelerator.gather(self.label_hits).reshape(-1, 2).sum(0).tolist()
            if labels:
                self._metrics["train" if self.model.training else "eval"]["label_accuracy"].append(hits / labels)
            return loss

    with adapter_unrounded(peft_model):
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
            train_dataset=rows,
            eval_dataset=dev_rows if settings.checkpoints else None,
            processing_class=tokenizer,
        )
    trainer.data_collator = partial(collate, trainer.data_collator, masked=torch.cuda.is_available())
    weigh_labels(trainer, weight)
    return trainer


def collate(trl_collate: Callable[..., dict[str, Any]], rows: Sequence[dict[str, Any]], *, masked: bool) -> Any:
    """TRL's batch of the rows, and `label_mask`: True at the tokens that spell a label. Rows may be laid end to end.

    Without `masked`, positions stand in place of the padding mask, for half the attention on a CPU: with a mask
    PyTorch's kernel computes what lies ahead, too. It is exact: padding stands at the right, where causal attention
    sees it from padding alone, and no loss is taken there.
    """
    import torch

    labels = [[-100] * row["prompt_tokens"] + row["input_ids"][row["prompt_tokens"] :] for row in rows]
    batch = trl_collate([{"input_ids": row["input_ids"], "labels": t} for row, t in zip(rows, labels, strict=True)])
    mask = batch["label_mask"] = torch.zeros_like(batch["labels"], dtype=torch.bool)
    start = 0
    for number, row in enumerate(rows):
        together = len(mask) == 1
        mask[0 if together else number, [start + place for place in row["label_places"]]] = True
        start += len(row["input_ids"]) if together else 0
    if not masked and (padding := batch.pop("attention_mask", None)) is not None:
        batch["position_ids"] = torch.arange(padding.shape[1]).expand_as(padding)
    return batch


def weigh_labels(trainer: Any, weight: float) -> None:
    """Make the trainer's loss, which TRL has put into the model, a weighted mean over the completions' tokens.

    The loss becomes sum(w * nll) / sum(w), with w = `weight` at the label's tokens and 1 elsewhere. Dividing by the
    sum of the weights keeps the size of a step, so that a learning rate keeps its meaning; at weight 1 this is the
    plain mean. TRL computes the plain sum in chunks. What the label's tokens add is computed from the same hidden
    states. `trainer.label_hits` is [labels' tokens that were the most probable ones, labels' tokens] of the last pass.
    """
    import torch

    causal_lm = trainer.model.get_base_model()
    plain = causal_lm.forward
    hidden: list[Any] = []
    causal_lm.base_model.register_forward_hook(lambda _, __, output: hidden.append(output.last_hidden_state))

    @wraps(plain)
    def forward(*args: Any, label_mask: Any = None, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        hidden.clear()
        if label_mask is None:
            return plain(*args, **inputs)
        mask, targets = label_mask[:, 1:], inputs["labels"][:, 1:]
        total = num_items_in_batch
        if total is None:
            total = (targets != -100).sum() + (weight - 1) * mask.sum()
        output = plain(*args, num_items_in_batch=total, **inputs)
        logits, tokens = output_logits(causal_lm, hidden.pop()[:, :-1][mask]), targets[mask]
        at_labels = torch.nn.functional.cross_entropy(logits, tokens, reduction="sum")
        output.loss = output.loss + (weight - 1) * at_labels / total
        trainer.label_hits = torch.stack([(logits.argmax(-1) == tokens).sum(), mask.sum()]).float()
        return output

    causal_lm.forward = forward
