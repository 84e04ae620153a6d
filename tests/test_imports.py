"""Which room may import which (the floors of the package), what stays unimported, and how long a file may be.

Imports are read from the source with `ast`, so an import inside a function counts like one at the top.
"""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom first. A room imports only from the floors below its own, never from its own floor or above.
FLOORS = (
    {"errors"},
    {"system"},
    {"storage", "config", "progress", "templates"},
    {"data"},
    {"prompts", "verdict"},
    {"inference", "gguf"},
    {"training", "judge"},
    {"evaluation", "planning"},
    {"pipeline", "doctor"},
    {"cli"},
)
RANK = {room: rank for rank, floor in enumerate(FLOORS) for room in floor}
# Rooms of one floor that may import each other, all the same: importer -> imported.
NEIGHBOURS = {("inference", "gguf")}
# What the two trainers share; a stage imports no other stage.
STAGES = {"seed", "sft", "merge", "sample", "curate", "dpo", "export"}

_INFERENCE = {"inference"}
HEAVY_OWNERS = dict.fromkeys(("unsloth", "unsloth_zoo", "bitsandbytes", "llama_cpp", "openai"), _INFERENCE)
TRL_ONLY = {"recipe.training.sft", "recipe.training.dpo", "recipe.training.trainer"}
HEAVY = {"torch", "transformers", "llama_cpp", "datasets", "scipy", "trl", "peft", "unsloth", "pandas", "openai", "ray"}
HELP_SECONDS = 0.3


def modules() -> dict[str, str]:
    """Module name -> source, for every file of the package."""
    found = {}
    for path in sorted((ROOT / "recipe").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


MODULES = modules()
PACKAGES = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "recipe").rglob("__init__.py")}


def imports(module: str, source: str, known: set[str]) -> Iterator[str]:
    """The full names that a module imports; `from recipe.stages import sft` is recipe.stages.sft."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor_fault(importer: str, imported: str) -> str | None:
    """Why a module of the package may not import another one, or None."""
    here, there = room_of(importer), room_of(imported)
    if not there:
        return None  # the package itself: its version
    if there not in RANK:
        return f"{there!r} is on no floor"
    if not here:
        return "the package itself imports none of its rooms"
    if here == there:
        stages = [name.split(".")[2] for name in (importer, imported) if name.count(".") >= 2]
        between = here == "training" and len(stages) == 2 and set(stages) <= STAGES and stages[0] != stages[1]
        return "stages never import each other" if between else None
    if RANK[there] >= RANK[here] and (here, there) not in NEIGHBOURS:
        return "imports go down only"
    return None


def violations(module: str, source: str, known: set[str]) -> list[str]:
    """Every import of `source` that breaks a rule, as "importer -> imported: why"."""
    room = room_of(module)
    if room and room not in RANK:
        return [f"{module}: {room!r} is on no floor; put it into FLOORS of this test"]
    faults = []
    for name in imports(module, source, known):
        top = name.partition(".")[0]
        fault = None
        if top == "recipe":
            fault = floor_fault(module, name)
        elif top in {"benchmarks", "experiments", "tools", "tests"}:
            fault = "the package imports nothing of the checkout around it"
        elif top in HEAVY_OWNERS and room not in HEAVY_OWNERS[top]:
            fault = f"only {', '.join(sorted(HEAVY_OWNERS[top]))} imports it"
        elif top == "trl" and module not in TRL_ONLY:
            fault = f"only {', '.join(sorted(TRL_ONLY))} import it"
        elif module in ("recipe.data.records", "recipe.data.naming") and top not in sys.stdlib_module_names:
            fault = "records is stdlib only"
        if fault:
            faults.append(f"{module} -> {name}: {fault}")
    return faults


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_the_floors(module: str) -> None:
    assert violations(module, MODULES[module], set(MODULES)) == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {name for name in imports(module, source, set(MODULES)) if name in MODULES and name != module}
        for module, source in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("recipe.data.records", "from recipe.verdict import parse_verdict", "imports go down only"),
        ("recipe.data.records", "import numpy as np", "stdlib only"),
        ("recipe.inference.base", "import recipe.judge.judge", "imports go down only"),
        ("recipe.pipeline.stage_order", "from recipe import cli", "imports go down only"),
        ("recipe.training.sft", "from recipe.training import merge", "stages never import each other"),
        ("recipe.training.sft", "from recipe.training.merge import merge", "stages never import each other"),
        ("recipe.training.sft", "from . import merge", "stages never import each other"),
        ("recipe.training.sft", "from .merge import merge", "stages never import each other"),
        ("recipe.training.dpo", "def f():\n    from recipe.judge import judge", "imports go down only"),
        ("recipe.training.dpo", "import importlib\nimportlib.import_module('recipe.cli')", "imports go down only"),
        ("recipe.judge.judge_file", "from recipe.evaluation import metrics", "imports go down only"),
        ("recipe.judge.judge", "from llama_cpp import Llama", "only inference"),
        ("recipe.training.sft", "import unsloth", "only inference"),
        ("recipe.training.export", "def f():\n    import bitsandbytes.nn", "only inference"),
        ("recipe.training.curate", "from trl import DPOTrainer", "recipe.training.dpo"),
        ("recipe.inference.pytorch.unsloth", "import trl.trainer", "recipe.training.dpo"),
        ("recipe.judge.judge", "from benchmarks import run", "checkout around it"),
        ("recipe.pipeline.report", "from experiments.run import VARIANTS", "checkout around it"),
        ("recipe", "from recipe.data.records import Example", "imports none of its rooms"),
        ("recipe.toolbox", "", "on no floor"),
        ("recipe.data.records", "import recipe.toolbox", "on no floor"),
    ],
)
def test_the_walker_finds_violations(module: str, line: str, fault: str) -> None:
    known = set(MODULES) | {"recipe.training.merge", "recipe.cli", "recipe.evaluation.metrics"}
    (found,) = violations(module, line, known)
    assert fault in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("recipe.cli.machine", "from recipe import __version__\nfrom recipe.pipeline import stage_order"),
        ("recipe.pipeline.stage_order", "from recipe.training import sft, dpo\nfrom recipe.evaluation import metrics"),
        ("recipe.training.sft", "import trl\nfrom recipe.training.trainer import run_trainer\nimport torch"),
        ("recipe.evaluation.evaluate", "from recipe.judge.judge import Judge"),
        ("recipe.inference.pytorch.unsloth", "import unsloth\nfrom .. import base\nfrom ..base import Generator"),
        ("recipe.doctor.checks", "from recipe.errors import SreError\nimport rich"),
    ],
)
def test_the_walker_allows_what_the_design_allows(module: str, line: str) -> None:
    known = set(MODULES) | {"recipe.training.sft", "recipe.training.dpo", "recipe.evaluation.metrics"}
    assert violations(module, line, known) == []


def loaded_after(code: str) -> tuple[set[str], float]:
    """The top-level modules that a fresh interpreter has after `code`, and how long the process took."""
    report = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])), took


SRE_HELP = """
import sys
sys.argv = ["sre", "--help"]
from recipe.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import recipe")[0] & (HEAVY | {"numpy"}) == set()


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    took = []
    for _ in range(10):  # the best counts: other work on the machine is not ours to measure
        loaded, seconds = loaded_after(SRE_HELP)
        assert loaded & HEAVY == set()
        took.append(seconds)
        if seconds < HELP_SECONDS:
            break
    assert min(took) < HELP_SECONDS, took


def test_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert [module for module in MODULES if module.rpartition(".")[2] in drawers] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_is_over_400_lines(module: str) -> None:
    assert len(MODULES[module].splitlines()) <= 400


def test_no_model_s_own_code_is_run() -> None:
    """transformers runs Python that comes with a model only where it is told to; everywhere it is told not to."""
    calls = [
        (name, node)
        for name, source in MODULES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained")
    ]
    assert calls
    for name, node in calls:
        told = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert told.get("trust_remote_code") == "False", f"{name}, line {node.lineno}"
