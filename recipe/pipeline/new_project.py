"""`sre init`: people's own labelled files -> a folder with the split rows and the settings of a run.

All rows are checked and the run is planned before the folder appears. Where the files don't tell something, the error
says what to add to the command.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.config import CONFIGS, Config, load
from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, Rubric
from recipe.data.rubrics import NamedRubric, by_task, read_rubric
from recipe.data.selection import Selection
from recipe.data.split import split_rows, write_splits
from recipe.data.values import MOST_SCORE
from recipe.errors import SreError, plural
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
    skip_bad_rows: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[str]:
    """Write `folder`/data and `folder`/config.toml; returns what to tell the user, a line each.

    rubric: of rows that bring none. preset: where this machine's card is not to decide it. skip_bad_rows: into files
    beside the folder. tell: called with a line for each thing to know about how the rows are read. Raises SreError for
    a bad row, something that can't be told, or a folder with something in it. Nothing else is written then.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SreError("is there already; delete it or choose another folder", file=folder)
    preset, machine, elsewhere = _preset_and_machine(preset)
    model = load(preset).model.source
    named = read_rubric(rubric) if rubric else None
    given = by_task(named)
    if "pointwise" in given:  # its scale is not that of the scores until all are read
        given["pointwise"] = Rubric(given["pointwise"].criteria)
    sources: dict[str, list[Example]] = {}
    for file in files:
        rejects = folder.with_name(f"{folder.name}-rejects-{Path(file).stem}.jsonl") if skip_bad_rows else None
        reading: dict[str, Any] = {"columns": columns, "rubrics": given, "scale": range(MOST_SCORE + 1)}
        rows = read_examples(file, skip_bad_rows=rejects, tell=tell, **reading)
        sources.setdefault(Path(file).stem, []).extend(rows)
    sources, scale = _on_one_scale(sources, named)
    splits = split_rows(sources, dev=0.1, test=0.1, seed=0)
    train = [row for rows in splits["train"].values() for row in rows]
    tasks = {row.task for rows in sources.values() for row in rows}
    for task in tasks - {row.task for row in train}:
        file = next(file for file in files if any(row.task == task for row in sources[Path(file).stem]))
        prompts = len({row.prompt_id for row in sources[Path(file).stem] if row.task == task})
        why = f"none of its prompts ({prompts}) is left to train on: one in ten, and one at least, is held out to test"
        raise SreError(f"{why} the judge, and as many to choose it; expected three prompts or more", file=file)
    scores = {row.label for rows in sources.values() for row in rows if row.task == "pointwise"}
    if len(scores) == 1:
        raise SreError(f"all scores are {scores.pop()}: a judge can't learn from one score alone; add rows with others")
    with atomic_folder(folder) as temporary:
        write_splits(temporary / "data", splits)
        settings = temporary / "config.toml"
        settings.write_text(_settings(preset, folder, splits), encoding="utf-8")
        there = json.dumps(str(temporary / "data"))
        config = load(settings, [f"data.{task}={there}" for task in tasks])
        selection = Selection(config, keep=True)
        plan = make_plan(config, machine=machine, selection=selection)
        rows_found = preflight(RunContext(config, temporary, selection), offline=True)
    return [
        *(line.replace(str(temporary), str(folder)) for line in rows_found),
        *scale,
        f"preset: {preset}, which trains {model}" + (f" ({plan.download / 1e9:.0f} GB)" if plan.download else ""),
        f"plan: about {duration(plan.seconds)}, {plan.disk / 1e9:.1f} GB of disk; it {plan.verdict}{elsewhere}",
        *_warnings(splits),
        f"Look into {folder / 'config.toml'}, then: sre run {folder / 'config.toml'}",
    ]


def _preset_and_machine(preset: str | None) -> tuple[str, Machine, str]:
    """The preset for this machine's card; what to plan for, which is that card, else the one that the preset is for;
    and what to say of a card that isn't here."""
    for name, mebibytes in (gpu.split(", ")[:2] for gpu in nvidia_gpus()):
        if not mebibytes.isdigit():  # a card without memory of its own
            continue
        gib = float(mebibytes) / 1024
        small = gib <= 11 or "t4" in name.lower()
        fitting = "24gb-qwen2-7b" if gib > 22 else "t4-qwen2.5-1.5b" if small else "12gb-qwen3-4b"
        return preset or fitting, card_named(name, 0.96 * gib * GIB), ""
    preset = preset or "cpu-smollm2-135m"
    meant = {"24gb": "4090", "12gb": "3060", "t4": "t4"}.get(preset.split("-")[0])
    return (preset, CARDS[meant], "; this machine has no such card") if meant else (preset, this_cpu(), "")


def _warnings(splits: Mapping[str, Mapping[str, Sequence[Example]]]) -> list[str]:
    """What to know of few rows, a line each."""
    lines = []
    for split, fewest, why in (
        ("train", 50, "to train on: a few hundred are needed to see an effect"),
        ("test", 20, "to test on: the intervals of the figures will be wide"),
    ):
        counts = Counter(row.task for rows in splits[split].values() for row in rows)
        lines += [f"warning: {plural(n, f'{task} row')} {why}" for task, n in counts.items() if n < fewest]
    return lines


def _on_one_scale(
    sources: dict[str, list[Example]], named: NamedRubric | None
) -> tuple[dict[str, list[Example]], list[str]]:
    """The rows, those whose rubric brings no scale on the one that their scores have; and lines that say which."""
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

    notes = [f"scores: {scale[0]}-{scale[-1]}; if that is wrong, describe each score in --rubric"]
    if named and named.rubric.descriptions and not given:
        theirs = f"{named.rubric.scores[0]}-{named.rubric.scores[-1]}"
        notes.append(f"{named.name}: its descriptions are of the scores {theirs}, so general ones stand in their place")
    return {name: [placed(row) for row in rows] for name, rows in sources.items()}, notes


def _described(criteria: str, scale: Sequence[int]) -> Rubric:
    if tuple(scale) == Rubric(criteria).scores:
        return Rubric(criteria)
    between = {score: f"The response meets the criteria in part: {score} of {scale[-1]}." for score in scale[1:-1]}
    lowest, highest = "The response does not meet the criteria.", "The response meets the criteria fully."
    return Rubric(criteria, {scale[0]: lowest, **between, scale[-1]: highest})


def _settings(preset: str, folder: Path, splits: Mapping[str, Mapping[str, Sequence[Example]]]) -> str:
    """The preset's file, with the settings that the rows decide."""
    rows = {split: [row for found in held.values() for row in found] for split, held in splits.items()}
    train, dev, test = (rows[split] for split in ("train", "dev", "test"))
    before, counts = load(preset), Counter(row.task for row in train)
    cpu = preset.startswith("cpu-")
    changes = {"name": json.dumps(re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name))}
    if any(row.labels[-1] - row.labels[0] < 4 for row in train if row.task == "pointwise"):
        changes["margin"] = "1  # a short scale has room for no more"
    changes |= _cpu_changes(before, train) if cpu else {}
    text = (CONFIGS / f"{preset}.toml").read_text(encoding="utf-8")
    text = re.sub(r"^(\w+) = .*$", lambda m: f"{m[1]} = {changes[m[1]]}" if m[1] in changes else m[0], text, flags=re.M)
    held = f"{len(dev)} to choose the best judge (dev), {len(test)} to measure it (test)"
    data = ["[data]", f"# By whole prompts: {plural(len(train), 'row')} to train on, {held}."]
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
    return (
        head
        + "# Paths count from where `sre run` is called, and where nothing is there, from this file's folder.\n"
        + text[text.index("name = ") :]
    )


def _cpu_changes(before: Config, train: Sequence[Example]) -> dict[str, str]:
    """What the quickstart sets for its own rows alone. Tokens are counted by bytes, for any script."""
    rationale = max(len(row.rationale.encode()) for row in train) / CHARS_PER_TOKEN
    prompts = Prompts()
    prompt = max(sum(len(turn.content.encode()) for turn in prompts.judge(row)) for row in train) / CHARS_PER_TOKEN
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
