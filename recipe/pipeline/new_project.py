"""`sre init`: people's own labelled files -> a folder with the split rows and the settings of a run.

All rows are checked and the run is planned before the folder appears. Where the files don't tell something, the error
says what to add to the command.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recipe.config import CONFIGS, Config, load
from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, Rubric
from recipe.data.rubrics import NamedRubric, by_task, read_rubric
from recipe.data.split import split_rows, write_splits
from recipe.data.values import MOST_SCORE
from recipe.errors import SreError
from recipe.pipeline.context import RunContext
from recipe.pipeline.preflight import preflight
from recipe.planning.machines import CARDS, GIB, Machine, card_named, this_cpu
from recipe.planning.plan import make_plan
from recipe.planning.workload import CHARS_PER_TOKEN
from recipe.progress import duration
from recipe.prompts import Prompts
from recipe.storage import atomic_folder
from recipe.system import nvidia_gpus

TOPS = (1, 3, 5, 7, MOST_SCORE)  # of the scales that are recognised; they begin at 0 or 1
CPU_TOKENS, CPU_INPUTS = 2048, 160  # of a row, and of round 1, at most: more takes a laptop too long
NO_RATIONALES = 'rationales = "bootstrap"  # few rows bring one, so the seed model writes them'


def new_project(
    folder: Path,
    files: Sequence[str],
    *,
    columns: Mapping[str, str],
    rubric: str | None = None,
    preset: str | None = None,
) -> list[str]:
    """Write `folder`/data and `folder`/config.toml; returns what to tell the user, a line each.

    rubric: of rows that bring none. preset: where this machine's card is not to decide it. Raises SreError for a bad
    row, something that can't be told, or a folder with something in it. Nothing is written then.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SreError("is there already; delete it or choose another folder", file=folder)
    preset, machine = _preset_and_machine(preset)
    model = load(preset).model.source
    named = read_rubric(rubric) if rubric else None
    given = by_task(named)
    if "pointwise" in given:  # its scale is not that of the scores until all are read
        given["pointwise"] = Rubric(given["pointwise"].criteria)
    sources: dict[str, list[Example]] = {}
    for file in files:
        rows = read_examples(file, columns=columns, rubrics=given, scale=range(MOST_SCORE + 1))
        sources.setdefault(Path(file).stem, []).extend(rows)
    sources, scale = _on_one_scale(sources, named)
    splits = split_rows(sources, dev=0.1, test=0.1, seed=0)
    train = [row for rows in splits["train"].values() for row in rows]
    tasks = {row.task for rows in sources.values() for row in rows}
    if tasks - {row.task for row in train}:
        raise SreError("too few prompts to train on some and hold others out; expected ten or more")
    with atomic_folder(folder) as temporary:
        write_splits(temporary / "data", splits)
        settings = temporary / "config.toml"
        settings.write_text(_settings(preset, folder, train), encoding="utf-8")
        there = json.dumps(str(temporary / "data"))
        config = load(settings, [f"data.{task}={there}" for task in tasks])
        plan = make_plan(config, machine=machine)
        rows_found = preflight(RunContext(config, temporary), offline=True)
    return [
        *(line.replace(str(temporary), str(folder)) for line in rows_found),
        *scale,
        f"preset: {preset}, which trains {model}" + (f" ({plan.download / 1e9:.0f} GB)" if plan.download else ""),
        f"plan: about {duration(plan.seconds)}, {plan.disk / 1e9:.1f} GB of disk; it {plan.verdict}",
        f"Look into {folder / 'config.toml'}, then: sre run {folder / 'config.toml'}",
    ]


def _preset_and_machine(preset: str | None) -> tuple[str, Machine]:
    """The preset for this machine's card, and what to plan for: that card, else the one that the preset is for."""
    for name, mebibytes in (gpu.split(", ")[:2] for gpu in nvidia_gpus()):
        if not mebibytes.isdigit():  # a card without memory of its own
            continue
        gib = float(mebibytes) / 1024
        small = gib <= 11 or "t4" in name.lower()
        fitting = "24gb-qwen2-7b" if gib > 22 else "t4-qwen2.5-1.5b" if small else "12gb-qwen3-4b"
        return preset or fitting, card_named(name, 0.96 * gib * GIB)
    preset = preset or "cpu-smollm2-135m"
    meant = {"24gb": "4090", "12gb": "3060", "t4": "t4"}.get(preset.split("-")[0])
    return preset, CARDS[meant] if meant else this_cpu()


def _on_one_scale(
    sources: dict[str, list[Example]], named: NamedRubric | None
) -> tuple[dict[str, list[Example]], list[str]]:
    """The rows, those whose rubric brings no scale on the one that their scores have; and a line that says which."""
    every = [row for rows in sources.values() for row in rows if row.task == "pointwise"]
    found = {row.label or 0 for row in every if not row.rubric.descriptions}
    given = named.rubric if named and found <= set(named.rubric.descriptions) else None
    scale: Sequence[int] = given.scores if given and found else ()
    if found and not given:
        low = min(1, *found)
        scale = range(low, next(top for top in TOPS if top > low and top >= max(found)) + 1)
    if not found:
        return sources, []

    def placed(row: Example) -> Example:
        if row.task == "pairwise" or row.rubric.descriptions:
            return row
        fits = given is not None and given.criteria == row.rubric.criteria
        return replace(row, rubric=given if given and fits else _described(row.rubric.criteria, scale))

    note = f"scores: {scale[0]}-{scale[-1]}; if that is wrong, describe each score in --rubric"
    return {name: [placed(row) for row in rows] for name, rows in sources.items()}, [note]


def _described(criteria: str, scale: Sequence[int]) -> Rubric:
    if tuple(scale) == Rubric(criteria).scores:
        return Rubric(criteria)
    between = {score: f"The response meets the criteria in part: {score} of {scale[-1]}." for score in scale[1:-1]}
    lowest, highest = "The response does not meet the criteria.", "The response meets the criteria fully."
    return Rubric(criteria, {scale[0]: lowest, **between, scale[-1]: highest})


def _settings(preset: str, folder: Path, train: Sequence[Example]) -> str:
    """The preset's file, with the settings that the rows decide."""
    before, counts = load(preset), Counter(row.task for row in train)
    cpu = preset.startswith("cpu-")
    changes = {"name": json.dumps(re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name))}
    if any(row.labels[-1] - row.labels[0] < 4 for row in train if row.task == "pointwise"):
        changes["margin"] = "1  # a short scale has room for no more"
    changes |= _cpu_changes(before, train) if cpu else {}
    text = (CONFIGS / f"{preset}.toml").read_text(encoding="utf-8")
    text = re.sub(r"^(\w+) = .*$", lambda m: f"{m[1]} = {changes[m[1]]}" if m[1] in changes else m[0], text, flags=re.M)
    data = ["[data]", "# By whole prompts: 80% train, 10% (dev) decide which judge is best, 10% (test) measure them."]
    place = json.dumps(str(folder / "data"), ensure_ascii=False)
    data += [f"{task} = {place}" if counts[task] else f'{task} = ""  # no such rows' for task in TASKS]
    data += ["# At most so many rows, for the time's sake; they are drawn evenly over labels, rubrics and prompts."]
    for task in counts:
        trained = None if cpu else getattr(before.data, f"train_{task}")
        data += [f"train_{task} = {trained}"] if trained else []
        data += [f"dev_{task} = 60", f"test_{task} = 200"]
    text = re.sub(r"^\[data\]\n.*?(?=^\[)", lambda _: "\n".join(data) + "\n\n", text, flags=re.M | re.S)
    explained = Counter(row.task for row in train if row.rationale.strip())
    if any(2 * explained[task] < counts[task] for task in counts):
        text = text.replace("[sft]\n", f"[sft]\n{NO_RATIONALES}\n")
    head = f"# Made by `sre init` from the preset {preset}. All settings: `sre config {folder / 'config.toml'}`.\n"
    return head + "# Paths count from where `sre run` is called.\n" + text[text.index("name = ") :]


def _cpu_changes(before: Config, train: Sequence[Example]) -> dict[str, str]:
    """What the quickstart sets for its own rows alone. Tokens are counted by bytes, for any script."""
    rationale = max(len(row.rationale.encode()) for row in train) / CHARS_PER_TOKEN
    prompt = max(sum(len(turn.content.encode()) for turn in Prompts().judge(row)) for row in train) / CHARS_PER_TOKEN
    answer = min(max(160, round(1.1 * rationale)), 512)
    length = min(max(before.model.max_length, math.ceil((prompt + answer) / 64 + 1) * 64), CPU_TOKENS)
    inputs = min(CPU_INPUTS, len(train))
    return {
        "max_length": f"{length}  # tokens of a row; longer ones are left out",
        "inputs": f"[{inputs}]  # round 2 takes a tenth of it",
        "max_tokens": f"{answer}  # of a rationale",
        "max_pairs": f"{inputs}",
        "keep": '"better"  # a round that does no better on the dev rows is the last',
    }
