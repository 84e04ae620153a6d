"""Every command in README.md and docs/ runs as it is written, in a folder where each model is a tiny one.

A line that needs a GPU, a hub, a server or minutes of CPU is run as `--help`: `HELP_ONLY` lists such lines by their
beginning. Everything else runs verbatim in bash, the blocks of one page in order, in one folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What starts a long run, or needs a GPU, a hub, a server or another program: only its options are checked.
HELP_ONLY = (
    "sre quickstart",
    "sre run 24gb-",
    "sre run 12gb-",
    "sre run t4-",
    "sre evaluate rewardbench",
    "sre evaluate biggen",
    "sre serve",
    "python -m benchmarks",
    "python -m experiments seed-data",
    "python -m experiments.annotation export",  # the tiny judges give no two rationales to compare
    "python -m experiments.annotation import",
)
# Not ours, or tested elsewhere: installation, git, servers, launchers.
ELSEWHERE = (
    "make ",
    "git ",
    "pip ",
    "CMAKE_ARGS",
    "curl ",
    "accelerate ",
    "ollama ",
    "pytest ",
    ". .venv",
    "cd ",
    "python3 ",
)


def commands(page: Path) -> list[str]:
    """The commands of a page's bash blocks, each on one line, without comments."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
            if command:
                found.append(re.sub(r"\s+", " ", command))
    return found


def as_run(command: str) -> str | None:
    """What the test runs in a command's place; None where it is not ours."""
    if command.startswith(ELSEWHERE):
        return None
    for beginning in HELP_ONLY:
        if command.startswith(beginning):
            known = 3 if command.startswith("python") else 2
            known += command.startswith("python -m experiments.annotation")  # a group: its command is named too
            return " ".join([*command.split()[:known], "--help"])
    return command


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """A folder with what the docs name: files, a tiny judge, finished runs, and an `sre` that trains tiny models."""
    import pandas

    folder = tmp_path_factory.mktemp("docs")
    (folder / "bin").mkdir()
    sre = f'"{sys.executable}" "{Path(__file__).with_name("tiny_sre.py")}"'
    for name, called in (("sre", sre), ("python", f'"{sys.executable}"')):  # a link would leave the environment
        wrapper = folder / "bin" / name
        wrapper.write_text(f'#!/bin/bash\nexec {called} "$@"\n')
        wrapper.chmod(0o755)
    scored, picked = tiny_data / "train" / "pointwise.jsonl", tiny_data / "train" / "pairwise.jsonl"
    few = "".join(scored.read_text(encoding="utf-8").splitlines(keepends=True)[:4])
    for name in ("rows.jsonl", "my-rows.jsonl"):
        (folder / name).write_text(few, encoding="utf-8")
    shutil.copy(scored, folder / "scored.jsonl")
    for name in ("picked.jsonl", "pairs.jsonl"):
        shutil.copy(picked, folder / name)
    table = pandas.DataFrame({"question": ["Name two fruits."] * 2, "answer": ["apple", "brick"], "score": [3.0, 1.0]})
    table.to_csv(folder / "rows.csv", index=False)
    table.to_parquet(folder / "answers.parquet")
    shutil.copytree(tiny_data, folder / "data")
    run = ["sre", "run", "cpu-smollm2-135m", "--set", "data.pointwise=data", "--set", "data.pairwise=data"]
    environ = environment(folder, tiny_model)
    subprocess.run([*run, "--run-dir", "runs/quickstart"], cwd=folder, env=environ, check=True, timeout=600)
    for name in ("one", "margin-2"):
        shutil.copytree(folder / "runs" / "quickstart", folder / "runs" / name)
    shutil.copy(folder / "runs" / "quickstart" / "judge.gguf", folder)
    return folder


def environment(folder: Path, tiny_model: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SRE_TINY_MODEL": str(tiny_model),
        "NO_COLOR": "1",
    }


def test_the_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40


def test_the_docs_build_and_their_links_hold(tmp_path: Path) -> None:
    """mkdocs in strict mode: a broken link, anchor or reference ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readme_is_short_and_its_links_hold() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_every_command_is_in_the_docs() -> None:
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in main.commands if f"sre {name}" not in told] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_page_runs(page: Path, workshop: Path, tiny_model: Path) -> None:
    script = [line for command in commands(page) if (line := as_run(command))]
    if not script:
        pytest.skip("no command of ours on this page")
    folder = workshop.parent / f"{workshop.name}-{page.stem}"
    shutil.copytree(workshop, folder, symlinks=True)
    # Each command says which line of the page failed.
    steps = "\n".join(f"echo '>>> {number}'\n{line}" for number, line in enumerate(script))
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", steps],
        cwd=folder,
        env=environment(folder, tiny_model),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    last = script[int(done.stdout.rpartition(">>> ")[2].split()[0])]
    assert done.returncode == 0, f"{page.name}: {last}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
