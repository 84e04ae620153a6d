"""`python -m experiments.annotation`: which of two judges explains better, by people in Label Studio.

The side-by-side is blind (the paper's appendix A.2):

    DIR/tasks.json    what raters see: criteria, conversation, response(s), the label, two rationales in random order
    DIR/labels.xml    Label Studio's labelling configuration
    DIR/key.json      which rationale is whose, with the examples; raters must not see it

Only rows that both judges gave the same label are shown, so that the rationale alone decides. An outcome is the second
judge's: "win", "both good", "both bad" or "loss"; the two in the middle are ties, and a tie counts one half.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import click
from rich.console import Console

from recipe.cli import options as opt
from recipe.data.records import Example, Judgement
from recipe.errors import SreError
from recipe.evaluation.evaluate import read_judgements
from recipe.evaluation.metrics import rate_figure
from recipe.evaluation.tables import figure_text, judge_name, show
from recipe.pipeline.results import figures_of, last_judge, measured_rows
from recipe.pipeline.stage_order import open_run
from recipe.storage import atomic, canonical, intact, read_json, write_json

_CONFIG = Path(__file__).with_name("labels.xml").read_text(encoding="utf-8")


def _answers(name: str) -> tuple[str, ...]:
    """The answers that labels.xml offers to a question."""
    (question,) = ElementTree.fromstring(_CONFIG).iterfind(f"Choices[@name='{name}']")
    return tuple(choice.attrib["value"] for choice in question)


CHOICES, REASONS = _answers("preference"), _answers("reasons")
OUTCOMES = ("win", "both good", "both bad", "loss")


class Vote(NamedTuple):
    """One rater's answer. reasons: (judge, reason) pairs; the judge, 0 or 1, is the one found wanting."""

    item: str
    rater: str
    outcome: str
    reasons: Sequence[tuple[int, str]] = ()


# --- export ---


def export_annotations(folder: Path, out: Path, *, first: str, second: str | None, n: int, seed: int) -> dict[str, int]:
    """Write the blind side-by-side of two measured judges of a run; returns the counts."""
    run = open_run(folder)
    other, measured = second or last_judge(run), figures_of(run)
    if other is None:
        raise SreError("no judge after SFT has been measured; run `sre evaluate` first", file=folder)
    if first == other or not {first, other} <= measured.keys():
        raise SreError(f"expected two different judges that were measured, of {', '.join(measured)}", file=folder)
    rows, problem = measured_rows(run)
    if problem:
        raise SreError(f"the rows can't be read: {problem}", file=folder)
    sides = {judge: read_judgements(folder, judge) for judge in (first, other)}
    return export_tasks(out, examples=rows, sides=sides, n=n, seed=seed)


def export_tasks(
    folder: Path, *, examples: Sequence[Example], sides: Mapping[str, Sequence[Judgement]], n: int, seed: int
) -> dict[str, int]:
    """Write `n` tasks (fewer where there are fewer), drawn and ordered by `seed`, with configuration and key.

    Returns counts; equal rationales ("identical") are not shown: there is nothing to choose. Raises SreError when
    nothing can be shown, and when the folder already holds a key: its annotations would no longer fit.
    """
    if (folder / "key.json").exists():
        raise SreError("already holds an export, whose annotations need its key; use another -o", file=folder)
    by_id = [{row.example_id: row for row in side} for side in sides.values()]
    pairs = [(row, [side[row.id] for side in by_id]) for row in examples if all(row.id in side for side in by_id)]
    same = [(row, both) for row, both in pairs if both[0].label is not None and both[0].label == both[1].label]
    same = [(row, both) for row, both in same if both[0].rationale and both[1].rationale]
    shown = [(row, both) for row, both in same if both[0].rationale != both[1].rationale]
    if not shown:
        message = f"{' and '.join(sides)} gave the same label with different rationales on none of {len(pairs)} rows"
        raise SreError(message, file=folder)
    draw = random.Random(seed)
    items = {}
    for k, (example, judgements) in enumerate(draw.sample(shown, min(n, len(shown))), 1):
        order = draw.sample([0, 1], 2)  # the judges (0 first, 1 second) in the order of the rationales
        items[f"{k:04}"] = {
            "shown": order,
            "label": judgements[0].label,
            "rationales": [judgements[judge].rationale for judge in order],
            "example": example.to_json(),
        }
    counts = {"rows": len(pairs), "same_label": len(same), "identical": len(same) - len(shown), "tasks": len(items)}
    tasks = ",\n".join(canonical(_task(name, item)) for name, item in items.items())
    with atomic(folder / "tasks.json") as file:
        file.write(f"[{tasks}]\n")
    with atomic(folder / "labels.xml") as file:
        file.write(_CONFIG)
    write_json(folder / "key.json", {"judges": list(sides), "seed": seed, **counts, "items": items})
    return counts


def _task(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    example = Example.from_json(item["example"])
    described = [f"{score}: {text}" for score, text in sorted(example.rubric.descriptions.items())]
    pairwise = example.task == "pairwise"
    texts = [text or "(empty)" for text in example.responses]
    responses = [f"RESPONSE {k}\n{text}" for k, text in enumerate(texts, 1)] if pairwise else texts
    scale = f"{example.labels[0]} to {example.labels[-1]}"
    return {
        "data": {
            "item": name,
            "criteria": "\n".join([example.rubric.criteria, *described]),
            "conversation": "\n\n".join(f"{turn.role.upper()}\n{turn.content}" for turn in example.conversation),
            "response": "\n\n".join(responses),
            "label": f"response {item['label']} is better" if pairwise else f"{item['label']} (of {scale})",
            "rationale_1": item["rationales"][0],
            "rationale_2": item["rationales"][1],
        }
    }


# --- import ---


def import_annotations(folder: Path, annotations: Path, *, resamples: int = 2000) -> dict[str, Any]:
    """Read Label Studio's JSON export against the folder's key; write folder/annotations-summary.json; return it.

    {"judges", "annotations", "skipped", "outcomes", "win_rate", "raters": {rater: {"outcomes", "win_rate"}},
    "agreement", "reasons": {judge: {reason: n}}}. `win_rate` is the second judge's, over all annotations, with a
    bootstrap interval over items. Raises SreError for a file that is no such export, or of other tasks.
    """
    if not (folder / "key.json").is_file():
        raise SreError("no key.json here; make the folder with `python -m experiments.annotation export`", file=folder)
    key = read_json(folder / "key.json")
    with intact(folder / "key.json"):
        judges, shown = key["judges"], {item: tuple(made["shown"]) for item, made in key["items"].items()}
        if [type(name) for name in judges] != [str, str] or not {*shown.values()} <= {(0, 1), (1, 0)}:
            raise ValueError("expected two judges, and for each item their order")
    with intact(annotations):
        votes, skipped = _read_votes(annotations, shown)
    raters = sorted({vote.rater for vote in votes})
    blamed = [pair for vote in votes for pair in vote.reasons]
    reasons = {name: Counter(reason for judge, reason in blamed if judge == k) for k, name in enumerate(judges)}
    summary = {
        "judges": judges,
        "annotations": len(votes),
        "skipped": skipped,
        **_counted(votes, resamples),
        "raters": {rater: _counted([vote for vote in votes if vote.rater == rater], resamples) for rater in raters},
        "agreement": _agreement(votes),
        "reasons": {name: dict(counts.most_common()) for name, counts in reasons.items()},
    }
    write_json(folder / "annotations-summary.json", summary)
    return summary


def _read_votes(path: Path, shown: Mapping[str, Sequence[int]]) -> tuple[list[Vote], int]:
    """(votes, number of annotations that raters skipped) of Label Studio's JSON export of these items."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SreError(f"can't read the annotations: {error}", file=path) from None
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and "annotations" in t for t in tasks):
        raise SreError("not Label Studio's export of the type JSON (a list of tasks with annotations)", file=path)
    votes: dict[tuple[str, str], Vote] = {}
    skipped = 0
    for task in tasks:
        item = str(task.get("data", {}).get("item", ""))
        if item not in shown:
            raise SreError(f"item {item!r} is not in key.json: these annotations are of another export", file=path)
        for annotation in task["annotations"]:
            vote = _vote(item, annotation, shown[item], path)
            if vote is None:
                skipped += 1
            elif (item, vote.rater) in votes:
                raise SreError(f"rater {vote.rater} annotated item {item} twice; delete one of them", file=path)
            else:
                votes[item, vote.rater] = vote
    if not votes:
        raise SreError("no annotation yet: every task is unlabelled or skipped", file=path)
    return list(votes.values()), skipped


def _vote(item: str, annotation: Mapping[str, Any], shown: Sequence[int], path: Path) -> Vote | None:
    """None where the rater skipped the task."""
    results = [result for result in annotation.get("result", []) if result.get("type") == "choices"]
    answers = {str(result["from_name"]): list(result["value"]["choices"]) for result in results}
    if annotation.get("was_cancelled") or "preference" not in answers:
        return None
    preferred, given = answers["preference"], answers.get("reasons", [])
    if len(preferred) != 1 or not {*preferred} <= {*CHOICES} or not {*given} <= {*REASONS}:
        message = f"{[*preferred, *given]} are no answers of labels.xml; was the configuration changed?"
        raise SreError(message, file=path, field=f"item {item}")
    by = annotation.get("completed_by")
    rater = str(by.get("email") or by.get("id")) if isinstance(by, Mapping) else str(by)
    place = CHOICES.index(preferred[0])
    if place == 2:
        return Vote(item, rater, "both good")
    if place == 3:
        return Vote(item, rater, "both bad", [(judge, reason) for reason in given for judge in (0, 1)])
    better = shown[place]
    return Vote(item, rater, ("loss", "win")[better], [(1 - better, reason) for reason in given])


def _counted(votes: Sequence[Vote], resamples: int) -> dict[str, Any]:
    """The outcomes, and the second judge's share of wins. Votes on one item are not independent: items are drawn."""
    counts = Counter(vote.outcome for vote in votes)
    wins = [{"win": 1.0, "loss": 0.0}.get(vote.outcome, 0.5) for vote in votes]
    return {
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]},
        "win_rate": rate_figure(wins, [vote.item for vote in votes], resamples),
    }


def _agreement(votes: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha (nominal) of the raters' outcomes; None where no two raters share an item, or all votes
    are alike (chance agreement is then undefined)."""
    try:
        import krippendorff
    except ImportError:
        raise SreError("agreement needs the package krippendorff: pip install krippendorff") from None
    given = {(vote.item, vote.rater): OUTCOMES.index(vote.outcome) for vote in votes}
    raters = sorted({vote.rater for vote in votes})
    raters_of = Counter(vote.item for vote in votes)
    shared = sorted(item for item, count in raters_of.items() if count > 1)
    if len({outcome for (item, _), outcome in given.items() if item in shared}) < 2:
        return None
    table = [[given.get((item, rater), float("nan")) for item in shared] for rater in raters]
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))


# --- the commands ---


def show_rationale_votes(summary: Mapping[str, Any], console: Console) -> None:
    """Print how the second judge's rationales fared, by all and by each rater; agreement and reasons."""
    first, second = map(judge_name, summary["judges"])
    outcomes = {"better": "win", "both good": "both good", "both bad": "both bad", "worse": "loss"}
    grid = [["by", *outcomes, "win rate"]]
    by_rater = {f"rater {name}": found for name, found in summary["raters"].items()}
    for name, found in {"all": summary, **by_rater}.items():
        counts = [str(found["outcomes"].get(outcome, 0)) for outcome in outcomes.values()]
        grid.append([name, *counts, figure_text(found["win_rate"], with_n=True)])
    show([(f"{second}'s rationales against {first}'s, same labels (a tie counts one half)", grid)], {}, console)
    alpha = summary["agreement"]
    told = "undefined (it takes two raters on one item)" if alpha is None else f"{alpha:.2f}"
    console.print(f"Agreement between raters, Krippendorff's alpha: {told}. Skipped: {summary['skipped']}.")
    for judge, reasons in summary["reasons"].items():
        given = ", ".join(f"{reason} {n}" for reason, n in reasons.items()) or "nothing"
        console.print(f"Found wrong with {judge_name(judge)}: {given}.")


class _Group(opt.OneLineErrors, click.Group):
    """The commands, with errors of one line."""


@click.group(
    cls=_Group,
    context_settings=opt.SETTINGS,
    epilog=opt.examples(
        "python -m experiments.annotation export runs/quickstart -o rationales",
        "python -m experiments.annotation import rationales annotations.json",
    ),
)
def annotate() -> None:
    """Compare two judges' rationales blind, by people in Label Studio."""


@annotate.command(
    epilog=opt.examples("python -m experiments.annotation export runs/quickstart -o rationales --second j1 --n 50")
)
@opt.run
@click.option("-o", "--out", required=True, type=opt.FOLDER, help="A new folder.")
@click.option("--first", default="sft", help="The judge to compare with.")
@click.option("--second", help="The judge whose wins are counted. [default: the last J that was measured]")
@click.option("--n", type=opt.POSITIVE, default=100, help="The most tasks.")
@click.option("--seed", type=int, default=0, help="Seed of the draw and of the order in each task.")
def export(run: Path, out: Path, first: str, second: str | None, n: int, seed: int) -> None:
    """Write Label Studio tasks and labelling configuration for rows that both judges gave the same label."""
    counts = export_annotations(run, out, first=first, second=second, n=n, seed=seed)
    click.echo(
        f"{counts['tasks']} tasks: {counts['same_label']} of {counts['rows']} rows got one label from both judges; "
        f"{counts['identical']} of these have identical rationales and are not shown.\n"
        f"In Label Studio: make a project with the code of {out / 'labels.xml'} as its labelling interface,\n"
        f"import {out / 'tasks.json'}, and export as JSON when the raters are done.\n"
        f"Raters must not see {out / 'key.json'}: it says which rationale is whose."
    )


@annotate.command("import", epilog=opt.examples("python -m experiments.annotation import rationales annotations.json"))
@click.argument("folder", type=opt.EXISTING_FOLDER)
@click.argument("annotations", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def import_(folder: Path, annotations: Path) -> None:
    """Compute win rate, agreement and reasons from Label Studio's JSON export of FOLDER's tasks."""
    show_rationale_votes(import_annotations(folder, annotations), opt.console())


if __name__ == "__main__":
    annotate()
