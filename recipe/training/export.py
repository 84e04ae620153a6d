"""Stage export: a trained adapter becomes GGUF files that carry all a judge needs .

gguf/j2.gguf             snapshot of J_2: what the loop samples from and evaluates
gguf/judge-Q4_K_M.gguf   quantised by llama.cpp; Modelfile and README.md (the model card) lie beside it
judge.gguf               the one to take home
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.config import ExportConfig
from recipe.data.records import TASKS, Example, Judgement
from recipe.gguf.export import add_metadata, whole_file, write_gguf
from recipe.inference.base import Sampling
from recipe.inference.conversion import to_judgement, to_request
from recipe.inference.llamacpp.generator import quantize
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import atomic
from recipe.system import versions
from recipe.verdict import gbnf

CALIBRATED_ROWS = 10
TEMPERATURES = [round(2 ** (step / 8), 3) for step in range(-16, 33)]  # 1/4 to 16


@dataclass(frozen=True)
class Origin:
    """How a judge was made, as its card tells it. merge: the method, "" where nothing was merged."""

    name: str
    base_model: str
    data: Mapping[str, str]
    merge: str
    rounds: int


def run_snapshot(
    out: Path, *, model: Path, adapter: Path | None, type_name: str, converter: str | None, metadata: dict[str, str]
) -> None:
    """Write a judge (or the seed model, without an adapter) as one GGUF file.

    Args:
        out: The file.
        model: The seed model's folder.
        adapter: The judge's adapter folder.
        type_name: F32, F16 or BF16.
        converter: llama.cpp's convert_hf_to_gguf.py, to be used in place of our own writer.
        metadata: Its `sre.*` and `general.*` pairs. `sre.weights` names what the file was made from, so that a stale
            one can be told.
    """
    path = Path(converter) if converter else None
    write_gguf(model, out, adapter=adapter, type_name=type_name, metadata=metadata, converter=path)


def judge_metadata(name: str, base_model: str, prompts: Prompts) -> dict[str, str]:
    """A judge's `sre.*` pairs: prompt templates, output grammars, versions, base model."""
    return {
        "general.name": name,
        **{f"sre.prompts.{key}": text for key, text in prompts.sources.items()},
        "sre.grammar.pointwise": gbnf((1, 2, 3, 4, 5)),
        "sre.grammar.pairwise": gbnf((1, 2)),
        "sre.versions": json.dumps(versions()),
        "sre.base_model": base_model,
    }


def run_export(
    folder: Path,
    *,
    snapshot: Path,
    judge: Path,
    rows: Sequence[Example],
    held_out: bool,
    settings: ExportConfig,
    max_tokens: int,
    prompts: Prompts,
    open_gguf: Callable[[Path], Any],
    origin: Origin,
    figures: Mapping[str, Any],
    nf4: bool,
) -> dict[str, Any]:
    """Quantise a judge's snapshot, measure how often the verdict flips, write judge.gguf, model card and Modelfile.

    Args:
        folder: Where the files go.
        snapshot: The judge in 16 or 32 bit.
        judge: The file to take home.
        rows: Judged greedily with each type. The flip rate is the share whose label differs from the snapshot's.
        held_out: The judge was not trained on the rows. Only then is a calibration fitted on them.
        settings: Which types are written, and which becomes the judge.
        max_tokens: The most that one judgement may take.
        prompts: The templates that the rows are shown in.
        open_gguf: Opens a generator for a GGUF file.
        origin: How the judge was made, for the card.
        figures: What was measured, for the card.
        nf4: The judge was trained on a 4-bit base, which the card must say.
    """
    files: dict[str, Path] = {settings.snapshot: snapshot}
    with bar("quantising", len(settings.types), "files") as advance:
        for name in settings.types:
            files[name] = folder / f"judge-{name}.gguf"
            if name != settings.snapshot:
                quantize(snapshot, files[name], name)
            advance(1, name)
    verdicts = {name: _verdicts(path, rows, open_gguf, prompts, max_tokens) for name, path in files.items()}
    parent = verdicts[settings.snapshot]
    flips = {name: _flip_rate(parent, found) for name, found in verdicts.items() if name != settings.snapshot}
    calibration = calibrate(verdicts[settings.judge]) if held_out else {}
    with whole_file(judge) as partial:
        add_metadata(files[settings.judge], partial, {"sre.calibration": json.dumps(calibration)})
    sizes = {name: path.stat().st_size for name, path in files.items()}
    _write(folder / "Modelfile", modelfile(judge.name, prompts))
    _write(folder / "README.md", model_card(origin, settings.snapshot, figures, flips, sizes, len(rows), nf4=nf4))
    return {
        "flip_rate": flips,
        "flip_rows": len(rows),
        "bytes": sizes,
        "judge": settings.judge,
        "calibration": calibration,
    }


def calibrate(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Per task the temperature that makes label probabilities p^(1/T) most probable under the truth, and on how many
    rows it was fitted; a task with fewer than CALIBRATED_ROWS labelled rows is left out. T > 1: the judge is too sure.
    """
    found: dict[str, Any] = {}
    for task in TASKS:
        rows = [j for j in judgements if j.task == task and j.label_logprobs and j.truth is not None]
        if len(rows) >= CALIBRATED_ROWS:
            losses = {t: sum(_surprise(j, t) for j in rows) for t in TEMPERATURES}
            found[task] = {"temperature": min(losses, key=lambda t: (losses[t], t)), "rows": len(rows)}
    return found


def _surprise(judgement: Judgement, temperature: float) -> float:
    """Negative log-probability (nats) of the true label at a temperature."""
    scaled = {label: value / temperature for label, value in judgement.label_logprobs.items()}
    most = max(scaled.values())
    total = most + math.log(sum(math.exp(value - most) for value in scaled.values()))
    return total - scaled[judgement.truth or 0]


def _verdicts(
    path: Path, rows: Sequence[Example], open_gguf: Callable[[Path], Any], prompts: Prompts, max_tokens: int
) -> list[Judgement]:
    """Greedy judgements in the rows' order."""
    if not rows:
        return []
    by_id = {row.id: row for row in rows}
    requests = [to_request(row, prompts.judge(row), force_label=True) for row in rows]
    sampling = Sampling(0.0, 1, max_tokens, stop_at_label=True)
    found = {}
    with open_gguf(path) as generator, bar(f"verdicts of {path.stem}", len(rows), "rows") as advance:
        for completion in generator.generate(requests, sampling):
            example = by_id[completion.request_id]
            found[example.id] = to_judgement(example, completion, path.stem, need_rationale=False)
            advance()
    return [found[row.id] for row in rows]


def _flip_rate(parent: Sequence[Judgement], other: Sequence[Judgement]) -> float | None:
    flipped = sum(one.label != two.label for one, two in zip(parent, other, strict=True))
    return flipped / len(parent) if parent else None


def _write(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text)


def modelfile(judge: str, prompts: Prompts) -> str:
    """An Ollama Modelfile for a judge one folder up."""
    system = prompts.sources["pointwise"].split("\n---\n")[0].split("-%}\n")[-1]
    return f'FROM ../{judge}\nPARAMETER temperature 0\nPARAMETER num_predict 512\nSYSTEM """{system}"""\n'


_FOUR_BIT = (
    "It was trained on the base in 4 bit (NF4), and figures taken on a GPU were measured so. These files add the",
    "adapter to the base in 16 bit, which is not quite the same model: measure `judge.gguf` itself where it matters.",
)


def model_card(
    origin: Origin,
    snapshot: str,
    figures: Mapping[str, Any],
    flips: Mapping[str, float | None],
    sizes: Mapping[str, int],
    flip_rows: int,
    *,
    nf4: bool = False,
) -> str:
    """Markdown: what the judge is, how it was made, what was measured, how to use it."""
    lines = [f"| {name} | {size / 1e6:.0f} MB | {_percent(flips.get(name))} |" for name, size in sizes.items()]
    measured = [f"| {name} | {_cell(value)} |" for name, value in figures.items()]
    return "\n".join(
        [
            f"# {origin.name}: a self-rationalizing judge",
            "",
            f"Made from `{origin.base_model}` by SFT on {' and '.join(origin.data)} judgements"
            + (f", the {origin.merge} merge of both adapters," if origin.merge else ""),
            f"and {origin.rounds} rounds of self-rationalization with DPO",
            "([Self-Rationalizing Evaluators](https://pypi.org/project/self-rationalizing-evaluators/)).",
            f"Data: {', '.join(f'`{source}`' for source in dict.fromkeys(origin.data.values()))}. The licence of the",
            "base model applies.",
            *(_FOUR_BIT if nf4 else ()),
            "",
            "## Use",
            "",
            "    sre judge rows.jsonl -o judged.jsonl --model judge.gguf",
            "",
            "The file carries its prompts and its output grammar (`sre.*` metadata). For Ollama: `ollama create judge`",
            "in this folder.",
            "",
            "## Files",
            "",
            f"| type | size | verdicts that differ from {snapshot} ({flip_rows} rows) |",
            "| --- | --- | --- |",
            *lines,
            "",
            "## Measured",
            "",
            "| figure | value (95% interval) |",
            "| --- | --- |",
            *measured,
            "",
        ]
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _cell(figure: Any) -> str:
    if isinstance(figure, Mapping):
        if figure.get("value") is None:
            return f"- (n = {figure.get('n')})"
        return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}] (n = {figure['n']})"
    return str(figure)
