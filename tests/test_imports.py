"""Who may import whom (the layers of the package), what stays unimported, and what a file may be.

The layers are read from the source with `ast`, so an import inside a function counts like one at the top.
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

# Bottom first. A part imports from its own layer and the ones below, never from above.
LAYERS = (
    {"errors", "resources", "progress"},
    {"run", "config", "rows"},
    {"sources", "layouts", "columns", "readers", "prompts", "verdict"},
    {"engines", "splits"},
    {"stages", "judge", "evaluation"},
    {"job", "variants"},
    {"pipeline", "bench"},
    {"experiments", "reports", "gpu_smoke", "gpu_graphs", "gpu_report"},
    {"commands"},
    {"cli"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
# Beside the layers: who may import them. They themselves use the three lowest layers.
LEAVES = {
    "doctor": {"commands"},
    "planning": {"commands"},
    "publish": {"commands"},
    "synthetic": {"commands", "sources"},
}
LEAF_RANK = 2
# Parts of one layer that never import each other, with the exceptions: importer -> imported.
APART = LAYERS[4]
SIDEWAYS = {("evaluation", "judge")}
# What the two trainers share; the only module of stages/ that another one may import.
SHARED_STAGE = "recipe.stages.training"

ENGINES_ONLY = {"unsloth", "unsloth_zoo", "bitsandbytes", "llama_cpp", "openai"}
TRL_ONLY = {"recipe.stages.sft", "recipe.stages.dpo", SHARED_STAGE}
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


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer_fault(importer: str, imported: str) -> str | None:
    """Why a module of the package may not import another one, or None."""
    here, there = part_of(importer), part_of(imported)
    if not there:
        return None  # the package itself: its version
    if there not in RANK and there not in LEAVES:
        return f"{there!r} is in no layer"
    if there in LEAVES or here in LEAVES:
        if here == there or here in LEAVES.get(there, ()):
            return None
        if there in LEAVES:
            return f"only {', '.join(sorted(LEAVES[there]))} may import it"
        return None if RANK[there] <= LEAF_RANK else "a leaf uses the three lowest layers only"
    if not here:
        return "the package itself imports none of its parts"
    if RANK[there] > RANK[here]:
        return "imports go down only"
    if here in APART and there in APART and here != there and (here, there) not in SIDEWAYS:
        return f"{here} and {there} meet in files, not in imports"
    if here == there == "stages" and imported not in ("recipe.stages", importer, SHARED_STAGE):
        return "stages never import each other"
    return None


def violations(module: str, source: str, known: set[str]) -> list[str]:
    """Every import of `source` that breaks a rule, as "importer -> imported: why"."""
    part = part_of(module)
    if part and part not in RANK and part not in LEAVES:
        return [f"{module}: {part!r} is in no layer; put it into LAYERS or LEAVES of this test"]
    faults = []
    for name in imports(module, source, known):
        top = name.partition(".")[0]
        fault = None
        if top == "recipe":
            fault = layer_fault(module, name)
        elif top in ENGINES_ONLY and part != "engines":
            fault = "only engines/ imports it"
        elif top == "trl" and module not in TRL_ONLY:
            fault = f"only {', '.join(sorted(TRL_ONLY))} import it"
        elif module == "recipe.rows" and top not in sys.stdlib_module_names:
            fault = "rows is stdlib only"
        if fault:
            faults.append(f"{module} -> {name}: {fault}")
    return faults


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_keep_to_the_layers(module: str) -> None:
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
        ("recipe.rows", "from recipe.verdict import parse_verdict", "imports go down only"),
        ("recipe.rows", "import numpy as np", "stdlib only"),
        ("recipe.engines.base", "import recipe.judge.judge", "imports go down only"),
        ("recipe.pipeline", "from recipe import cli", "imports go down only"),
        ("recipe.stages.sft", "from recipe.stages import merge", "stages never import each other"),
        ("recipe.stages.sft", "from recipe.stages.merge import merge", "stages never import each other"),
        ("recipe.stages.sft", "from . import merge", "stages never import each other"),
        ("recipe.stages.sft", "from .merge import merge", "stages never import each other"),
        ("recipe.stages.dpo", "def f():\n    from recipe.judge import judge", "meet in files"),
        (
            "recipe.stages.dpo",
            "import importlib\nimportlib.import_module('recipe.cli')",
            "imports go down only",
        ),
        ("recipe.judge.batch", "from recipe.evaluation import metrics", "meet in files"),
        ("recipe.judge.judge", "from llama_cpp import Llama", "only engines/"),
        ("recipe.stages.sft", "import unsloth", "only engines/"),
        ("recipe.stages.export", "def f():\n    import bitsandbytes.nn", "only engines/"),
        ("recipe.stages.curate", "from trl import DPOTrainer", "recipe.stages.dpo"),
        ("recipe.engines.unsloth", "import trl.trainer", "recipe.stages.dpo"),
        ("recipe.pipeline", "from recipe import doctor", "only commands may import it"),
        ("recipe.stages.seed", "from recipe.synthetic import generate", "only commands, sources may import it"),
        ("recipe.doctor", "from recipe.engines import base", "three lowest layers"),
        ("recipe", "from recipe.rows import Example", "imports none of its parts"),
        ("recipe.toolbox", "", "in no layer"),
        ("recipe.rows", "import recipe.toolbox", "in no layer"),
    ],
)
def test_the_walker_finds_violations(module: str, line: str, fault: str) -> None:
    known = set(MODULES) | {"recipe.stages.merge", "recipe.cli", "recipe.doctor", "recipe.evaluation.metrics"}
    (found,) = violations(module, line, known)
    assert fault in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("recipe.commands.machine", "from recipe import __version__, doctor, pipeline"),
        ("recipe.commands.machine", "from recipe.synthetic import generate"),
        ("recipe.pipeline", "from recipe.stages import sft, dpo\nfrom recipe.evaluation import metrics"),
        ("recipe.stages.sft", "import trl\nfrom recipe.stages.training import arguments\nimport torch"),
        ("recipe.evaluation.benchmarks", "from recipe.judge.judge import Judge"),
        ("recipe.engines.unsloth", "import unsloth\nfrom . import base\nfrom .base import Generator"),
        ("recipe.sources", "from recipe.prompts import render\nfrom recipe.synthetic import generate"),
        ("recipe.doctor", "from recipe.errors import SreError\nimport rich"),
    ],
)
def test_the_walker_allows_what_the_design_allows(module: str, line: str) -> None:
    known = set(MODULES) | {"recipe.stages.sft", "recipe.stages.dpo", "recipe.evaluation.metrics"}
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
from recipe.cli import main
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
