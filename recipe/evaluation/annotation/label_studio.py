"""Which of two judges explains better: a blind side-by-side, rated in Label Studio or by a judge (the
paper's appendices A.2 and A.1.6).

    DIR/tasks.json    what raters see: criteria, conversation, response(s), the label, two rationales in random order
    DIR/labels.xml    Label Studio's labelling configuration
    DIR/key.json      which rationale is whose, with the examples; raters must not see it

Only rows that both judges gave the same label are shown, so that the rationale alone decides. An outcome is the second
judge's: "win", "loss", "both good", "both bad", or "disagreed" (a meta-judge that prefers one position). Every outcome
but a win or a loss is a tie, and a tie counts one half.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from recipe.data.records import Example, Judgement
from recipe.errors import SreError
from recipe.evaluation.annotation.votes import read_votes, tally
from recipe.inference.base import Request, Sampling
from recipe.judge.judge import Judge
from recipe.progress import bar
from recipe.storage import atomic, canonical, read_json, write_json
from recipe.verdict import parse_pick

CHOICES = ("rationale 1 is better", "rationale 2 is better", "both are good", "both are bad")
REASONS = (
    "unrelated to the criteria",
    "irrelevant to the response",
    "too general",
    "too pessimistic",
    "too optimistic",
    "inconsistent with the score",
    "none of these",
)
_ORDERS = ('["ITEM1", "ITEM2"]', '["ITEM2", "ITEM1"]')


def export_tasks(
    folder: Path,
    *,
    examples: Sequence[Example],
    first: Sequence[Judgement],
    second: Sequence[Judgement],
    names: tuple[str, str],
    n: int,
    seed: int,
) -> dict[str, int]:
    """Write `n` tasks (fewer where there are fewer), drawn and ordered by `seed`, with configuration and key.

    Returns counts: rows, same_label, identical (equal rationales are not shown: there is nothing to choose) and
    tasks. Raises SreError when nothing can be shown, and when the folder already holds a key: its annotations
    would no longer fit.
    """
    if (folder / "key.json").exists():
        message = "this folder already holds an export; its annotations need that key. Use another -o"
        raise SreError(message, file=folder)
    by_id = ({row.example_id: row for row in first}, {row.example_id: row for row in second})
    pairs = [(row, by_id[0][row.id], by_id[1][row.id]) for row in examples if all(row.id in side for side in by_id)]
    same = [pair for pair in pairs if _same_label(*pair[1:])]
    shown = [(row, one, two) for row, one, two in same if one.rationale != two.rationale]
    if not shown:
        message = f"{' and '.join(names)} gave the same label with different rationales on none of {len(pairs)} rows"
        raise SreError(message, file=folder)
    draw = random.Random(seed)
    drawn = draw.sample(shown, min(n, len(shown)))
    swapped = [draw.random() < 0.5 for _ in drawn]
    counts = {"rows": len(pairs), "same_label": len(same), "identical": len(same) - len(shown), "tasks": len(drawn)}
    items = {f"{k:04}": _item(pair, swap) for k, (pair, swap) in enumerate(zip(drawn, swapped, strict=True), 1)}
    tasks = ",\n".join(canonical(_task(name, item)) for name, item in items.items())
    with atomic(folder / "tasks.json") as file:
        file.write(f"[{tasks}]\n")
    with atomic(folder / "labels.xml") as file:
        file.write(labelling_config())
    write_json(folder / "key.json", {"judges": list(names), "seed": seed, **counts, "items": items})
    return counts


def _same_label(one: Judgement, two: Judgement) -> bool:
    return one.label is not None and one.label == two.label and bool(one.rationale and two.rationale)


def _item(pair: tuple[Example, Judgement, Judgement], swapped: bool) -> dict[str, Any]:
    """What the key holds of an item: `shown` are the judges (0 first, 1 second) in the order of the rationales."""
    example, *judgements = pair
    shown = [1, 0] if swapped else [0, 1]
    return {
        "shown": shown,
        "label": judgements[0].label,
        "rationales": [judgements[judge].rationale for judge in shown],
        "example": example.to_json(),
    }


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


def labelling_config() -> str:
    """Label Studio's configuration: one choice of CHOICES and the reasons (REASONS, one or more), both required."""

    def choices(name: str, kind: str, texts: Sequence[str]) -> str:
        listed = "".join(f"    <Choice value={quoteattr(text)}/>\n" for text in texts)
        return f'  <Choices name="{name}" toName="rationale_1" choice="{kind}" required="true">\n{listed}  </Choices>'

    def text(name: str, title: str) -> str:
        return f'  <Header value="{title}" size="5"/>\n  <Text name="{name}" value="${name}" valueType="text"/>'

    return f"""<View>
{text("criteria", "Criteria")}
{text("conversation", "Conversation")}
{text("response", "Response")}
{text("label", "What both judges decided")}
{text("rationale_1", "Rationale 1")}
{text("rationale_2", "Rationale 2")}
  <Header value="Which rationale explains the decision better?" size="4"/>
{choices("preference", "single", CHOICES)}
  <Header value="What is wrong with the worse one (both bad: with both)?" size="4"/>
{choices("reasons", "multiple", REASONS)}
</View>
"""


def read_key(folder: Path) -> dict[str, Any]:
    """The key of an exported folder. Raises SreError where there is none."""
    if not (folder / "key.json").is_file():
        raise SreError("no key.json here; make the folder with `sre annotate export`", file=folder)
    return read_json(folder / "key.json")


def import_annotations(folder: Path, annotations: Path, *, resamples: int = 2000) -> dict[str, Any]:
    """Read Label Studio's JSON export against the folder's key; write folder/annotations-summary.json; return it.

    {"judges", "annotations", "skipped", "outcomes", "win_rate", "raters": {rater: {"outcomes", "win_rate"}},
    "agreement", "reasons": {judge: {reason: n}}}. `win_rate` is the second judge's, over all annotations, with a
    bootstrap interval over items. Raises SreError for a file that is no such export, or of other tasks.
    """
    key = read_key(folder)
    votes, skipped = read_votes(annotations, key, CHOICES, REASONS)
    summary = {"judges": key["judges"], "skipped": skipped, **tally(votes, key["judges"], resamples)}
    write_json(folder / "annotations-summary.json", summary)
    return summary


def meta_judge(folder: Path, judge: Judge, *, resamples: int = 2000) -> dict[str, Any]:
    """Let a judge pick the more effective rationale of every item; write folder/meta-judge-<name>.json; return it.

    Each pair is asked in both orders; where they disagree the outcome is "disagreed", a tie. {"meta_judge", "judges",
    "items": {item: outcome}, "not_judged": {item: why}, "outcomes", "win_rate"}: items without two readable answers
    are no outcome. Raises SreError when no item could be judged.
    """
    key = read_key(folder)
    items = key["items"]
    requests = []
    for name, item in items.items():
        example, shown = Example.from_json(item["example"]), item["rationales"]
        for order, rationales in (("shown", shown), ("reversed", shown[::-1])):
            messages = judge.prompts.meta_judge(example, rationales)
            requests.append(Request(f"{name}|{order}", messages, choices=_ORDERS))
    picks: dict[str, list[int]] = {name: [] for name in items}
    problems: dict[str, str] = {}
    with bar(f"meta-judge {judge.name}", len(requests), "answers") as advance:
        for completion in judge.generator.generate(requests, Sampling(0.0, 1, 32)):
            name, _, order = completion.request_id.partition("|")
            pick = parse_pick(completion.text, 2)
            if pick is None:
                problems[name] = completion.error or "malformed answer"
            else:
                shown = items[name]["shown"]
                picks[name].append((shown if order == "shown" else shown[::-1])[pick[0]])
            advance()
    outcomes = {name: _both_orders(found) for name, found in picks.items() if len(found) == 2}
    if not outcomes:
        raise SreError(f"no item could be judged, e.g. {next(iter(problems.values()))}", file=folder)
    votes = [(name, judge.name, outcome, ()) for name, outcome in outcomes.items()]
    counted = {name: tally(votes, key["judges"], resamples)[name] for name in ("outcomes", "win_rate")}
    about = {"meta_judge": judge.name, "judges": key["judges"]}
    summary = {**about, **counted, "not_judged": problems, "items": outcomes}
    write_json(folder / f"meta-judge-{judge.name}.json", summary)
    return summary


def _both_orders(picked: Sequence[int]) -> str:
    one, two = picked
    return "disagreed" if one != two else ("loss", "win")[one]
