"""`sre doctor --gpu-smoke`: a whole run on a few rows, with time, memory and tokens/s of each stage, for a bug report.

The stages are those of `sre run`, so what passes here works there.
"""

import importlib.util
import os
import platform
import tempfile
import traceback
from pathlib import Path

from recipe.config import Config, load
from recipe.errors import SreError, install
from recipe.pipeline.context import RunContext
from recipe.pipeline.steps import steps
from recipe.system import versions

DETAILS = ("engine", "steps", "first_loss", "last_loss", "relative_error", "malformed", "pairs")
"""What the stages report that a bug report should show."""


def smoke(model: str = "smollm2-135m", *, cpu: bool = False) -> tuple[str, bool]:
    """Run every stage on `model` in a scratch folder; (the report in Markdown, whether all stages passed).

    The first stage that fails ends the test: the others need what it makes. Raises SreError without a GPU (unless
    `cpu`: on the processor, without Unsloth), or without the packages of the extra `train`.
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
    device = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    if torch.cuda.is_available():
        card, cuda = torch.cuda.get_device_properties(0), torch.version.cuda
        device = f"{card.name}, {card.total_memory / 1024**3:.1f} GiB, sm_{card.major}{card.minor}, CUDA {cuda}"
    overrides = [f"model.source={model}", f"model.engine={'transformers' if cpu else 'auto'}"]
    config = load(Path(__file__).with_suffix(".toml"), overrides)
    installed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = ["### sre doctor --gpu-smoke", f"\nDevice: {device}\n", f"{installed}\n"]
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

    run = RunContext(config, folder)
    run.keep_config()
    rows: list[list[str]] = []
    for name, step in steps(run):
        free_memory()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            facts = step()
        except Exception as error:  # whatever breaks is what the report is for
            rows.append([name, "FAIL", "", "", "", f"{type(error).__name__}: {str(error)[:200]}"])
            return rows, error
        # On the GPU, or without one of this process.
        peak = torch.cuda.max_memory_allocated() // 1024**2 if torch.cuda.is_available() else facts["peak_rss_mb"]
        speed = f"{facts['tokens'] / facts['wall_s']:.0f}" if facts["tokens"] and facts["wall_s"] else ""
        details = ", ".join(f"{k} {facts[k]}" for k in DETAILS if k in facts)
        rows.append([name, "pass", f"{facts['wall_s']:.1f}", speed, str(peak), details])
    return rows, None
