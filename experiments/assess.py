"""Stage assess: ask a model about judgements, for the curation methods that need it.

Writes assessments.jsonl, one line for each question and what the answer says; `read_assessments` reads it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig, SampleConfig
from recipe.data.records import Example, Judgement, pools_of
from recipe.inference.base import Completion, Generator, Request, Sampling, to_judgement
from recipe.progress import bar, each
from recipe.prompts import Prompts, neutralise
from recipe.storage import hash_object, read_jsonl, write_jsonl
from recipe.training.curate import distinct_texts, right_and_wrong
from recipe.verdict import answer_begin, open_reasoning

ASSESSED = ("self-assessment", "meta-judge", "meta-judge-equal", "preference-reversal")
_FILES = sorted(Path(__file__).with_name("prompts").glob("*.jinja"))
PROMPTS = {path.stem: path.read_text(encoding="utf-8") for path in _FILES}
MAX_ITEMS = 10  # rationales in a list to pick from: of ten there are 90 ordered picks
_RATING_TOKENS = 192
_RATING = re.compile(r"Judgment rating:[ \t]*([1-5])(?!\w|[.,/]\d|/)")
_PICK = re.compile(r'\[\s*"ITEM(\d{1,3})"\s*,\s*"ITEM(\d{1,3})"\s*\]')

Pools = Mapping[str, Sequence[Judgement]]
Ask = Callable[[Sequence[Request], Sampling], Iterator[Completion]]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Assessments:
    """What a model said about judgements.

    ratings: from 1 to 5, by judgement id. picks: the ids of the best and the worst rationale by (example id, "right" or
    "wrong"), None where the model disagreed with itself. reversals: poor judgements by example id.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    picks: Mapping[tuple[str, str], tuple[str, str] | None] = field(default_factory=dict)
    reversals: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)


def read_assessments(path: Path | None) -> Assessments:
    """What `run_assess` wrote; nothing where there is no file."""
    rows = read_jsonl(path) if path else []
    reversals = [Judgement.from_json(row["reversal"]) for row in rows if "reversal" in row]
    return Assessments(
        {row["judgement_id"]: row["rating"] for row in rows if row.get("rating") is not None},
        {(row["example_id"], row["side"]): row["pick"] and tuple(row["pick"]) for row in rows if "side" in row},
        pools_of(reversals),
    )


def parse_rating(text: str) -> int | None:
    """The last `Judgment rating: <1-5>` of a self-assessment (A.1.4), else None."""
    found = [] if open_reasoning(text) else _RATING.findall(text, answer_begin(text))
    return int(found[-1]) if found else None


def parse_pick(text: str, items: int) -> tuple[int, int] | None:
    """The last `["ITEMx", "ITEMy"]` of a meta-judge (A.1.6) as 0-based (best, worst); None unless two different,
    existing items are named."""
    picks = [] if open_reasoning(text) else _PICK.findall(text, answer_begin(text))
    for best, worst in reversed([(int(a) - 1, int(b) - 1) for a, b in picks]):
        if best != worst and 0 <= best < items and 0 <= worst < items:
            return best, worst
    return None


def run_assess(
    folder: Path,
    *,
    generator: Generator,
    examples: Mapping[str, Example],
    judgements: Sequence[Judgement],
    method: str,
    settings: CurateConfig,
    sampling: SampleConfig,
    prompts: Prompts,
    seed: int,
) -> dict[str, Any]:
    """Ask what the method of curation needs to know; returns counts for the done marker.

    sampling: to draw reversals. prompts: with those of PROMPTS.
    """

    def ask(requests: Sequence[Request], how: Sampling) -> Iterator[Completion]:
        with bar(method, len(requests) * how.n, "answers") as advance:
            yield from each(generator.generate(requests, how), advance)

    pools = {key: distinct_texts(pool) for key, pool in pools_of(judgements).items()}
    if method == "self-assessment":
        rows = _ratings(ask, prompts, examples, pools)
    elif method == "preference-reversal":
        draw = int(hash_object([seed, "reversal"])[:12], 16)
        how = Sampling(sampling.temperature, sampling.n, sampling.max_tokens, draw)
        rows = _reversals(ask, prompts, [examples[key] for key in pools], how)
    else:
        rows = _picks(ask, prompts, examples, pools, method, settings)
    write_jsonl(folder / "assessments.jsonl", rows)
    counts = {key: sum(row.get(key, 0) for row in rows) for key in ("malformed", "disagreed", "tokens")}
    return {"assessor": generator.name, "questions": len(rows), **counts}


def _ratings(ask: Ask, prompts: Prompts, examples: Mapping[str, Example], pools: Pools) -> Rows:
    """A rating of each judgement (A.1.4)."""
    requests = [
        Request(judgement.id, prompts.render("self_assessment", examples[key], judgement=neutralise(judgement.text)))
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
    requests = [Request(one.id, prompts.render("preference_reversal", one), one.labels) for one in examples]
    rows: Rows = []
    for completion in ask(requests, how):
        made = to_judgement(by_id[completion.request_id], completion, "reversal")
        rows.append({"reversal": made.to_json(), "malformed": made.label is None, "tokens": made.tokens})
    return sorted(rows, key=lambda row: str(row["reversal"]["id"]))


def _picks(
    ask: Ask, prompts: Prompts, examples: Mapping[str, Example], pools: Pools, method: str, settings: CurateConfig
) -> Rows:
    """The best and the worst rationale of a list (A.1.6), where the model names the same two in both orders of it."""
    lists: dict[tuple[str, str], Sequence[Judgement]] = {}
    for key, pool in pools.items():
        right, wrong = right_and_wrong(pool, pool[0].truth if pool else None, settings)
        asked = {"right": right, "wrong": wrong if right and method == "meta-judge" else []}
        lists |= {(key, side): items[:MAX_ITEMS] for side, items in asked.items() if len(items) > 1}
    requests: list[Request] = []
    listed: dict[str, Sequence[Judgement]] = {}
    for (key, side), items in lists.items():
        count = range(1, len(items) + 1)
        choices = tuple(f'["ITEM{best}", "ITEM{worst}"]' for best in count for worst in count if best != worst)
        for order, judgements in (("as drawn", items), ("reversed", items[::-1])):
            texts = [neutralise(judgement.rationale or judgement.text) for judgement in judgements]
            asked_of = prompts.render("meta_judge", examples[key], contender_rationales=texts)
            requests.append(Request(f"{key}|{side}|{order}", asked_of, choices=choices))
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
