"""The fast engine: Unsloth on a GPU, and on a CPU (since 2026.10.9). Import it before trl, transformers and peft."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.inference.base import Quantization

# Unsloth writes generated trainer code to its working directory unless told otherwise.
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path(tempfile.gettempdir()) / f"sre-unsloth-{os.getuid()}"))

from unsloth import FastLanguageModel

from recipe.inference.pytorch.loading import avoid_cudnn_attention, compute_dtype, fill_adapter, read_adapter_settings

_VLLM_MEMORY = 0.85  # of the GPU: weights, KV cache and what vLLM keeps for its kernels


class UnslothEngine:
    """TrainingEngine on Unsloth's FastLanguageModel."""

    name = "unsloth"

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
        """See TrainingEngine.load. A saved adapter is loaded into a fresh one made by Unsloth: attached with plain
        PEFT it would miss Unsloth's fused kernels."""
        settings = read_adapter_settings(adapter) if adapter else dict(lora or {})
        base, tokenizer = _load_base(model, quantization, max_length)
        peft_model = FastLanguageModel.get_peft_model(
            base,
            r=settings["r"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=list(settings["target_modules"]),
            use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
            random_state=settings.get("seed", 0),
        )
        if adapter:
            fill_adapter(peft_model, adapter)
        return peft_model, tokenizer


def load_for_inference(
    model: Path, adapter: Path | None, *, quantization: Quantization = "none", max_length: int = 2048
) -> tuple[Any, Any]:
    """(model, tokenizer) with Unsloth's fast decoding switched on. max_length: at most what the model was trained
    for; beyond it Unsloth would stretch its positions."""
    if adapter:
        loaded, tokenizer = UnslothEngine().load(
            model, adapter=adapter, quantization=quantization, max_length=max_length
        )
    else:
        loaded, tokenizer = _load_base(model, quantization, max_length)
    FastLanguageModel.for_inference(loaded)
    return loaded, tokenizer


def load_for_vllm(
    model: Path, adapter: Path | None, *, quantization: Quantization = "none", max_length: int = 2048
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, LoRA request): the base in vLLM's engine, `model.fast_generate`; the adapter goes with each
    call. Takes most of the GPU: nothing else may be on it, and what it took is back when its process ends. Raises
    SreError where Unsloth doesn't take vLLM."""
    loaded, tokenizer = _load_base(
        model,
        quantization,
        max_length,
        fast_inference=True,
        max_lora_rank=read_adapter_settings(adapter)["r"] if adapter else 1,  # Unsloth rounds it up
        gpu_memory_utilization=_VLLM_MEMORY,
        # As it stands, vLLM would keep room for gradients and record log-probabilities after the temperature.
        training=False,
    )
    if not hasattr(loaded, "vllm_engine"):
        raise SreError("Unsloth didn't take vLLM for this model or GPU; take the engine torch", field="sample.engine")
    if adapter is None:
        return loaded, tokenizer, None
    from unsloth_zoo.vllm_utils import load_lora

    return loaded, tokenizer, load_lora(loaded, str(adapter))


def _load_base(model: Path, quantization: Quantization, max_length: int, **more: Any) -> tuple[Any, Any]:
    avoid_cudnn_attention()
    try:
        loaded: tuple[Any, Any] = FastLanguageModel.from_pretrained(
            model_name=str(model),
            max_seq_length=max_length,
            dtype=compute_dtype(),
            load_in_4bit=quantization == "nf4",
            trust_remote_code=False,
            **more,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise SreError(f"not a model that Unsloth can load: {str(error).splitlines()[0]}", file=model) from None
    return loaded
