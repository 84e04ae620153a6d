"""The plain engine: transformers + PEFT (+ bitsandbytes for NF4), on any machine PyTorch runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.inference.base import Quantization
from recipe.inference.pytorch.loading import avoid_cudnn_attention, compute_dtype, fill_adapter, read_adapter_settings


class TransformersEngine:
    """TrainingEngine on stock libraries."""

    name = "transformers"

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
        """See TrainingEngine.load."""
        import torch
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
        from transformers import AutoTokenizer

        settings = read_adapter_settings(adapter) if adapter else dict(lora or {})
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        base = load_base(model, quantization)
        if quantization == "nf4":
            base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=gradient_checkpointing)
        torch.manual_seed(settings.get("seed", 0))
        config = LoraConfig(
            r=settings["r"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=list(settings["target_modules"]),
            task_type="CAUSAL_LM",
        )
        peft_model = get_peft_model(base, config)
        if adapter:
            fill_adapter(peft_model, adapter)
        return peft_model, tokenizer


def load_for_inference(model: Path, adapter: Path | None, quantization: Quantization) -> tuple[Any, Any]:
    """(model, tokenizer) that decode: on the GPU where there is one, with grouped heads where the model has them."""
    import torch
    from transformers import AutoTokenizer

    from recipe.inference.pytorch.grouped_attention import decode_grouped

    if adapter:
        loaded, tokenizer = TransformersEngine().load(model, adapter=adapter, quantization=quantization)
    else:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        loaded = load_base(model, quantization)
    decode_grouped(loaded.get_base_model() if adapter else loaded)
    move = torch.cuda.is_available() and quantization == "none"
    return (loaded.to("cuda") if move else loaded).eval(), tokenizer


def load_base(model: Path, quantization: Quantization) -> Any:
    """The causal language model in `model`, in NF4 or in the machine's 16-bit type. Raises SreError if it isn't one."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    avoid_cudnn_attention()
    dtype = compute_dtype()
    options: dict[str, Any] = {"dtype": dtype}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        return AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise SreError(f"not a model that transformers can load: {str(error).splitlines()[0]}", file=model) from None
