"""Stage assess: ask a model about judgements, for the curation methods that need it.

Writes assessments.jsonl, one line for each question and what the answer says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.config import CurateConfig, SampleConfig
from recipe.data.records import Example, Judgement
from recipe.inference.base import Completion, Generator, Request, Sampling
from recipe.inference.conversion import to_judgement
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import hash_object, write_jsonl
from recipe.training.pools import distinct_texts, pools_of, sides
from recipe.verdict import parse_pick, parse_rating

ASSESSED_METHODS = ("self-assessment", "meta-judge", "margin-0", "preference-reversal")
MAX_ITEMS = 10  # rationales in a list to pick from: of ten there are 90 ordered picks
_RATING_TOKENS = 192


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
    """Ask what `settings.method` needs to know; returns counts for the done marker.

    generator: the model that is asked. examples: the inputs by id. judgements: all samples. settings: the section
    `curate`. sampling: the section `sample`, for preference reversal, which draws judgements.
    """
    pools = {key: distinct_texts(pool) for key, pool in pools_of(judgements).items()}
    assessor = _Assessor(generator, prompts, examples, pools)
    if settings.method == "self-assessment":
        rows = assessor.rate()
    elif settings.method == "preference-reversal":
        rows = assessor.reverse(sampling, seed)
    else:
        rows = assessor.pick(settings)
    write_jsonl(folder / "assessments.jsonl", rows)
    counts = {key: sum(row.get(key, 0) for row in rows) for key in ("malformed", "disagreed", "tokens")}
    return {"assessor": generator.name, "questions": len(rows), **counts}


@dataclass(frozen=True)
class _Assessor:
    """The model that is asked, and what it is asked about. Each method returns the rows of assessments.jsonl."""

    generator: Generator
    prompts: Prompts
    examples: Mapping[str, Example]
    pools: Mapping[str, Sequence[Judgement]]

    def rate(self) -> list[dict[str, Any]]:
        """A rating of each judgement."""
        requests = [
            Request(judgement.id, self.prompts.self_assessment(self.examples[key], judgement.text))
            for key, pool in self.pools.items()
            for judgement in pool
            if judgement.label is not None
        ]
        rows = []
        for completion in self._ask(requests, Sampling(0.0, 1, _RATING_TOKENS), "self-assessment"):
            rating = parse_rating(completion.text)
            row = {"judgement_id": completion.request_id, "rating": rating, "malformed": rating is None}
            rows.append({**row, "tokens": len(completion.token_ids)})
        return sorted(rows, key=lambda row: str(row["judgement_id"]))

    def reverse(self, sampling: SampleConfig, seed: int) -> list[dict[str, Any]]:
        """Judgements that argue like a young child."""
        examples = [self.examples[key] for key in self.pools]
        requests = [Request(one.id, self.prompts.preference_reversal(one), one.labels) for one in examples]
        draw = int(hash_object([seed, "reversal"])[:12], 16)
        rows = []
        settings = Sampling(sampling.temperature, sampling.n, sampling.max_tokens, draw)
        for completion in self._ask(requests, settings, "preference reversal"):
            made = to_judgement(self.examples[completion.request_id], completion, "reversal")
            rows.append({"reversal": made.to_json(), "malformed": made.label is None, "tokens": made.tokens})
        return sorted(rows, key=lambda row: str(row["reversal"]["id"]))

    def pick(self, settings: CurateConfig) -> list[dict[str, Any]]:
        """The best and the worst rationale of a list, where the model names the same two in both orders of the list."""
        lists: dict[tuple[str, str, str], Sequence[Judgement]] = {}
        for key, pool in self.pools.items():
            right, wrong = sides(pool, pool[0].truth if pool else None, settings)
            asked = {"right": right, "wrong": wrong if right and settings.method == "meta-judge" else []}
            for side, items in asked.items():
                if len(items) > 1:
                    lists[key, side, "as drawn"] = items[:MAX_ITEMS]
                    lists[key, side, "reversed"] = items[:MAX_ITEMS][::-1]
        by_id = {"|".join(name): name for name in lists}
        requests = [self._list_request(by_id[name][0], name, lists[by_id[name]]) for name in by_id]
        picks: dict[tuple[str, str, str], list[str]] = {}
        for completion in self._ask(requests, Sampling(0.0, 1, 32), "meta-judge"):
            listed = lists[by_id[completion.request_id]]
            picked = parse_pick(completion.text, len(listed))
            if picked:
                picks[by_id[completion.request_id]] = [listed[place].id for place in picked]
        rows = []
        for key, side, order in lists:
            if order == "as drawn":
                first, second = picks.get((key, side, "as drawn")), picks.get((key, side, "reversed"))
                agreed = first if first == second else None
                rows.append({"example_id": key, "side": side, "pick": agreed, "disagreed": agreed is None})
        return rows

    def _list_request(self, key: str, name: str, listed: Sequence[Judgement]) -> Request:
        count = range(1, len(listed) + 1)
        choices = tuple(f'["ITEM{best}", "ITEM{worst}"]' for best in count for worst in count if best != worst)
        texts = [judgement.rationale or judgement.text for judgement in listed]
        return Request(name, self.prompts.meta_judge(self.examples[key], texts), choices=choices)

    def _ask(self, requests: list[Request], sampling: Sampling, label: str) -> list[Completion]:
        completions = []
        with bar(label, len(requests) * sampling.n, "answers") as advance:
            for completion in self.generator.generate(requests, sampling):
                completions.append(completion)
                advance()
        return completions
