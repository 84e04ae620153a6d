"""What `sre doctor` says about other machines than this one; its table of packages is the project's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from io import StringIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from recipe.doctor import checks as doctor
from recipe.doctor.checks import EXTRAS, Check, diagnose, exit_status, packages, render

ROOT = Path(__file__).parents[2]
TESTED = {package.name: "1000" if not package.below else "0.1" for package in packages()} | {
    "unsloth": doctor.UNSLOTH_ON_CPU,
    "unsloth_zoo": doctor.UNSLOTH_ON_CPU,
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that the doctor finds: all as tested, until a test changes some."""
    versions = dict(TESTED)
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "nvidia_gpus", list)
    return versions


def row(name: str) -> Check:
    return next(check for check in diagnose() if check.name.split(" (")[0] == name)


def test_every_requirement_of_an_extra_is_listed_with_its_limit() -> None:
    listed = {package.name: package.below for package in packages()}
    for text in requires(doctor.DISTRIBUTION) or ():
        asked = Requirement(text)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            limits = [limit.version for limit in asked.specifier if limit.operator == "<"]
            assert listed[asked.name] == "".join(limits)
    assert {package.extra for package in packages()} == set(EXTRAS)


def test_the_unsloth_that_trains_on_a_processor_is_the_one_tested_with() -> None:
    assert f"unsloth=={doctor.UNSLOTH_ON_CPU}" in (ROOT / "constraints.txt").read_text()


def test_a_complete_installation_is_in_order(installed: dict[str, str]) -> None:
    found = [row(package.name) for package in packages()]
    assert {check.status for check in found} == {"ok"}
    assert exit_status(found) == 0
    assert row("unsloth").status == "ok"
    assert "processor" in row("unsloth").detail


def test_a_missing_base_package_fails_and_names_the_command(installed: dict[str, str]) -> None:
    del installed["pydantic"]
    check = row("pydantic")
    assert (check.status, check.needed) == ("missing", True)
    assert "pip install" in check.remedy
    assert exit_status(diagnose()) == 1


def test_a_missing_extra_is_named_and_does_not_fail(installed: dict[str, str]) -> None:
    del installed["fastapi"]
    check = row("fastapi")
    assert (check.status, check.needed) == ("missing", False)
    assert "[serve]" in check.remedy
    assert exit_status([check]) == 0


@pytest.mark.parametrize(
    ("name", "found", "status"),
    [
        ("trl", "1.15.0", "warning"),
        ("trl", "1.15.0rc1", "warning"),
        ("trl", "1.14.9", "ok"),
        ("trl", "2", "warning"),
        ("datasets", "5.0.0", "warning"),
        ("transformers", "5.18.0", "warning"),
        ("torch", "2.13.0+cpu", "ok"),
        ("torch", "2.15.0+cu130", "warning"),
        ("llama-cpp-python", "0.4.0", "warning"),
    ],
)
def test_versions_known_not_to_work(installed: dict[str, str], name: str, found: str, status: str) -> None:
    installed[name] = found
    check = row(name)
    assert check.status == status
    assert found in check.detail
    assert bool(check.remedy) == (status == "warning")


def test_a_version_that_is_too_new_is_replaced_by_one_that_works(installed: dict[str, str]) -> None:
    installed["trl"] = "1.15.0"
    assert re.search(r"pip install 'trl\S*<1\.15", row("trl").remedy)


def test_without_unsloth_the_fallback_is_named(installed: dict[str, str]) -> None:
    del installed["unsloth_zoo"]
    check = row("unsloth")
    assert (check.status, check.needed) == ("missing", False)
    assert "plain TRL" in check.detail
    assert "--no-deps" in check.remedy


def test_an_unsloth_that_needs_a_gpu(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed["unsloth"] = "2026.9.1"
    assert row("unsloth").status == "warning"
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["NVIDIA L4, 23034, 570.1"])
    assert row("unsloth").status == "ok"
    assert "GPU" in row("unsloth").detail


def test_a_cpu_build_of_torch_beside_a_gpu(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["NVIDIA L4, 23034, 570.1"])
    assert row("GPU").status == "ok"
    installed["torch"] = "2.13.0+cpu"
    assert row("GPU").status == "warning"


def test_gpus_are_read_from_the_drivers_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034, 570.1'\necho 'NVIDIA L4, 23034, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.nvidia_gpus() == ["NVIDIA L4, 23034, 570.1"] * 2
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert doctor.nvidia_gpus() == []


def test_a_llama_build_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    check = doctor._llama_library(gpu=False)
    assert (check.status, check.needed) == ("missing", True)
    assert "--force-reinstall" in check.remedy


@pytest.mark.parametrize(
    ("names", "gpu", "built", "told"),
    [
        (["libggml-cpu.so", "libggml-base.so.0"], True, "built for cpu", True),
        (["libggml-cpu.so", "libggml-cuda.so", "libggml-base.so"], True, "built for cpu, cuda", False),
        (["libggml-cpu.dylib", "libggml-metal.dylib"], False, "built for cpu, metal", False),
    ],
)
def test_llamas_build_is_named_and_beside_a_card_how_to_get_one_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], gpu: bool, built: str, told: bool
) -> None:
    folder = tmp_path / "llama_cpp" / "lib"
    folder.mkdir(parents=True)
    for name in ("../__init__.py", "libllama.so", *names):
        (folder / name).write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    check = doctor._llama_library(gpu=gpu)
    assert check.status == "ok"
    assert check.detail.startswith(f"{built}:")
    assert ("CMAKE_ARGS=-DGGML_CUDA=on" in check.remedy) == told


@pytest.mark.parametrize(("right", "status"), [(True, "ok"), (False, "warning")])
def test_wrong_products_are_told_with_what_to_do(right: bool, status: str) -> None:
    check = doctor.build_check(["AVX512", "AMX_INT8"], right=right)
    assert check.status == status
    assert bool(check.remedy) == (status != "ok")
    assert "AVX512, AMX_INT8" in check.detail


def test_little_memory_and_little_disk_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: 2.0 * 1024**3)
    monkeypatch.setattr(doctor, "ENOUGH_DISK_GIB", 1e9)
    assert (row("memory").status, row("disk").status) == ("warning", "warning")
    assert exit_status([row("memory"), row("disk")]) == 0


def test_the_printed_table_shows_every_row_and_keeps_brackets() -> None:
    screen = Console(file=StringIO(), width=200)
    checks = [
        Check("alpha", "ok", "1.0"),
        Check("beta (serve)", "missing", "not installed", "pip install -e '.[serve]'"),
    ]
    render(checks, screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "alpha" in text
    assert ".[serve]" in text
    assert "Judging works" in text
    render([Check("gamma", "missing", "", needed=True)], screen)
    assert "Judging does not work yet" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_it_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from recipe.doctor import checks as doctor; doctor.render(doctor.diagnose());"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'unsloth', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    took = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
        after = os.times()
        took.append(sum(after[2:4]) - sum(before[2:4]))
        if took[-1] < 0.5:
            break
    assert min(took) < 0.5, took
