"""What SFT and DPO share around TRL's trainers: token ids, arguments, progress, checkpoints, the training log.

Rows are tokenised here, once, by the model's own chat template: a completion is the judgement's tokens and the end
token, so SFT and DPO train on exactly what sampling would draw.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipe.config import TrainConfig
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.special_tokens import PromptEncoder, added_tokens
from recipe.progress import Advance
from recipe.prompts import neutralise
from recipe.storage import atomic_folder, write_json
from recipe.system import process
from recipe.verdict import label_span


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, the chat template's opening of the assistant's turn included."""
    return _encoder(tokenizer).encode(messages)


@lru_cache(maxsize=2)
def _encoder(tokenizer: Any) -> PromptEncoder:
    def render(messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return PromptEncoder(render, tokenize, added_tokens(tokenizer).get, tokenizer.unk_token_id)


def plain_text(tokenizer: Any, text: str) -> str:
    """Text from data in which nothing acts as structure: neither the grammar's words nor the model's special tokens."""
    return _encoder(tokenizer).plain(neutralise(text))


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a judgement and the end token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def label_places(tokenizer: Any, text: str, labels: Sequence[int]) -> list[int]:
    """Indices, among `completion_ids` of `text`, of the tokens that spell the label; [] where there is no label."""
    span = label_span(text, labels)
    if span is None:
        return []
    encoding = tokenizer(text, add_special_tokens=False)
    return sorted({encoding.char_to_token(place) for place in range(*span)})


def trainer_arguments(
    settings: TrainConfig, out: Path, *, seed: int, rows: int, gradient_checkpointing: bool
) -> dict[str, Any]:
    """Keyword arguments common to SFTConfig and DPOConfig."""
    import torch

    from recipe.inference.pytorch.loading import compute_dtype

    gpu = torch.cuda.is_available()
    batch_size, accumulate = per_process(settings, process()[1])
    steps = optimiser_steps(settings, rows)
    every = max(1, math.ceil(steps / (settings.checkpoints + 1)))
    dtype = compute_dtype()
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": accumulate,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": round(settings.warmup * steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": "adamw_8bit" if gpu else "adamw_torch",
        # Half precision by autocast: the adapter's weights stay float32.
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not gpu,
        "gradient_checkpointing": gradient_checkpointing,
        # Every weight of the adapter is in every pass; looking for unused ones breaks reentrant checkpointing.
        "ddp_find_unused_parameters": False,
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps" if settings.checkpoints else "no",
        "save_steps": every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        "remove_unused_columns": False,
        "max_length": None,
    }


def output_logits(causal_lm: Any, hidden: Any) -> Any:
    """float32 logits of hidden states by the model's output head, capped where the model caps them (Gemma 2)."""
    head = causal_lm.get_output_embeddings()
    logits = (hidden @ head.weight.to(hidden.dtype).t()).float()
    if head.bias is not None:
        logits = logits + head.bias.float()
    cap = getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def one_gpu(arguments: Any) -> Any:
    """`arguments` for a process on one GPU: seeing several, and not launched, the Trainer would multiply the batch."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def per_process(settings: TrainConfig, processes: int) -> tuple[int, int]:
    """(batch_size, accumulate) of each of so many processes, such that a step of all of them is over as many rows as
    in one process. Accumulation is shared out first, then the batch. Raises SreError where neither can be."""
    parts = math.gcd(settings.accumulate, processes)
    batch_size, rest = divmod(settings.batch_size * parts, processes)
    if rest:
        rows = f"batch_size {settings.batch_size} x accumulate {settings.accumulate}"
        raise SreError(
            f"{processes} processes can't share an optimiser step of {rows} rows; "
            f"make accumulate a multiple of {processes}, or launch fewer",
            field="accumulate",
        )
    return batch_size, settings.accumulate // parts


def optimiser_steps(settings: TrainConfig, rows: int) -> int:
    """Optimiser steps over `rows` rows for the epochs asked; at least one."""
    return max(1, math.ceil(rows * settings.epochs / (settings.batch_size * settings.accumulate)))


def progress_callback(advance: Advance) -> Any:
    """A transformers callback that moves the bar by one per optimiser step and shows the loss."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                advance(1, f"loss {float(logs['loss']):.3f}")

    return Bar()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None. Half-written ones (no trainer_state.json) are passed over."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def run_trainer(trainer: Any, folder: Path, advance: Advance) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint; save the adapter to folder/adapter and the log to training.json
    (the main process does, of several).

    Returns facts for the done marker: steps, tokens, losses. Raises SreError when the loss is not a number.
    """
    from peft.helpers import disable_input_dtype_casting
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    # TRL casts a 4-bit model's adapter to bfloat16, in which a step of 1e-5 leaves most weights where they are.
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    checkpoint = last_checkpoint(folder / "checkpoints")
    if checkpoint:
        advance(int(checkpoint.name.rpartition("-")[2]), "resumed")
    # Autocast brings the adapter's input back to 16 bit: PEFT's float32 copy of it costs time and changes no bit.
    with disable_input_dtype_casting(trainer.model):
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    if any(math.isnan(loss) for loss in losses):
        raise SreError("the training loss became NaN; lower the learning rate", field="learning_rate")
    trainer.accelerator.wait_for_everyone()  # all have read the best checkpoint
    if trainer.is_world_process_zero():
        save_adapter(trainer.model, folder / "adapter")
        write_json(folder / "training.json", {"history": history})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"processes": process()[1], "steps": result.global_step, "first_loss": losses[0], "last_loss": losses[-1]}


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter "default" as PEFT does, whole or not at all."""
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, selected_adapters=["default"])
