"""What `sre doctor --gpu-smoke` found: its steps, the machine and the versions, as text for a bug report."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Literal

from recipe.system import versions

Status = Literal["pass", "FAIL", "skip"]
MORE_VERSIONS = ("bitsandbytes", "unsloth_zoo", "triton", "vllm", "xformers", "accelerate", "datasets")


@dataclass(frozen=True)
class Step:
    """One line of the report. memory_mb: the peak on the GPU, or of this process on a CPU."""

    name: str
    status: Status
    seconds: float
    memory_mb: int
    detail: str


@dataclass
class Report:
    """What the test found."""

    device: str
    found: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    traces: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """1 where a step failed, else 0: the exit code."""
        return int(any(step.status == "FAIL" for step in self.steps))

    @property
    def text(self) -> str:
        """Markdown, to be pasted into a bug report."""
        lines = ["### sre doctor --gpu-smoke", "", f"Device: {self.device}", ""]
        lines += [", ".join(f"{name} {number}" for name, number in self.found.items()), ""]
        lines += ["| step | result | s | peak MiB | detail |", "| --- | --- | --- | --- | --- |"]
        for step in self.steps:
            cells = (step.name, step.status, f"{step.seconds:.1f}", str(step.memory_mb or ""), step.detail)
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
        for name, trace in self.traces.items():
            lines += ["", f"{name}:", "```", trace.rstrip(), "```"]
        counts = [f"{sum(step.status == kind for step in self.steps)} {kind}" for kind in ("pass", "FAIL", "skip")]
        return "\n".join([*lines, "", ", ".join(counts)])


def device(cpu: bool) -> str:
    """The GPU that torch sees first, or the processor."""
    import torch

    if cpu:
        return f"CPU ({platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads)"
    card = torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    kind = f"sm_{card.major}{card.minor}, {'bfloat16' if bf16 else 'float16 only'}"
    return f"{card.name}, {card.total_memory / 1024**3:.1f} GiB, {kind}, CUDA {torch.version.cuda}"


def found_versions() -> dict[str, str]:
    """Of everything that a run on a GPU stands on, as far as it is installed."""
    found = versions()
    for name in MORE_VERSIONS:
        if importlib.util.find_spec(name) is not None:
            found[name] = metadata.version(name)
    return found
