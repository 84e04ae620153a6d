"""Stage export: a trained adapter becomes GGUF files that carry all a judge needs.

gguf/judge-Q4_K_M.gguf   quantised by llama.cpp; Modelfile and README.md (the model card) are beside it
judge.gguf               the one to take home
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import ne
from pathlib import Path
from typing import Any

from recipe.config import ExportConfig
from recipe.data.records import TASKS, Example, Judgement, Message
from recipe.gguf.header import add_metadata, read_header
from recipe.inference.base import Request, Sampling, completions_by_request, to_judgement
from recipe.inference.calibration import Calibration, fit_calibration, write_calibrations
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.llamacpp.quantization import quantize
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import atomic, replacing
from recipe.system import versions
from recipe.training.card import Base, Card, model_card
from recipe.verdict import gbnf

NF4 = "NF4"  # its name among the types


def judge_metadata(name: str, base: Base, prompts: Prompts) -> dict[str, Any]:
    """The metadata of a judge's GGUF file: `sre.*` (prompts, grammars, versions), and `general.*` for all programs."""
    owner, _, short = base.name.rpartition("/")
    origin = {"name": short, "organization": owner, "repo_url": f"https://huggingface.co/{base.name}"}
    told = {f"general.base_model.0.{key}": text for key, text in origin.items() if owner or key == "name"}
    return {
        "general.name": name,
        "general.license": base.licence,
        "general.tags": ["text-generation", "llm-as-a-judge", "self-rationalization"],
        "general.languages": ["en"],  # of its prompts
        "general.base_model.count": 1,
        **told,
        **{f"sre.prompts.{key}": text for key, text in prompts.sources.items()},
        "sre.grammar.pointwise": gbnf((1, 2, 3, 4, 5)),
        "sre.grammar.pairwise": gbnf((1, 2)),
        "sre.versions": json.dumps(versions()),
        "sre.base_model": base.name,
    }


def run_export(
    folder: Path,
    *,
    snapshot: Path,
    judge: Path,
    rows: Sequence[Example],
    held_out: Sequence[tuple[Judgement, str]],
    settings: ExportConfig,
    max_tokens: int,
    prompts: Prompts,
    open_gguf: Callable[[Path], Any],
    card: Card,
    trained: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Quantise a judge's snapshot, measure how often the label flips, write judge.gguf, model card and Modelfiles.

    The flip rate is the share of `rows` whose label differs from the snapshot's. The calibration is fitted on
    `held_out` alone: greedy judgements of rows that the judge was not trained on, and their prompt ids. `trained`
    opens a generator for a judge that was trained and measured on a base in NF4. The snapshot adds the adapter to the
    base in 16 bit, so the labels of the two may differ too.
    """
    files: dict[str, Path] = {settings.snapshot: snapshot}
    with bar("quantising", len(settings.types), "files") as advance:
        for name in settings.types:
            if name != settings.snapshot:
                files[name] = folder / f"judge-{name}.gguf"
                quantize(snapshot, files[name], name)
            advance(1, name)
    opens: dict[str, Callable[[], Any]] = {name: partial(open_gguf, path) for name, path in files.items()}
    opens |= {NF4: trained} if trained else {}
    labels = {}
    with bar("judging with each type", len(opens), "types") as advance:
        for name, opened in opens.items():
            labels[name] = _labels(name, rows, opened, prompts, max_tokens)
            advance(1, name)
    parent = labels.pop(settings.snapshot)
    flips = {name: sum(map(ne, parent, found)) / len(rows) if rows else None for name, found in labels.items()}
    calibrations, fits = fit_calibrations(held_out)
    with replacing(judge) as temporary:
        add_metadata(files[settings.type], temporary, write_calibrations(calibrations))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    grid = [["type", "size", f"verdicts that differ from {settings.snapshot} ({len(rows)} rows)"]]
    for name in opens:
        rate, size = flips.get(name), f"{sizes[name] / 1e6:.0f} MB" if name in sizes else "as trained"
        grid.append([name, size, "-" if rate is None else f"{rate:.1%}"])
    template = ChatTemplate(read_header(snapshot).strings.get("tokenizer.chat_template"), bos="", eos="", file=snapshot)
    texts = {"README.md": model_card(card, grid, fits)}
    for task, name in (("pointwise", "Modelfile"), ("pairwise", "Modelfile.pairwise")):
        texts[name] = modelfile(judge.name, prompts.sources[task], template)
    for name, text in texts.items():
        with atomic(folder / name) as file:
            file.write(text)
    return {"flip_rate": flips, "flip_rows": len(rows), "bytes": sizes, "type": settings.type, "calibration": fits}


def fit_calibrations(held_out: Sequence[tuple[Judgement, str]]) -> tuple[dict[str, Calibration], dict[str, Any]]:
    """Calibrations by task, and the facts of their fits by task. A task with too few rows has facts alone.

    Labels without a rationale don't count: calibrations are for labels that follow one.
    """
    calibrations: dict[str, Calibration] = {}
    facts: dict[str, Any] = {}
    for task in TASKS:
        rows = [(j, prompt) for j, prompt in held_out if j.task == task and j.rationale]
        if rows:
            calibration, facts[task] = fit_calibration([j for j, _ in rows], [prompt for _, prompt in rows])
            calibrations |= {task: calibration} if calibration else {}
    return calibrations, facts


def _labels(
    name: str, rows: Sequence[Example], opened: Callable[[], Any], prompts: Prompts, max_tokens: int
) -> list[int | None]:
    """The label of each row, judged greedily by what `opened` opens."""
    if not rows:
        return []
    requests = [Request(row.id, prompts.judge(row), row.labels, force_label=True) for row in rows]
    with opened() as generator:
        found = completions_by_request(generator.generate(requests, Sampling(0.0, 1, max_tokens, stop_at_label=True)))
    return [to_judgement(row, found[row.id][0], name, need_rationale=False).label for row in rows]


def modelfile(judge: str, prompt: str, template: ChatTemplate) -> str:
    """Ollama's Modelfile for a judge one folder up, with the chat template and the prompt of one task."""
    system = prompt.split("\n---\n")[0].split("-%}\n")[-1]
    turns = (Message("system", "{{ .System }}"), Message("user", "{{ .Prompt }}"))
    asked = template.render(turns)
    # What a template writes after an answer ends it; where that is the end token alone, Ollama knows it.
    after = template.render((*turns, Message("assistant", "{{ .Response }}"), turns[1])).partition("{{ .Response }}")[2]
    ends = re.match(r"\s*(<[^<>\s]+>)", after)
    lines = [f"FROM ../{judge}", f'TEMPLATE """{asked}"""', f'SYSTEM """{system}"""', "PARAMETER temperature 0"]
    lines += ["PARAMETER num_ctx 4096", "PARAMETER num_predict 512", *([f'PARAMETER stop "{ends[1]}"'] if ends else [])]
    return "\n".join([*lines, ""])
