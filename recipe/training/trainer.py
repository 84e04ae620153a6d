"""What SFT and DPO share around TRL's trainers: token ids, rows on disk, arguments, checkpoints, the training log.

Rows are tokenised here, once, by the model's own chat template. A completion is the judgement's tokens and the end
token, so SFT and DPO train on exactly what sampling would draw.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipe.config import TrainConfig
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.special_tokens import PromptEncoder, added_tokens
from recipe.progress import Advance, bar
from recipe.prompts import neutralise
from recipe.storage import atomic_folder, write_json
from recipe.system import process
from recipe.verdict import find_verdict

ROWS_IN_MEMORY = 1000  # tokenised rows that are held before they are written


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, the chat template's opening of the assistant's turn included."""
    return _encoder(tokenizer).encode(messages)


@lru_cache(maxsize=2)
def _encoder(tokenizer: Any) -> PromptEncoder:
    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return PromptEncoder(
        ChatTemplate.of(tokenizer).render, tokenize, added_tokens(tokenizer).get, tokenizer.unk_token_id
    )


def plain_text(tokenizer: Any, text: str) -> str:
    """Text from data in which nothing acts as structure: neither the grammar's words nor the model's special tokens."""
    return _encoder(tokenizer).plain(neutralise(text))


def check_chat_template(model: Path) -> None:
    """Raise SreError if the model's chat template can't show a judge's prompts: better before training than after."""
    from transformers import AutoTokenizer

    ChatTemplate.of(AutoTokenizer.from_pretrained(model, trust_remote_code=False))


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a judgement and the end token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def label_places(tokenizer: Any, text: str, labels: Sequence[int]) -> list[int]:
    """Indices, among `completion_ids` of `text`, of the tokens that spell the label; [] where there is no label."""
    verdict = find_verdict(text, labels)
    if verdict is None:
        return []
    encoding = tokenizer(text, add_special_tokens=False)
    return sorted({encoding.char_to_token(place) for place in range(*verdict.span("label"))})


def rows_on_disk(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> Any:
    """Write rows to a file, so that few of them are in memory; returns them as a dataset, None if there are none.

    Args:
        folder: The stage's folder. `run_trainer` removes the file with the checkpoints.
        name: The file's name.
        rows: Their values are lists of whole numbers, whole numbers, and floats or None.
    """
    import pyarrow
    from datasets import Dataset

    types = {list: pyarrow.list_(pyarrow.int32()), int: pyarrow.int32()}
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return None
    schema = pyarrow.schema({key: types.get(type(value), pyarrow.float64()) for key, value in first.items()})
    file = checkpoints(folder) / f"{name}-{process()[0]}.arrow"
    file.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, schema) as writer:
        rows = itertools.chain([first], remaining)
        while part := list(itertools.islice(rows, ROWS_IN_MEMORY)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(part, schema=schema))
    return Dataset.from_file(str(file))


def checkpoints(folder: Path) -> Path:
    """Where a stage keeps what it needs only until it is done."""
    return folder / "checkpoints"


def trainer_arguments(
    settings: TrainConfig, folder: Path, *, seed: int, rows: int, gradient_checkpointing: bool, dev: bool = False
) -> dict[str, Any]:
    """Keyword arguments common to SFTConfig and DPOConfig.

    Args:
        settings: The section `sft` or `dpo`.
        folder: The stage's folder.
        seed: The run's seed.
        rows: How many rows or pairs are trained on.
        gradient_checkpointing: Whether the backward pass computes activations anew.
        dev: Whether there are dev rows, on which the checkpoint to keep is chosen.
    """
    import torch

    from recipe.inference.pytorch.loading import compute_dtype

    gpu = torch.cuda.is_available()
    batch_size, accumulate = per_process(settings, process()[1])
    steps = optimiser_steps(settings, rows)
    every = max(1, math.ceil(steps / (settings.checkpoints + 1)))
    dtype = compute_dtype()
    arguments = {
        "output_dir": str(checkpoints(folder)),
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
    if dev and settings.checkpoints:
        arguments |= {
            "eval_strategy": "steps",
            "eval_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": settings.patience is not None,
        }
    return arguments


def one_gpu(arguments: Any) -> Any:
    """`arguments` for a process on one GPU: a Trainer that sees several, and was not launched, multiplies the batch."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextlib.contextmanager
def adapter_unrounded(model: Any) -> Iterator[None]:
    """Keep the adapter's weights in float32 while TRL makes a trainer, which rounds them to bfloat16 on a 4-bit base.

    In bfloat16 a step of 1e-5 would leave most weights where they are.
    """
    before = [(weight, weight.detach().float().clone()) for weight in model.parameters() if weight.requires_grad]
    yield
    for weight, value in before:
        weight.data = value


def output_logits(causal_lm: Any, hidden: Any) -> Any:
    """float32 logits of hidden states by the model's output head, capped where the model caps them (Gemma 2)."""
    head = causal_lm.get_output_embeddings()
    logits = (hidden @ head.weight.to(hidden.dtype).t()).float()
    if head.bias is not None:
        logits = logits + head.bias.float()
    cap = getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def per_process(settings: TrainConfig, processes: int) -> tuple[int, int]:
    """(batch_size, accumulate) of each of so many processes, such that all of them together take the same step as one.

    Accumulation is shared out first, then the batch. Raises SreError where neither can be.
    """
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
    """Optimiser steps over `rows` rows for the configured epochs; at least one."""
    return max(1, math.ceil(rows * settings.epochs / (settings.batch_size * settings.accumulate)))


def _progress_callback(advance: Advance) -> Any:
    """Moves the bar by one per optimiser step and shows the loss."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                advance(1, f"loss {float(logs['loss']):.3f}")

    return Bar()


def _add_reporter(trainer: Any, folder: Path, report_to: str, run: str) -> None:
    if report_to == "auto":
        report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    if report_to == "none" or process()[0]:
        return
    if importlib.util.find_spec(report_to) is None:
        raise SreError(f"{report_to} is not installed: pip install {report_to}", field="report_to")
    from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

    if report_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    else:
        trainer.args.run_name, trainer.args.project = f"{run}/{folder.name}", "self-rationalizing-evaluators"
        trainer.add_callback(WandbCallback if report_to == "wandb" else TrackioCallback)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None. Those that a kill or a full disk cut short are passed over."""
    found = [path for path in folder.glob("checkpoint-*") if _is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    needed = ("trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt")
    if not all((checkpoint / name).is_file() for name in needed):
        return False
    try:
        for path in checkpoint.iterdir():
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):  # compares the file's size with its header
                    pass
            elif path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
                return False
    except (ValueError, OSError, SafetensorError):
        return False
    return True


def run_trainer(
    trainer: Any, folder: Path, settings: TrainConfig, label: str, *, report_to: str = "none", run: str = ""
) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint; save the adapter to folder/adapter and the log to training.json.

    Args:
        trainer: TRL's trainer, made with `trainer_arguments`.
        folder: The stage's folder.
        settings: The section `sft` or `dpo`.
        label: The progress bar's name.
        report_to: Where the log goes besides training.json. "auto" is TensorBoard where it is installed; its files are
            in the folder tensorboard/. Else "none", "tensorboard", "wandb" or "trackio".
        run: The run's name, for wandb and trackio.

    Returns:
        Facts for the done marker: steps and losses.

    Raises:
        SreError: The loss is not a number, or the reporter is not installed.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    trainer.remove_callback(PrinterCallback)
    _add_reporter(trainer, folder, report_to, run)
    if trainer.args.load_best_model_at_end and settings.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    with bar(label, trainer.args.max_steps, "steps") as advance:
        trainer.add_callback(_progress_callback(advance))
        steps = _train(trainer, folder, advance)
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    if any(math.isnan(loss) for loss in losses):
        raise SreError("the training loss became NaN; lower the learning rate", field="learning_rate")
    trainer.accelerator.wait_for_everyone()  # all have read the best checkpoint
    if trainer.is_world_process_zero():
        save_adapter(trainer.model, folder / "adapter")
        write_json(folder / "training.json", {"history": history})
        shutil.rmtree(checkpoints(folder), ignore_errors=True)
    return {"processes": process()[1], "steps": steps, "first_loss": losses[0], "last_loss": losses[-1]}


def _train(trainer: Any, folder: Path, advance: Advance) -> int:
    """Train from the newest whole checkpoint, if there is one; returns the number of steps."""
    from peft.helpers import disable_input_dtype_casting

    checkpoint = last_checkpoint(checkpoints(folder))
    if checkpoint:
        advance(int(checkpoint.name.rpartition("-")[2]), "resumed")
    # Autocast brings the adapter's input back to 16 bit: PEFT's float32 copy of it costs time and changes no bit.
    with disable_input_dtype_casting(trainer.model):
        return int(trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).global_step)


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter "default" as PEFT does, whole or not at all."""
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, selected_adapters=["default"])
