"""Stage assess: ask a model about judgements, for the curation methods that need it.

Writes assessments.jsonl, one line for each question and what the answer says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig, SampleConfig
from recipe.data.records import Example, Judgement
from recipe.inference.base import Completion, Generator, Request, Sampling, to_judgement
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import hash_object, write_jsonl
from recipe.training.right_and_wrong import distinct_texts, pools_of, right_and_wrong
from recipe.verdict import parse_pick, parse_rating

ASSESSED_METHODS = ("self-assessment", "meta-judge", "meta-judge-equal", "preference-reversal")
MAX_ITEMS = 10  # rationales in a list to pick from: of ten there are 90 ordered picks
_RATING_TOKENS = 192

Pools = Mapping[str, Sequence[Judgement]]
Ask = Callable[[Sequence[Request], Sampling], Iterator[Completion]]
Rows = list[dict[str, Any]]


def run_assess(
    folder: Path,
    *,
    generator: Generator,
    examples: Mapping[str, Example],
    judgements: Sequence[Judgement],
    settings: CurateConfig,
    sampling: SampleConfig,
    prompts: Prompts,
    seed: int,
) -> dict[str, Any]:
    """Ask what `settings.method` needs to know (`sampling`: to draw reversals); returns counts for the done marker."""

    def ask(requests: Sequence[Request], how: Sampling) -> Iterator[Completion]:
        with bar(settings.method, len(requests) * how.n, "answers") as advance:
            for completion in generator.generate(requests, how):
                advance()
                yield completion

    pools = {key: distinct_texts(pool) for key, pool in pools_of(judgements).items()}
    if settings.method == "self-assessment":
        rows = _ratings(ask, prompts, examples, pools)
    elif settings.method == "preference-reversal":
        draw = int(hash_object([seed, "reversal"])[:12], 16)
        how = Sampling(sampling.temperature, sampling.n, sampling.max_tokens, draw)
        rows = _reversals(ask, prompts, [examples[key] for key in pools], how)
    else:
        rows = _picks(ask, prompts, examples, pools, settings)
    write_jsonl(folder / "assessments.jsonl", rows)
    counts = {key: sum(row.get(key, 0) for row in rows) for key in ("malformed", "disagreed", "tokens")}
    return {"assessor": generator.name, "questions": len(rows), **counts}


def _ratings(ask: Ask, prompts: Prompts, examples: Mapping[str, Example], pools: Pools) -> Rows:
    """A rating of each judgement (A.1.4)."""
    requests = [
        Request(judgement.id, prompts.self_assessment(examples[key], judgement.text))
        for key, pool in pools.items()
        for judgement in pool
        if judgement.label is not None
    ]
    rows: Rows = []
    for completion in ask(requests, Sampling(0.0, 1, _RATING_TOKENS)):
        rating = parse_rating(completion.text)
        row = {"judgement_id": completion.request_id, "rating": rating, "malformed": rating is None}
        rows.append({**row, "tokens": len(completion.token_ids)})
    return sorted(rows, key=lambda row: str(row["judgement_id"]))


def _reversals(ask: Ask, prompts: Prompts, examples: Sequence[Example], how: Sampling) -> Rows:
    """Judgements that argue like a young child."""
    by_id = {example.id: example for example in examples}
    requests = [Request(one.id, prompts.preference_reversal(one), one.labels) for one in examples]
    rows: Rows = []
    for completion in ask(requests, how):
        made = to_judgement(by_id[completion.request_id], completion, "reversal")
        rows.append({"reversal": made.to_json(), "malformed": made.label is None, "tokens": made.tokens})
    return sorted(rows, key=lambda row: str(row["reversal"]["id"]))


def _picks(ask: Ask, prompts: Prompts, examples: Mapping[str, Example], pools: Pools, settings: CurateConfig) -> Rows:
    """The best and the worst rationale of a list (A.1.6), where the model names the same two in both orders of it."""
    lists: dict[tuple[str, str], Sequence[Judgement]] = {}
    for key, pool in pools.items():
        right, wrong = right_and_wrong(pool, pool[0].truth if pool else None, settings)
        asked = {"right": right, "wrong": wrong if right and settings.method == "meta-judge" else []}
        lists |= {(key, side): items[:MAX_ITEMS] for side, items in asked.items() if len(items) > 1}
    requests: list[Request] = []
    listed: dict[str, Sequence[Judgement]] = {}
    for (key, side), items in lists.items():
        count = range(1, len(items) + 1)
        choices = tuple(f'["ITEM{best}", "ITEM{worst}"]' for best in count for worst in count if best != worst)
        for order, judgements in (("as drawn", items), ("reversed", items[::-1])):
            texts = [judgement.rationale or judgement.text for judgement in judgements]
            requests.append(Request(f"{key}|{side}|{order}", prompts.meta_judge(examples[key], texts), choices=choices))
            listed[requests[-1].id] = judgements
    picks: dict[str, list[str] | None] = {}
    for completion in ask(requests, Sampling(0.0, 1, 32)):
        items = listed[completion.request_id]
        picked = parse_pick(completion.text, len(items))
        picks[completion.request_id] = [items[place].id for place in picked] if picked else None
    rows: Rows = []
    for key, side in lists:
        first, second = (picks.get(f"{key}|{side}|{order}") for order in ("as drawn", "reversed"))
        agreed = first if first == second else None
        rows.append({"example_id": key, "side": side, "pick": agreed, "disagreed": agreed is None})
    return rows
