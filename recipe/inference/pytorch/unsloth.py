"""The fast engine: Unsloth on a GPU, and on a CPU (since 2026.10.9). Import it before trl, transformers and peft."""

import os
import tempfile
from pathlib import Path
from typing import Any

from recipe.errors import SreError, first_line
from recipe.inference.base import Quantization

# Unsloth writes generated trainer code to its working directory unless told otherwise.
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path(tempfile.gettempdir()) / f"sre-unsloth-{os.getuid()}"))

from unsloth import FastLanguageModel

from recipe.gguf.weights import open_adapter
from recipe.inference.pytorch.loading import TrainingEngine, avoid_cudnn_attention, compute_dtype

_VLLM_MEMORY = 0.85  # of the GPU: weights, KV cache and what vLLM keeps for its kernels


class UnslothEngine(TrainingEngine):
    name = "unsloth"

    def load_base(self, model: Path, quantization: Quantization, max_length: int, **options: Any) -> tuple[Any, Any]:
        """max_length: at most what the model was trained for; beyond it Unsloth would stretch its positions."""
        avoid_cudnn_attention()
        try:
            loaded: tuple[Any, Any] = FastLanguageModel.from_pretrained(
                model_name=str(model),
                max_seq_length=max_length,
                dtype=compute_dtype(),
                load_in_4bit=quantization == "nf4",
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise SreError(f"not a model that Unsloth can load: {first_line(error)}", file=model) from None
        return loaded

    def add_adapter(
        self, base: Any, settings: dict[str, Any], seed: int, quantization: Quantization, gradient_checkpointing: bool
    ) -> Any:
        checkpointing = "unsloth" if gradient_checkpointing else False
        return FastLanguageModel.get_peft_model(
            base, **settings, use_gradient_checkpointing=checkpointing, random_state=seed
        )

    def for_inference(self, loaded: Any, quantization: Quantization) -> Any:
        FastLanguageModel.for_inference(loaded)
        return loaded


def load_for_vllm(
    model: Path, adapter: Path | None, *, quantization: Quantization = "none", max_length: int = 2048
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, LoRA request): vLLM runs the base as `model.fast_generate`, and the adapter goes with each
    call. vLLM takes most of the GPU until its process ends. Raises SreError where Unsloth doesn't take vLLM.
    """
    loaded, tokenizer = UnslothEngine().load_base(
        model,
        quantization,
        max_length,
        fast_inference=True,
        max_lora_rank=open_adapter(adapter)[0]["r"] if adapter else 1,  # Unsloth rounds it up
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
