"""What a built wheel carries and asks for: prompts, data and configs are in it, torch isn't asked for."""

from __future__ import annotations

import email
import email.message
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("hatchling", reason="the dev extra brings hatchling, which builds the wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def requirements(metadata: email.message.Message) -> list[str]:
    return metadata.get_all("Requires-Dist", [])


def test_links_and_the_picture_work_on_a_package_page(metadata: email.message.Message) -> None:
    text = bytes(metadata.get_payload(decode=True) or b"").decode("utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)", text)
    assert len(links) == len(re.findall(r"\]\(([^)\s]+)", readme)) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    repository = "https://github.com/self-rationalizing-evaluators/self-rationalizing-evaluators/blob/main/"
    raw = repository.replace("github.com", "raw.githubusercontent.com").replace("/blob", "")
    assert f"]({raw}docs/judgement.svg)" in text
    pages = {link.removeprefix(repository).partition("#")[0] for link in links if link.startswith(repository)}
    assert {"docs/results.md", "CONTRIBUTING.md"} <= pages
    assert [page for page in pages if not (ROOT / page).exists()] == []
    assert text.startswith("# Self-Rationalizing Evaluators")
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_every_prompt_travels(names: set[str]) -> None:
    prompts = {path.name for path in (ROOT / "prompts").iterdir() if path.is_file()}
    assert "pointwise.jinja" in prompts
    assert {name.rpartition("/")[2] for name in names if name.startswith("recipe/assets/prompts/")} == prompts


def test_the_seed_data_travels(names: set[str]) -> None:
    for split in ("train", "dev", "test"):
        for task in ("pointwise", "pairwise"):
            assert f"recipe/assets/data/{split}/{task}.jsonl" in names
    assert "recipe/assets/data/README.md" in names


def test_every_preset_travels(names: set[str]) -> None:
    presets = {f"recipe/configs/{path.name}" for path in (ROOT / "recipe/configs").glob("*.toml")}
    assert presets
    assert presets <= names


def test_every_ready_rubric_travels(names: set[str]) -> None:
    rubrics = {f"recipe/rubrics/{path.name}" for path in (ROOT / "recipe/rubrics").glob("*.toml")}
    assert rubrics
    assert rubrics <= names


def test_the_servers_page_travels(names: set[str]) -> None:
    assert "recipe/judge/server/page.html" in names


def test_the_mark_of_a_typed_package_travels(names: set[str]) -> None:
    assert "recipe/py.typed" in names


def test_nothing_else_travels(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"recipe"}
    assert [name for name in names if "__pycache__" in name] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_judging_asks_for_neither_torch_nor_transformers(requirements: list[str]) -> None:
    base = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in requirements if "extra ==" not in line}
    assert base == {"click", "jinja2", "llama-cpp-python", "numpy", "pydantic", "rich"}


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """`resource` finds the wheel's own copies when imported from a wheel unpacked elsewhere."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "from recipe.system import resource; import recipe;"
        "print(recipe.__file__); print(sorted(p.name for p in resource('prompts').iterdir()));"
        "print((resource('data') / 'train' / 'pointwise.jsonl').stat().st_size > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    where, prompts, data = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert "pointwise.jinja" in prompts
    assert data == "True"


def test_the_pins_name_no_place() -> None:
    """Pins are versions: no address, path or index, so that they work with whatever pip is set up to use."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line
