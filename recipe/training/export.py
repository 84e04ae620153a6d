"""Stage export: a trained adapter becomes GGUF files that carry all a judge needs (SPEC: The recipe, 4).

gguf/j2.gguf             snapshot of J_2: what the loop samples from and evaluates
gguf/judge-Q4_K_M.gguf   quantised by llama.cpp; Modelfile and README.md (the model card) lie beside it
judge.gguf               the one to take home
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.data.records import TASKS, Example, Judgement
from recipe.gguf.export import add_metadata, whole_file, write_gguf
from recipe.inference.base import Sampling
from recipe.inference.conversion import to_judgement, to_request
from recipe.inference.llamacpp.generator import LlamaCppGenerator, quantize
from recipe.inference.pytorch.loading import resolve_quantization
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import atomic
from recipe.system import versions
from recipe.verdict import gbnf

CALIBRATED_ROWS = 10
TEMPERATURES = [round(2 ** (step / 8), 3) for step in range(-16, 33)]  # 1/4 to 16


def run_snapshot(out: Path, *, model: Path, adapter: Path | None, name: str, weights: str, config: Config) -> None:
    """Write J_t (or the seed model, without an adapter) as one GGUF file with the judge's metadata.

    `weights` names what it was made from; it is kept in the file, so that a stale snapshot can be told.
    """
    converter = Path(config.export.converter) if config.export.converter else None
    write_gguf(
        model,
        out,
        adapter=adapter,
        type_name=config.export.snapshot,
        metadata=judge_metadata(name, config) | {"sre.weights": weights},
        converter=converter,
    )


def judge_metadata(name: str, config: Config) -> dict[str, str]:
    """The `sre.*` pairs: prompt templates, output grammars, versions, and how the judge was made."""
    prompts = {f"sre.prompts.{key}": text for key, text in Prompts().sources.items()}
    return {
        "general.name": name,
        **prompts,
        "sre.grammar.pointwise": gbnf((1, 2, 3, 4, 5)),
        "sre.grammar.pairwise": gbnf((1, 2)),
        "sre.versions": json.dumps(versions()),
        "sre.base_model": config.model.source,
        "sre.config": config.model_dump_json(),
    }


def run_export(
    folder: Path, *, snapshot: Path, judge: Path, rows: Sequence[Example], config: Config, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Quantise the last snapshot, measure how often the verdict flips, write judge.gguf, model card and Modelfile.

    `rows` are judged greedily with each type; the flip rate is the share whose label differs from the snapshot's.
    """
    files: dict[str, Path] = {config.export.snapshot: snapshot}
    with bar("quantising", len(config.export.types), "files") as advance:
        for name in config.export.types:
            files[name] = folder / f"judge-{name}.gguf"
            if name != config.export.snapshot:
                quantize(snapshot, files[name], name)
            advance(1, name)
    verdicts = {name: _verdicts(path, rows, config) for name, path in files.items()}
    parent = verdicts[config.export.snapshot]
    flips = {name: _flip_rate(parent, found) for name, found in verdicts.items() if name != config.export.snapshot}
    calibration = calibrate(verdicts[config.export.judge])
    with whole_file(judge) as partial:
        add_metadata(files[config.export.judge], partial, {"sre.calibration": json.dumps(calibration)})
    sizes = {name: path.stat().st_size for name, path in files.items()}
    _write(folder / "Modelfile", modelfile(judge.name))
    nf4 = resolve_quantization(config.model.quantization) == "nf4"
    _write(folder / "README.md", model_card(config, figures, flips, sizes, len(rows), nf4=nf4))
    return {
        "flip_rate": flips,
        "flip_rows": len(rows),
        "bytes": sizes,
        "judge": config.export.judge,
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


def _verdicts(path: Path, rows: Sequence[Example], config: Config) -> list[Judgement]:
    """Greedy judgements in the rows' order."""
    prompts = Prompts()
    by_id = {row.id: row for row in rows}
    requests = [to_request(row, prompts.judge(row), force_label=True) for row in rows]
    sampling = Sampling(0.0, 1, config.evaluate.max_tokens, stop_at_label=True)
    context = config.model.max_length + config.evaluate.max_tokens
    found = {}
    with (
        LlamaCppGenerator(path, threads=config.threads, context=context, parallel=config.sample.parallel) as generator,
        bar(f"verdicts of {path.stem}", len(rows), "rows") as advance,
    ):
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


def modelfile(judge: str) -> str:
    """An Ollama Modelfile for a judge one folder up."""
    system = Prompts().sources["pointwise"].split("\n---\n")[0].split("-%}\n")[-1]
    return f'FROM ../{judge}\nPARAMETER temperature 0\nPARAMETER num_predict 512\nSYSTEM """{system}"""\n'


_FOUR_BIT = (
    "It was trained on the base in 4 bit (NF4), and figures taken on a GPU were measured so. These files add the",
    "adapter to the base in 16 bit, which is not quite the same model: measure `judge.gguf` itself where it matters.",
)


def model_card(
    config: Config,
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
            f"# {config.name}: a self-rationalizing judge",
            "",
            f"Made from `{config.model.source}` by SFT of a pointwise and a pairwise adapter, their",
            f"{config.merge.method} merge, and {config.iterations} rounds of self-rationalization with DPO",
            "([Self-Rationalizing Evaluators](https://pypi.org/project/self-rationalizing-evaluators/)).",
            f"Data: `{config.data.pointwise}` and `{config.data.pairwise}`. The licence of the base model applies.",
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
            f"| type | size | verdicts that differ from {config.export.snapshot} ({flip_rows} rows) |",
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
