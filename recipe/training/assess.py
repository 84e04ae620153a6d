"""Stage assess: ask a model about judgements, for the curation methods that need it.

Writes assessments.jsonl, one line for each question with what its answer says. curate.py turns answers into pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig, SampleConfig
from recipe.data.records import Example, Judgement
from recipe.inference.base import Completion, Generator, Request, Sampling
from recipe.inference.conversion import to_judgement
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import hash_object, read_jsonl, write_jsonl
from recipe.verdict import parse_pick, parse_rating

ASSESSED_METHODS = ("self-assessment", "meta-judge", "margin-0", "preference-reversal")
# Of longer lists only the first rationales are shown: there are 90 ordered picks of ten.
MAX_ITEMS = 10
_RATING_TOKENS = 192


def run_assess(
    folder: Path,
    *,
    generator: Generator,
    examples: Mapping[str, Example],
    pools: Mapping[str, Sequence[Judgement]],
    sides: Callable[[Sequence[Judgement]], tuple[list[Judgement], list[Judgement]]],
    settings: CurateConfig,
    sampling: SampleConfig,
    prompts: Prompts,
    seed: int,
) -> dict[str, Any]:
    """Ask what `settings.method` needs to know; returns counts for the done marker.

    Args:
        folder: The iteration's folder.
        generator: The model that is asked.
        examples: The inputs by id.
        pools: Distinct judgements by input id.
        sides: Splits a pool into right and wrong judgements.
        settings: The section `curate`.
        sampling: The section `sample`, for judgements that the child-like prompt draws.
        prompts: The templates.
        seed: The run's seed.
    """
    if settings.method == "self-assessment":
        rows = _rate(generator, prompts, examples, pools)
    elif settings.method == "preference-reversal":
        rows = _reverse(generator, prompts, examples, pools, sampling, seed)
    else:
        rows = _pick(generator, prompts, examples, pools, sides, both_sides=settings.method == "meta-judge")
    write_jsonl(folder / "assessments.jsonl", rows)
    return {
        "assessor": generator.name,
        "questions": len(rows),
        "malformed": sum(row.get("malformed", False) for row in rows),
        "disagreed": sum(row.get("disagreed", False) for row in rows),
        "tokens": sum(row.get("tokens", 0) for row in rows),
    }


def _rate(
    generator: Generator,
    prompts: Prompts,
    examples: Mapping[str, Example],
    pools: Mapping[str, Sequence[Judgement]],
) -> list[dict[str, Any]]:
    asked = [judgement for pool in pools.values() for judgement in pool]
    requests = [
        Request(j.id, prompts.self_assessment(examples[j.example_id], j.text)) for j in asked if j.label is not None
    ]
    rows = []
    for completion in _ask(generator, requests, Sampling(0.0, 1, _RATING_TOKENS), "self-assessment"):
        rating = parse_rating(completion.text)
        rows.append({"judgement_id": completion.request_id, "rating": rating, "malformed": rating is None})
        rows[-1]["tokens"] = len(completion.token_ids)
    return sorted(rows, key=lambda row: str(row["judgement_id"]))


def _reverse(
    generator: Generator,
    prompts: Prompts,
    examples: Mapping[str, Example],
    pools: Mapping[str, Sequence[Judgement]],
    sampling: SampleConfig,
    seed: int,
) -> list[dict[str, Any]]:
    requests = [Request(key, prompts.preference_reversal(examples[key]), examples[key].labels) for key in pools]
    draw = Sampling(
        sampling.temperature, sampling.n, sampling.max_tokens, int(hash_object([seed, "reversal"])[:12], 16)
    )
    rows = []
    for completion in _ask(generator, requests, draw, "preference reversal"):
        judgement = to_judgement(examples[completion.request_id], completion, "reversal")
        rows.append({"reversal": judgement.to_json(), "malformed": judgement.label is None, "tokens": judgement.tokens})
    return sorted(rows, key=lambda row: str(row["reversal"]["id"]))


def _pick(
    generator: Generator,
    prompts: Prompts,
    examples: Mapping[str, Example],
    pools: Mapping[str, Sequence[Judgement]],
    sides: Callable[[Sequence[Judgement]], tuple[list[Judgement], list[Judgement]]],
    *,
    both_sides: bool,
) -> list[dict[str, Any]]:
    """Each list is shown twice, in opposite orders; a pick counts when both runs name the same two rationales."""
    lists: dict[str, list[Judgement]] = {}
    requests = []
    for key, pool in pools.items():
        right, wrong = sides(pool)
        for side, items in (("right", right), ("wrong", wrong)):
            shown = items[:MAX_ITEMS]
            if len(shown) < 2 or (side == "wrong" and not (both_sides and right)):
                continue
            choices = tuple(_choice(a, b) for a in range(len(shown)) for b in range(len(shown)) if a != b)
            for order, listed in (("as drawn", shown), ("reversed", shown[::-1])):
                name = f"{key}|{side}|{order}"
                lists[name] = listed
                messages = prompts.meta_judge(
                    examples[key], [judgement.rationale or judgement.text for judgement in listed]
                )
                requests.append(Request(name, messages, choices=choices))
    picks: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for completion in _ask(generator, requests, Sampling(0.0, 1, 32), "meta-judge"):
        key, side, _ = completion.request_id.rsplit("|", 2)
        listed = lists[completion.request_id]
        pick = parse_pick(completion.text, len(listed))
        if pick:
            picks[key, side].append((listed[pick[0]].id, listed[pick[1]].id))
    rows = []
    for name in lists:
        key, side, order = name.rsplit("|", 2)
        if order == "as drawn":
            found = picks[key, side]
            agreed = found[0] if len(found) == 2 and found[0] == found[1] else None
            rows.append({"example_id": key, "side": side, "pick": agreed, "disagreed": agreed is None})
    return rows


def _choice(best: int, worst: int) -> str:
    return f'["ITEM{best + 1}", "ITEM{worst + 1}"]'


def _ask(generator: Generator, requests: list[Request], sampling: Sampling, label: str) -> list[Completion]:
    completions = []
    with bar(label, len(requests) * sampling.n, "answers") as advance:
        for completion in generator.generate(requests, sampling):
            completions.append(completion)
            advance()
    return completions


def read_assessments(
    path: Path,
) -> tuple[dict[str, int], dict[tuple[str, str], tuple[str, str] | None], dict[str, list[Judgement]]]:
    """What `run_assess` wrote, as curate.Assessments takes it: ratings, picks, reversals; all empty without it."""
    ratings: dict[str, int] = {}
    picks: dict[tuple[str, str], tuple[str, str] | None] = {}
    reversals: dict[str, list[Judgement]] = defaultdict(list)
    for row in read_jsonl(path) if path.exists() else []:
        if row.get("rating") is not None:
            ratings[row["judgement_id"]] = row["rating"]
        elif "side" in row:
            picks[row["example_id"], row["side"]] = (row["pick"][0], row["pick"][1]) if row["pick"] else None
        elif "reversal" in row:
            judgement = Judgement.from_json(row["reversal"])
            reversals[judgement.example_id].append(judgement)
    return ratings, picks, dict(reversals)
