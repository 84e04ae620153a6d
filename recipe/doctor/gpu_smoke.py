"""`sre doctor --gpu-smoke`: a whole run on a few rows, with time, memory and tokens/s of each stage, for a bug report.

The stages are those of `sre run`, so what passes here works there.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.config import Config, validate
from recipe.errors import SreError, install
from recipe.pipeline.context import RunContext
from recipe.pipeline.steps import steps
from recipe.system import versions

SETTINGS: dict[str, Any] = {
    "name": "gpu-smoke",
    "iterations": 1,
    "model": {"max_length": 1024, "quantization": "nf4"},
    "data": {"default": "seed-data:counted", "train_pointwise": 24, "train_pairwise": 24, "dev_split": ""},
    "lora": {"r": 8, "alpha": 16},
    "sft": {"learning_rate": 1e-3, "batch_size": 2, "accumulate": 1, "checkpoints": 1, "both_orders": False},
    "sample": {"engine": "torch", "inputs": [8], "n": 6, "max_tokens": 104},
    # A malformed sample may be the rejected one: after so little training there is hardly another.
    "curate": {"margin": 1, "reject_malformed": True, "max_pairs": 8, "balance_labels": False},
    "dpo": {"batch_size": 1, "accumulate": 2, "checkpoints": 0},
    "export": {"types": ["Q8_0"], "flip_rows": 2},
    "evaluate": {"max_tokens": 48, "resamples": 100},
}
SETTINGS["data"] |= {"test_pointwise": 2, "test_pairwise": 1}
DETAILS = ("engine", "steps", "first_loss", "last_loss", "relative_error", "malformed", "pairs")
"""What the stages report that a bug report should show."""


def smoke(model: str = "smollm2-135m", *, cpu: bool = False) -> tuple[str, bool]:
    """Run every stage on `model` in a scratch folder; (the report in Markdown, whether all stages passed).

    The first stage that fails ends the test: the others need what it makes.

    Args:
        model: What a config's model.source may be.
        cpu: Run on the processor, without Unsloth.

    Raises:
        SreError: No GPU and not `cpu`, or the packages of the extra `train` are missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise SreError(f"the test needs the extra: {install('gpu')}")
    if cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if not cpu and not torch.cuda.is_available():
        raise SreError(
            f"no GPU: torch {torch.__version__} sees none (+cpu is a CPU build; else compare its CUDA version with the "
            "driver's, see `nvidia-smi`). `sre doctor --gpu-smoke --cpu` runs the same stages on the processor"
        )
    engine = "transformers" if cpu else "auto"
    config = validate({**SETTINGS, "model": {**SETTINGS["model"], "source": model, "engine": engine}})
    installed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = ["### sre doctor --gpu-smoke", f"\nDevice: {_device()}\n", f"{installed}\n"]
    lines += ["| stage | result | s | tokens/s | peak MiB | detail |", "| --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory(prefix="sre-smoke-") as scratch:
        rows, failure = _run(config, Path(scratch))
    lines += ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    if failure is not None:
        lines += ["\n```", "".join(traceback.format_exception(failure)[-6:]).rstrip(), "```"]
    return "\n".join(lines), failure is None


def _run(config: Config, folder: Path) -> tuple[list[list[str]], Exception | None]:
    """One row of the table for each stage that was run, and what ended the test early."""
    import torch

    from recipe.inference.pytorch.loading import free_memory

    run, rows = RunContext(config, folder), []
    run.keep_config()
    for name, step in steps(run):
        free_memory()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            facts = step()
        except Exception as error:  # whatever breaks is what the report is for
            rows.append([name, "FAIL", "", "", "", f"{type(error).__name__}: {str(error)[:200]}"])
            return rows, error
        rows.append([name, "pass", *_costs(facts), ", ".join(f"{k} {facts[k]}" for k in DETAILS if k in facts)])
    if "problem" in run.outcome(1):
        rows.append(["iter-1:dpo", "skip", "", "", "", "the samples gave no preference pair"])
    return rows, None


def _costs(facts: Mapping[str, Any]) -> list[str]:
    """Seconds, tokens a second, and the peak memory on the GPU (without one, of this process)."""
    import torch

    peak = torch.cuda.max_memory_allocated() // 1024**2 if torch.cuda.is_available() else facts["peak_rss_mb"]
    speed = f"{facts['tokens'] / facts['wall_s']:.0f}" if facts["tokens"] and facts["wall_s"] else ""
    return [f"{facts['wall_s']:.1f}", speed, str(peak)]


def _device() -> str:
    """The GPU that torch sees first, or the processor."""
    import torch

    if not torch.cuda.is_available():
        return f"CPU ({platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads)"
    card = torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    kind = f"sm_{card.major}{card.minor}, {'bfloat16' if bf16 else 'float16 only'}"
    return f"{card.name}, {card.total_memory / 1024**3:.1f} GiB, {kind}, CUDA {torch.version.cuda}"
