"""Loads a model to train or to run, and sets this process's share of the machine. Two engines fill in the details."""

import contextlib
import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.errors import SreError, first_line
from recipe.gguf.weights import open_adapter
from recipe.inference.base import Quantization
from recipe.system import usable_cores


def take_share(threads: int | None) -> None:
    """Take this process's share of the machine: CPU threads (None: all cores it may use) and, where a launcher started
    one process for each GPU, its own GPU. Raises SreError when there are more processes than GPUs.
    """
    import torch

    own = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        if own >= torch.cuda.device_count():
            raise SreError(f"process {own} has no GPU; launch as many as there are: {torch.cuda.device_count()}")
        torch.cuda.set_device(own)
    elif "LOCAL_RANK" in os.environ:
        # Accelerate would name it "cpu:0", where torch.load finds no place for a checkpoint.
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    use_threads(threads)


def use_threads(threads: int | None) -> None:
    """Set PyTorch's CPU threads (None: all cores this process may use)."""
    import torch

    torch.set_num_threads(threads or usable_cores())


def avoid_cudnn_attention() -> None:
    """Keep PyTorch from cuDNN's attention, its first choice since the H100: cuDNN plans for each new shape, and here
    nearly every batch and every decoded token has one.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def resolve_quantization(setting: str) -> Quantization:
    """ "auto" is 4-bit NF4 (QLoRA) on a GPU and 16 bit on a CPU, where NF4 only costs time."""
    import torch

    return "nf4" if setting == "nf4" or (setting == "auto" and torch.cuda.is_available()) else "none"


def free_memory() -> None:
    """Hand back what finished stages left: models no longer named, and on a GPU PyTorch's own cache."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def compute_dtype() -> Any:
    """bfloat16 where the machine multiplies in it, else float16 on an older GPU and float32 on an older CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


@contextlib.contextmanager
def transformers_reads(folder: Path) -> Iterator[None]:
    """Whatever transformers, and what it reads with, raise at a damaged file of the folder is an SreError."""
    try:
        yield
    except Exception as error:  # tokenizers, a part of it, raises Exception itself
        raise SreError(f"not a model that transformers can load: {first_line(error)}", file=folder) from None


class TrainingEngine(ABC):
    """Loads a model. SFT and DPO themselves are TRL's trainers, the same code on every engine."""

    name: str

    def load(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        lora: dict[str, Any] | None = None,
        quantization: Quantization = "none",
        max_length: int = 2048,
        gradient_checkpointing: bool = False,
    ) -> tuple[Any, Any]:
        """(PEFT model, tokenizer), ready to be trained. The trainable adapter is named "default".

        It goes on from the folder `adapter`, or is new with the settings `lora`: r, alpha, dropout, target_modules,
        seed. max_length: the most tokens of a text. Raises SreError where the model or the adapter can't be loaded, or
        the adapter belongs to another base.
        """
        lora = lora or {}
        if adapter:
            saved, file = open_adapter(adapter)
            settings = {name: saved[name] for name in ("r", "lora_alpha", "target_modules")}
            settings["lora_dropout"] = saved.get("lora_dropout", 0.0)
        else:
            settings = {"r": lora["r"], "lora_alpha": lora["alpha"], "lora_dropout": lora["dropout"]}
            settings["target_modules"] = list(lora["target_modules"])
        base, tokenizer = self.load_base(model, quantization, max_length)
        peft_model = self.add_adapter(base, settings, lora.get("seed", 0), quantization, gradient_checkpointing)
        if adapter:
            _fill_adapter(peft_model, adapter, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return peft_model, tokenizer

    def load_for_inference(
        self, model: Path, adapter: Path | None, quantization: Quantization, max_length: int = 2048
    ) -> tuple[Any, Any]:
        """(model, tokenizer), ready to decode."""
        if adapter:
            loaded, tokenizer = self.load(model, adapter=adapter, quantization=quantization, max_length=max_length)
        else:
            loaded, tokenizer = self.load_base(model, quantization, max_length)
        return self.for_inference(loaded, quantization), tokenizer

    @abstractmethod
    def load_base(self, model: Path, quantization: Quantization, max_length: int) -> tuple[Any, Any]:
        """(base model, tokenizer). Raises SreError for a folder that can't be loaded."""

    @abstractmethod
    def add_adapter(
        self, base: Any, settings: dict[str, Any], seed: int, quantization: Quantization, gradient_checkpointing: bool
    ) -> Any:
        """The base with a fresh adapter "default" of these settings, by PEFT's names."""

    @abstractmethod
    def for_inference(self, loaded: Any, quantization: Quantization) -> Any:
        """The model set up to decode."""


def _fill_adapter(model: Any, adapter: Path, saved: dict[str, Any]) -> None:
    """Put the weights `saved` in the folder `adapter` into the model's fresh adapter of the same settings.

    Attached with plain PEFT instead, the adapter would miss what an engine patches when it makes one (Unsloth's fused
    kernels).
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    fresh = get_peft_model_state_dict(model)
    for name in sorted(saved.keys() | fresh.keys()):
        found, wanted = (tuple(side[name].shape) if name in side else None for side in (saved, fresh))
        if found != wanted:
            raise SreError(f"adapter of another base: {name} is {found}, this model needs {wanted}", file=adapter)
    set_peft_model_state_dict(model, saved)
