"""`sre doctor --gpu-smoke`: a whole run on a few rows, with time, memory and tokens/s of each stage beside the plan's.

The stages are those of `sre run`, so what passes here works there. With a shape, the seed model has random weights in
the size of a real one, and the settings are those of that model's preset.
"""

import importlib.util
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recipe.config import Config, load, presets
from recipe.doctor.random_model import shape_named, write_long_rows, write_pairs, write_random_model
from recipe.errors import SreError, install
from recipe.gguf.shape import Shape
from recipe.pipeline.context import RunContext
from recipe.pipeline.stage_order import steps
from recipe.planning.costs import RUNTIME_GPU
from recipe.planning.machines import GIB, Machine, card_named, this_cpu
from recipe.planning.plan import make_plan
from recipe.system import in_own_process, read_table, versions
from recipe.training.seed import run_seed

SETTINGS = Path(__file__).with_suffix(".toml")
DETAILS = ("engine", "steps", "first_loss", "last_loss", "relative_error", "malformed", "pairs", "flip_rate")
"""What the stages report that a bug report should show."""
_SHAPED = read_table(__file__, "shape_settings.toml")
FEW, ON_A_CPU = _SHAPED["few"], _SHAPED["on_a_cpu"]
HEAD = ("stage", "result", "s", "plan s", "tokens/s", "plan tokens/s", "peak MiB", "plan MiB", "detail")


def smoke(
    model: str = "smollm2-135m",
    *,
    cpu: bool = False,
    shape: str | None = None,
    layers: int | None = None,
    vocab: int | None = None,
    memory_gb: float | None = None,
) -> dict[str, Any]:
    """Run every stage on `model` in a scratch folder; returns the report: `markdown` shows it, "passed" sums it up.

    The first stage that fails ends the test: the others need what it makes. Raises SreError without a GPU (unless
    `cpu`: on the processor, without Unsloth), or without the packages of the extra `train`.
    """
    if importlib.util.find_spec("torch") is None:
        raise SreError(f"the test needs the extra: {install('gpu')}")
    if cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    machine, more = _machine(cpu, memory_gb), [f"model.engine={'transformers' if cpu else 'auto'}"]
    with tempfile.TemporaryDirectory(prefix="sre-smoke-") as scratch:
        folder = Path(scratch)
        if shape:
            name, size = shape_named(shape)
            size = replace(size, layers=layers or (2 if cpu else size.layers), vocab=vocab or size.vocab)
            config = _shaped(folder, model, name, size, [*more, *(ON_A_CPU if cpu else [])])
            model = f"random, {name}"
        else:
            config = load(SETTINGS, [f"model.source={model}", *more])
        with redirect_stdout(sys.stderr):  # Unsloth's banner is no part of the report
            rows, failure = _run(RunContext(config, folder / "run"), machine, made_up=bool(shape))
    trace = "" if failure is None else "".join(traceback.format_exception(failure)[-6:]).rstrip()
    told = {
        "device": machine.name,
        "memory_gb": memory_gb if machine.cuda else None,
        "model": model,
        "versions": versions(),
    }
    return {**told, "stages": rows, "trace": trace, "passed": failure is None}


def markdown(report: Mapping[str, Any]) -> str:
    """The report of `smoke` for a bug report."""
    installed = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    cap = f", at most {report['memory_gb']:g} GiB of it" if report["memory_gb"] else ""
    lines = ["### sre doctor --gpu-smoke", f"\nDevice: {report['device']}{cap}\n", f"Model: {report['model']}\n"]
    lines += [f"{installed}\n", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    for row in report["stages"]:
        cells = ["" if row[name] is None else str(row[name]).replace("|", "/").replace("\n", " ") for name in HEAD]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(["\n```", report["trace"], "```"] if report["trace"] else [])])


def _machine(cpu: bool, memory_gb: float | None) -> Machine:
    """What the test runs on. Of a GPU PyTorch takes no more than `memory_gb` from here on."""
    import torch

    if cpu:
        return replace(this_cpu(), name=f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)")
    if not torch.cuda.is_available():
        raise SreError(
            f"no GPU: torch {torch.__version__} sees none (+cpu is a CPU build; else compare its CUDA version with the "
            "driver's, see `nvidia-smi`). `sre doctor --gpu-smoke --cpu` runs the same stages on the processor"
        )
    card, cuda = torch.cuda.get_device_properties(0), torch.version.cuda
    memory = min(card.total_memory, (memory_gb or 1e6) * GIB)
    if memory < card.total_memory:
        torch.cuda.set_per_process_memory_fraction((memory - RUNTIME_GPU) / card.total_memory)
    name = f"{card.name}, {card.total_memory / GIB:.1f} GiB, sm_{card.major}{card.minor}, CUDA {cuda}"
    return replace(card_named(card.name, memory), name=name)


def _shaped(folder: Path, tokenizer: str, name: str, shape: Shape, more: list[str]) -> Config:
    """The settings for a random model of this shape, which is written here with its rows: those of its preset."""
    fitting = [preset for preset in presets() if load(preset).model.source == name and not preset.endswith("-paper")]
    base = fitting[0] if fitting else str(SETTINGS)
    config = load(base, [*FEW, *more])
    run_seed(tokenizer, folder / "tokeniser")
    # In a process of its own, because Unsloth must be imported before transformers.
    in_own_process(write_random_model, folder / "model", name, shape, folder / "tokeniser" / "model")
    in_own_process(write_long_rows, folder / "rows", folder / "model", config.model.max_length)
    rows = [f"data.{task}={folder / 'rows'}" for task in ("pointwise", "pairwise")]
    side_by_side = -(-config.sample.parallel // config.sample.n)
    source = [f"model.source={folder / 'model'}", f"sample.inputs=[{max(2, side_by_side)}]"]
    return load(base, [*FEW, *more, *rows, *source])


def _run(run: RunContext, machine: Machine, *, made_up: bool) -> tuple[list[dict[str, Any]], Exception | None]:
    """One row of the table for each stage that was run, and what ended the test early. made_up: no samples are curated;
    the pairs are made of the rows."""
    import torch

    from recipe.inference.pytorch.loading import free_memory

    run.keep_config()
    planned = {}
    with suppress(SreError):  # the size of a model from the hub is not known before it is here
        planned = {stage.stage: stage for stage in make_plan(run.config, machine=machine).stages}
    rows: list[dict[str, Any]] = []
    for name, step in steps(run):
        print(f"{name} …", file=sys.stderr, flush=True)
        if made_up and name.endswith(":curate"):
            step = partial(run.cache.do, name, write_pairs, makes=("preferences.jsonl",), examples=run.inputs(1))
        free_memory()
        if machine.cuda:
            torch.cuda.reset_peak_memory_stats()
        row = dict.fromkeys(HEAD) | {"stage": name}
        rows.append(row)
        try:
            facts = step()
        except Exception as error:  # whatever breaks is what the report is for
            row |= {"result": "FAIL", "detail": f"{type(error).__name__}: {str(error)[:200]}"}
            return rows, error
        # On the GPU, or without one of this process.
        peak = torch.cuda.max_memory_allocated() // 1024**2 if machine.cuda else facts["peak_rss_mb"]
        told = {key: facts[key] for key in DETAILS if key in facts}
        details = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()
        )
        row |= {"result": "pass", "s": round(facts["wall_s"], 1), "peak MiB": peak, "detail": details}
        row["tokens/s"] = round(facts["tokens"] / facts["wall_s"]) if facts["tokens"] and facts["wall_s"] else None
        if (stage := planned.get(name)) and not (stage.host and machine.cuda):
            row["plan s"] = round(stage.seconds, 1)
            row["plan MiB"] = round((stage.memory.total - RUNTIME_GPU * machine.cuda) / 1024**2)
            row["plan tokens/s"] = round(facts["tokens"] / stage.seconds) if facts["tokens"] else None
    return rows, None
