"""What SFT and DPO share around TRL's trainers: token ids, rows on disk, arguments, checkpoints, the training log.

The model's own chat template tokenises each row once. A completion is the judgement's tokens and the end token: what
the model would have to sample.
"""

import importlib.util
import itertools
import logging
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from recipe.config import LoraConfig, TrainConfig
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Quantization
from recipe.inference.pytorch.engines import open_engine
from recipe.inference.pytorch.loading import TrainingEngine, free_memory, take_share
from recipe.inference.special_tokens import PromptEncoder
from recipe.progress import Advance, bar
from recipe.prompts import Prompts, neutralise
from recipe.storage import atomic_folder, read_json, write_json
from recipe.system import process

ROWS_IN_MEMORY = 1000  # tokenised rows that are held before they are written
WHOLE = "whole.json"  # the file that is written last into a checkpoint: the sizes of the others

_log = logging.getLogger("recipe.training")
Section = TypeVar("Section", bound=TrainConfig)
_encoder = lru_cache(maxsize=2)(PromptEncoder.of)


@dataclass(frozen=True)
class Loading:
    """How a training stage loads the model, and where it logs. The fields that aren't compared change no result."""

    engine: Literal["auto", "unsloth", "transformers"]
    quantization: Quantization
    max_length: int  # in tokens; longer rows are left out and counted
    gradient_checkpointing: bool
    threads: int | None = field(default=None, compare=False)
    report_to: str = field(default="none", compare=False)  # where the log goes besides training.json; see config.py
    run: str = field(default="", compare=False)  # the run's name in that log

    def open_engine(self) -> TrainingEngine:
        """The training engine. Call it before importing TRL: Unsloth must be imported first."""
        engine = open_engine(self.engine)
        take_share(self.threads)
        free_memory()
        return engine


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, the chat template's opening of the assistant's turn included."""
    return _encoder(tokenizer).encode(messages)


def plain_text(tokenizer: Any, text: str) -> str:
    """Text from data in which nothing acts as structure: neither the grammar's words nor the model's special tokens."""
    return _encoder(tokenizer).plain(neutralise(text))


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a judgement and the end token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def rows_on_disk(file: Path, rows: Iterable[dict[str, list[int]]]) -> Any:
    """Write rows of token ids to a file, so that few are in memory; returns a dataset, None where there are no rows."""
    import pyarrow
    from datasets import Dataset

    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return None
    schema = pyarrow.schema(dict.fromkeys(first, pyarrow.list_(pyarrow.int32())))
    file.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, schema) as writer:
        rows = itertools.chain([first], remaining)
        while part := list(itertools.islice(rows, ROWS_IN_MEMORY)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(part, schema=schema))
    return Dataset.from_file(str(file))


def tokens_in(rows: Any, *columns: str) -> int:
    """Tokens in those columns of a dataset, without reading them into memory."""
    return sum(len(part.flatten()) for name in columns for part in rows.data.column(name).chunks)


def per_process(settings: TrainConfig, processes: int) -> tuple[int, int]:
    """(batch_size, accumulate) of each process, which together take one step; they share the accumulation first."""
    parts = math.gcd(settings.accumulate, processes)
    batch_size, rest = divmod(settings.batch_size * parts, processes)
    if rest:
        rows = f"batch_size {settings.batch_size} x accumulate {settings.accumulate}"
        advice = f"make accumulate a multiple of {processes}, or launch fewer"
        raise SreError(f"{processes} processes can't share a step of {rows} rows; {advice}", field="accumulate")
    return batch_size, settings.accumulate // parts


def _progress_callback(advance: Advance) -> Any:
    """Moves the bar by one per optimiser step, and marks checkpoints that are whole."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                advance(1, f"loss {float(logs['loss']):.3f}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                write_json(checkpoint / WHOLE, _sizes(checkpoint))

    return Bar()


def _reporter(loading: Loading, folder: Path) -> dict[str, str]:
    """The arguments that name where the log goes besides training.json."""
    report_to = loading.report_to
    if report_to == "auto":
        report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise SreError(f"{report_to} is not installed: pip install {report_to}", field="report_to")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")  # else among the checkpoints
    project = "self-rationalizing-evaluators"
    return {"report_to": report_to, "run_name": f"{loading.run}/{folder.name}", "project": project}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None. A kill or a full disk may have cut later ones short."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}") if _is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(mark: Path) -> bool:
    try:
        return read_json(mark).items() <= _sizes(mark.parent).items()
    except SreError:  # the mark itself was cut short
        return False


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of each file that the main process writes into a checkpoint."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != WHOLE)
    others = "rng_state_"  # begins the names of what each process of several writes
    return {
        os.path.relpath(path, checkpoint): path.stat().st_size for path in files if not path.name.startswith(others)
    }


class Training(Generic[Section]):
    """The training of one adapter: the loaded PEFT model, its rows, and TRL's trainer for them."""

    rows: Any = None  # a dataset of token ids, see `put`
    dev_rows: Any = None

    def __init__(
        self,
        folder: Path,
        *,
        model: Path,
        loading: Loading,
        prompts: Prompts,
        seed: int,
        settings: Section,
        adapter: Path | None,
        lora: LoraConfig | None,
    ) -> None:
        """Load the seed model in the folder `model` with the adapter, or with a new one of the settings `lora`."""
        self.folder, self.loading, self.prompts, self.seed, self.settings = folder, loading, prompts, seed, settings
        self.checkpoints = folder / "checkpoints"  # what the stage needs only until it is done
        self.engine = loading.open_engine()
        self.model, self.tokenizer = self.engine.load(
            model,
            adapter=adapter,
            lora={**lora.model_dump(), "seed": seed} if lora else None,
            quantization=loading.quantization,
            max_length=loading.max_length,
            gradient_checkpointing=loading.gradient_checkpointing,
        )

    def put(self, rows: Iterable[dict[str, list[int]]], dev_rows: Iterable[dict[str, list[int]]] = ()) -> None:
        """Take the rows to train on, and those on which the best checkpoint is chosen. They go to the disk."""
        self.rows, self.dev_rows = (
            rows_on_disk(self.checkpoints / f"{name}-{process()[0]}.arrow", part)
            for name, part in (("rows", rows), ("dev", dev_rows))
        )

    def left_out(self, given: int, kept: int, unit: str) -> int:
        """How many were longer than `max_length`; a warning tells it."""
        if given > kept and process()[0] == 0:
            limit = f"model.max_length = {self.loading.max_length} tokens"
            _log.warning("%d of %d %s are left out: they are longer than %s", given - kept, given, unit, limit)
        return given - kept

    def arguments(self) -> dict[str, Any]:
        """The arguments that SFTConfig and DPOConfig share."""
        import torch

        from recipe.inference.pytorch.loading import compute_dtype

        settings, seed, gpu = self.settings, self.seed, torch.cuda.is_available()
        batch_size, accumulate = per_process(settings, process()[1])
        steps = max(1, math.ceil(len(self.rows) * settings.epochs / (settings.batch_size * settings.accumulate)))
        every = max(1, math.ceil(steps / (settings.checkpoints + 1)))
        dtype = compute_dtype()
        arguments = {
            "output_dir": str(self.checkpoints),
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
            "gradient_checkpointing": self.loading.gradient_checkpointing,
            # Every weight of the adapter is in every pass; looking for unused ones breaks reentrant checkpointing.
            "ddp_find_unused_parameters": False,
            "seed": seed,
            "data_seed": seed,
            "save_strategy": "steps" if settings.checkpoints else "no",
            "save_steps": every,
            "save_total_limit": 2,
            "logging_steps": 1,
            **_reporter(self.loading, self.folder),
            "disable_tqdm": True,
            "dataloader_pin_memory": gpu,
            "remove_unused_columns": False,
            "max_length": None,
        }
        if self.dev_rows is not None and settings.checkpoints:
            arguments |= {
                "eval_strategy": "steps",
                "eval_steps": every,
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_loss",
                "greater_is_better": False,
                "restore_callback_states_from_checkpoint": settings.patience is not None,
            }
        return arguments

    def open(self, trainer: Any, arguments: Any, **options: Any) -> Any:
        """TRL's trainer of that class, with its SFTConfig or DPOConfig; for one GPU, the adapter in float32."""
        arguments._n_gpu = min(arguments.n_gpu, 1)  # it would multiply the batch by the GPUs that it sees
        # On a 4-bit base TRL rounds the adapter to bfloat16, where a step of 1e-5 changes few weights.
        before = [
            (weight, weight.detach().float().clone()) for weight in self.model.parameters() if weight.requires_grad
        ]
        options |= {"train_dataset": self.rows, "eval_dataset": self.dev_rows if self.settings.checkpoints else None}
        made = trainer(model=self.model, args=arguments, processing_class=self.tokenizer, **options)
        for weight, value in before:
            weight.data = value
        return made

    def run(self, trainer: Any, label: str) -> dict[str, Any]:
        """Train, resuming from the newest checkpoint; write adapter/ and training.json; returns its facts."""
        from peft.helpers import disable_input_dtype_casting
        from transformers import EarlyStoppingCallback, PrinterCallback

        trainer.remove_callback(PrinterCallback)
        if trainer.args.load_best_model_at_end and self.settings.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(self.settings.patience))
        checkpoint = last_checkpoint(self.checkpoints)
        # Autocast brings the adapter's input back to 16 bit, so PEFT's float32 copy of it would only cost time.
        begun = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        with bar(label, trainer.args.max_steps, "steps", begun) as advance, disable_input_dtype_casting(trainer.model):
            trainer.add_callback(_progress_callback(advance))
            done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
        losses = [float(entry["loss"]) for entry in history if "loss" in entry]
        if any(math.isnan(loss) for loss in losses):
            raise SreError("the training loss became NaN; lower the learning rate", field="learning_rate")
        trainer.accelerator.wait_for_everyone()  # all have read the best checkpoint
        if trainer.is_world_process_zero():
            save_adapter(trainer.model, self.folder / "adapter")
            write_json(self.folder / "training.json", {"history": history})
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        steps = int(done.global_step)
        return {"processes": process()[1], "steps": steps, "first_loss": losses[0], "last_loss": losses[-1]}


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter "default" as PEFT does, whole or not at all. It names its base by the way from `folder`."""
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, selected_adapters=["default"])
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's, which says nothing but the base's folder
        settings = read_json(temporary / "adapter_config.json")
        base = Path(settings.get("base_model_name_or_path") or "")
        if base.is_dir():
            settings["base_model_name_or_path"] = os.path.relpath(base, folder)
            write_json(temporary / "adapter_config.json", settings)
