"""The engines that load a model: Unsloth wherever it can be imported, else transformers, PEFT and bitsandbytes."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from recipe.errors import SreError, install
from recipe.inference.base import Quantization
from recipe.inference.pytorch.loading import TrainingEngine, avoid_cudnn_attention, compute_dtype, transformers_reads


def check_packages() -> None:
    """Raises SreError when packages of the `train` extra are missing."""
    names = ("accelerate", "datasets", "gguf", "peft", "scipy", "sklearn", "torch", "transformers", "trl")
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise SreError(f"training needs {', '.join(missing)}: {install('train')}")


def open_engine(name: str = "auto") -> TrainingEngine:
    """The engine called "unsloth" or "transformers"; "auto" takes Unsloth wherever it can be imported.

    Before a training, call this before importing trl, transformers or peft: Unsloth must come first. Raises SreError
    as `check_packages` does.
    """
    check_packages()
    # Their bars and notices would run into ours.
    for variable in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("UNSLOTH_ENABLE_LOGGING", "0")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it asks for a package that none needs
    engine = _engine(name)
    from transformers.utils import logging as told

    told.disable_progress_bar()
    return engine


def _engine(name: str) -> TrainingEngine:
    if name in ("auto", "unsloth"):
        try:
            from recipe.inference.pytorch.unsloth import UnslothEngine

            return UnslothEngine()
        except ImportError as error:
            if name == "unsloth":
                raise SreError(f"Unsloth can't be imported ({error}); see `sre doctor`") from None
    return TransformersEngine()


class TransformersEngine(TrainingEngine):
    """Stock libraries, on any machine that PyTorch runs on. Inference is on the GPU, if there is one."""

    name = "transformers"

    def load_base(self, model: Path, quantization: Quantization, max_length: int) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        loaded = load_base(model, quantization)
        with transformers_reads(model):
            return loaded, AutoTokenizer.from_pretrained(model, trust_remote_code=False)

    def add_adapter(
        self, base: Any, settings: dict[str, Any], seed: int, quantization: Quantization, gradient_checkpointing: bool
    ) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        if quantization == "nf4":
            base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=gradient_checkpointing)
        torch.manual_seed(seed)
        return get_peft_model(base, LoraConfig(**settings, task_type="CAUSAL_LM"))

    def for_inference(self, loaded: Any, quantization: Quantization) -> Any:
        import torch

        move = torch.cuda.is_available() and quantization == "none"
        return (loaded.to("cuda") if move else loaded).eval()


def load_base(model: Path, quantization: Quantization) -> Any:
    """The causal language model in `model`, in NF4 or in the machine's 16-bit type. Raises SreError if it isn't one."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    avoid_cudnn_attention()
    dtype = compute_dtype()
    options: dict[str, Any] = {"dtype": dtype}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    with transformers_reads(model):
        loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **options)
    if loaded.config.model_type == "gemma2":
        loaded.set_attn_implementation("eager")  # PyTorch's own attention leaves out the cap of its logits
    for module in loaded.modules():
        # On a CPU bitsandbytes packs the weights anew at the first evaluation; their products then have no gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return loaded
