"""What loading a model to train has in common: precision, threads, LoRA settings, and an adapter's fit."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf.weights import open_adapter
from recipe.inference.base import Quantization
from recipe.system import usable_cores


def take_share(threads: int | None) -> None:
    """This process's share of the machine: its own GPU, where a launcher started one process for each, and CPU threads
    (None: all cores it may use). Raises SreError when there are more processes than GPUs."""
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


def use_threads(threads: int | None) -> int:
    """Set PyTorch's CPU threads (None: all cores this process may use) and return their number."""
    import torch

    count = threads or usable_cores()
    torch.set_num_threads(count)
    return count


def avoid_cudnn_attention() -> None:
    """Have PyTorch leave out cuDNN's attention, its first choice on an H100 and newer: cuDNN builds a plan for each
    shape it has not seen, and here every decoded token and nearly every batch brings a new one."""
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def resolve_quantization(setting: str) -> Quantization:
    """ "auto" is 4-bit NF4 (QLoRA) on a GPU and 16 bit on a CPU, where NF4 only costs time."""
    import torch

    if setting == "auto":
        return "nf4" if torch.cuda.is_available() else "none"
    return "nf4" if setting == "nf4" else "none"


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


def read_adapter_settings(adapter: Path) -> dict[str, Any]:
    """LoRA settings of a saved adapter (r, alpha, dropout, target_modules) for `TrainingEngine.load`."""
    saved, _ = open_adapter(adapter, "rank_pattern", "alpha_pattern", "use_rslora")
    return {
        "r": saved["r"],
        "alpha": saved["lora_alpha"],
        "dropout": saved.get("lora_dropout", 0.0),
        "target_modules": list(saved["target_modules"]),
    }


def fill_adapter(model: Any, adapter: Path) -> None:
    """Put a saved adapter's weights into the model's fresh adapter "default", of the same settings.

    Loading them so keeps what an engine patched when it made the adapter; attaching the folder with plain PEFT does
    not. Raises SreError when names or shapes differ: the adapter belongs to another base.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _, file = open_adapter(adapter)
    saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    fresh = get_peft_model_state_dict(model)
    for name in sorted(saved.keys() | fresh.keys()):
        found, wanted = (tuple(side[name].shape) if name in side else None for side in (saved, fresh))
        if found != wanted:
            raise SreError(f"adapter of another base: {name} is {found}, this model needs {wanted}", file=adapter)
    set_peft_model_state_dict(model, saved)
