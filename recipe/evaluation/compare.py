"""Several judges on the same rows, over random seeds: figures, differences, and the shortcut audit. Pure; no model."""

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.data.records import TASKS, Example, Judgement
from recipe.evaluation.audit import FIGURES, audit, difference, figures_by_task, labelled

Measured = Mapping[str, Mapping[int, Sequence[Judgement]]]  # judge -> random seed -> its judgement of each row


def compare(
    rows: Sequence[Example],
    measured: Measured,
    pairs: Sequence[tuple[str, str]],
    train: Sequence[Example] = (),
    *,
    resamples: int,
) -> dict[str, Any]:
    """What the tables show of these judges: {"models": {judge: figures}, "differences": {"second - first": …}} and
    `audit`.

    A judge without any seed was not run: its figures are None. pairs: (first, second) judge of each difference; they
    are compared over the seeds that both have. train: the judges' training rows, for the rules that learn from them.
    Rows of one prompt are one group of the bootstrap, in whichever seed they were judged.
    """
    ran = {name: _pooled(rows, by_seed, list(by_seed)) for name, by_seed in measured.items() if by_seed}
    found: dict[str, Any] = {
        "models": {name: figures_by_task(*ran[name], resamples) if name in ran else None for name in measured},
        "differences": {},
    }
    for first, second in pairs:
        seeds = [seed for seed in measured.get(first, ()) if seed in measured.get(second, ())]
        if seeds:
            repeated, one = _pooled(rows, measured[first], seeds)
            _, two = _pooled(rows, measured[second], seeds)
            found["differences"][f"{second} - {first}"] = _differences(repeated, one, two, resamples)
    return found | audit(rows, ran, train, resamples=resamples)


def _differences(
    rows: Sequence[Example], first: Sequence[Judgement], second: Sequence[Judgement], resamples: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in TASKS:
        kept, one, two = labelled(task, rows, first, second)
        names = [name for its_task, name in FIGURES["differences"].values() if its_task == task]
        found[task] = {name: difference(name, kept, one, two, resamples) for name in names}
    return found


def _pooled(
    rows: Sequence[Example], by_seed: Mapping[int, Sequence[Judgement]], seeds: Sequence[int]
) -> tuple[list[Example], list[Judgement]]:
    return [*rows] * len(seeds), [judgement for seed in seeds for judgement in by_seed[seed]]
