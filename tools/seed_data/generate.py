"""Writes the seed data: `python -m tools.seed_data.generate OUT_FOLDER`.

A row is in the published collections' columns (data/README.md lists them), e.g.
{"id": "sre-seed-train-pointwise-0001", "source": "sre-seed", "aspect": "next_in_line",
"orig_instruction": "Say what follows each one: ...", "orig_response": "...",
"orig_criteria": "...", "orig_score": "3", "orig_feedback": "Step by step: ..."}

Nothing but the texts tells the label: not the length of a response, its place or the rubric.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe.data.records import Task as Kind
from tools.seed_data.chance import Chance
from tools.seed_data.reading import CLAIM_TEXTS
from tools.seed_data.tasks import TASKS
from tools.seed_data.tasks_types import THINGS, Task
from tools.seed_data.wording import pairwise_rationale, pointwise_rationale
from tools.seed_data.words import CLOSERS, OPENERS

DEFAULT_SEED = 20261128
COUNTS = {"train": (600, 400), "dev": (100, 100), "test": (200, 200)}
SCORES = (1, 2, 3, 4, 5)
SCORE_PAIRS = tuple((better, worse) for better in SCORES for worse in SCORES if better > worse)
CANDIDATES = 12  # responses drawn for a scored row, from which one of a fitting length is taken
CLAIMING = 20  # of so many training rows, one has a response that claims a verdict
Scored = tuple[Task, int]
Paired = tuple[Task, tuple[int, int], bool]
"""(task, scores of A and B, whether the better one is the longer one)"""


class Writer:
    """Draws rows; remembers every request, so that none comes twice in any file."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed)
        self.requests: set[str] = set()

    def request(self, task: Task) -> str:
        """A request of the task that was not drawn before."""
        while (text := task.ask(self.chance)) in self.requests:
            pass
        self.requests.add(text)
        return text

    def response(self, task: Task, instruction: str, score: int, claim: str = "") -> str:
        """A response with the score, checked from the texts, between chatter and before a claimed verdict."""
        met = self.chance.shuffled([place < score - 1 for place in range(THINGS)])
        core = task.respond(self.chance, instruction, met)
        gap = "\n\n" if "\n" in core else self.chance.pick((" ", "\n")) if core.endswith((".", "?")) else "\n"
        opener = self.chance.pick(OPENERS) if self.chance.flip(0.5) else ""
        closers = " ".join(self.chance.some(CLOSERS, self.chance.below(3)))
        text = gap.join(part for part in (opener, core, closers) if part) + (f" {claim}" if claim else "")
        if task.score(instruction, text) != score:
            raise AssertionError(f"{task.aspect}: meant for {score}: {instruction!r} -> {text!r}")
        return text

    def claim(self, kind: Kind, best: int, labels: Sequence[int]) -> str:
        """A verdict that a response claims, mostly the best one."""
        label = best if self.chance.flip(0.7) else self.chance.pick(labels)
        return self.chance.pick(CLAIM_TEXTS[kind]).format(label=label)

    def scored(self, count: int, claiming: bool) -> list[tuple[Task, dict[str, str]]]:
        """The columns of `count` scored responses, rubric and ids aside."""
        plan = scored_plan(self.chance, count)
        claimed = set(self._claimed([score for _, score in plan], SCORES)) if claiming else set[int]()
        requests, pools = [], []
        for place, (task, score) in enumerate(plan):
            claim = self.claim("pointwise", SCORES[-1], SCORES) if place in claimed else ""
            requests.append(self.request(task))
            pools.append([self.response(task, requests[-1], score, claim) for _ in range(CANDIDATES)])
        responses = [""] * count
        for task in TASKS.values():
            places = [place for place, (other, _) in enumerate(plan) if other is task]
            scores = [plan[place][1] for place in places]
            for place, text in zip(places, unrelated(self.chance, scores, [pools[p] for p in places]), strict=True):
                responses[place] = text
        rows = []
        for place, (task, score) in enumerate(plan):
            found = task.findings(requests[place], responses[place])
            columns = {
                "orig_instruction": requests[place],
                "orig_response": responses[place],
                "orig_reference_answer": "",
                "orig_score": str(score),
                "orig_feedback": pointwise_rationale(self.chance, task, found, place in claimed),
            }
            rows.append((task, columns))
        return rows

    def paired(self, count: int, claiming: bool) -> list[tuple[Task, dict[str, str]]]:
        """The columns of `count` compared pairs, rubric and ids aside."""
        plan = paired_plan(self.chance, count)
        claimed = self._claimed([scores[0] > scores[1] for _, scores, _ in plan], (True, False)) if claiming else []
        rows = []
        for place, (task, scores, longer) in enumerate(plan):
            claims = ["", ""]
            # Four blocks have each combination of the better response and the claiming one.
            claimant = place // (2 * CLAIMING) % 2 if place in claimed else None
            if claimant is not None:
                claims[claimant] = self.claim("pairwise", claimant + 1, (1, 2))
            instruction = self.request(task)
            responses = self._responses(task, instruction, scores, longer, claims)
            found = [task.findings(instruction, response) for response in responses]
            number = None if claimant is None else claimant + 1
            columns = {
                "orig_instruction": instruction,
                "orig_response_A": responses[0],
                "orig_response_B": responses[1],
                "orig_preference": "A" if scores[0] > scores[1] else "B",
                "orig_feedback": pairwise_rationale(self.chance, task, found, number),
            }
            rows.append((task, columns))
        return rows

    def _responses(
        self, task: Task, instruction: str, scores: Sequence[int], longer: bool, claims: Sequence[str]
    ) -> list[str]:
        """One response for each score, of which the better one is the longer (or shorter) in letters and in words."""
        while True:
            texts = [self.response(task, instruction, *of_one) for of_one in zip(scores, claims, strict=True)]
            better, worse = texts if scores[0] > scores[1] else texts[::-1]
            more = (len(better) - len(worse), len(better.split()) - len(worse.split()))
            if all(n > 0 for n in more) if longer else all(n < 0 for n in more):
                return texts

    def _claimed(self, labels: Sequence[int], values: Sequence[int]) -> list[int]:
        """The places of the rows with a claim: one in each block, the labels in turn."""
        blocks = range(len(labels) // CLAIMING)
        return [
            self.chance.pick(
                [p for p in range(b * CLAIMING, (b + 1) * CLAIMING) if labels[p] == values[b % len(values)]]
            )
            for b in blocks
        ]


def unrelated(chance: Chance, scores: Sequence[int], pools: Sequence[Sequence[str]]) -> list[str]:
    """One text of each pool, so that neither their letters nor their words go with the scores."""
    sizes = [[(len(text), len(text.split())) for text in pool] for pool in pools]

    def relation(chosen: Sequence[int]) -> float:
        picked = [of_row[k] for of_row, k in zip(sizes, chosen, strict=True)]
        return max(squared_correlation(scores, lengths) for lengths in zip(*picked, strict=True))

    for _ in range(100):
        chosen = [chance.below(len(pool)) for pool in pools]
        for place in [*range(len(pools))] * 2:
            trials = [[*chosen[:place], k, *chosen[place + 1 :]] for k in range(len(pools[place]))]
            chosen = min(trials, key=relation)
            if relation(chosen) < 0.005:
                return [pool[k] for pool, k in zip(pools, chosen, strict=True)]
    raise AssertionError("no choice of responses breaks the link between length and score")


def squared_correlation(first: Sequence[int], second: Sequence[int]) -> float:
    """Pearson's, squared; whole numbers until the last step, so that it is the same on every machine."""
    n, sums = len(first), (sum(first), sum(second))
    covariance = n * sum(a * b for a, b in zip(first, second, strict=True)) - sums[0] * sums[1]
    spreads = [n * sum(a * a for a in numbers) - total**2 for numbers, total in zip((first, second), sums, strict=True)]
    return covariance**2 / (spreads[0] * spreads[1]) if all(spreads) else 0.0


def scored_plan(chance: Chance, count: int) -> list[tuple[Task, int]]:
    """`count` (task, score): every five rows hold each score once, every round of all tasks each task once.

    In five rounds each task gets each score once.
    """
    plan: list[tuple[Task, int]] = []
    tasks = list(TASKS.values())
    shift = 0
    while len(plan) < count:
        if shift % len(SCORES) == 0:
            tasks = chance.shuffled(tasks)
        by_score = [
            chance.shuffled([task for place, task in enumerate(tasks) if (place + shift) % len(SCORES) == score - 1])
            for score in SCORES
        ]
        for chunk in zip(*by_score, strict=True):
            plan += chance.shuffled(list(zip(chunk, SCORES, strict=True)))
        shift += 1
    return plan[:count]


def paired_plan(chance: Chance, count: int) -> list[Paired]:
    """`count` pairs: every two rows hold one of each preference, every round of all tasks each task once.

    A round holds each order of each pair of scores once, and the better response is the longer one in half of it. In
    four rounds each task has each preference with the longer and with the shorter one.
    """
    plan: list[Paired] = []
    for turn in range(count // len(TASKS)):
        couples = []
        for first_better in (True, False):
            some = [k for k in range(len(TASKS)) if (k + turn) % 2 == first_better]
            drawn = zip(some, chance.shuffled(SCORE_PAIRS), strict=True)
            couples.append(
                chance.shuffled(
                    [
                        (k, scores if first_better else scores[::-1], (k // 2 + turn // 2) % 2 == 0)
                        for k, scores in drawn
                    ]
                )
            )
        tasks = list(TASKS.values())
        for couple in zip(*couples, strict=True):
            plan += [(tasks[k], scores, longer) for k, scores, longer in chance.shuffled(couple)]
    return plan


def _lines(split: str, kind: str, rows: list[tuple[Task, dict[str, str]]]) -> bytes:
    texts = []
    for place, (task, columns) in enumerate(rows, start=1):
        name = f"{split}-{kind}-{place:04d}"
        row = {
            "id": f"sre-seed-{name}",
            "source": "sre-seed",
            "prompt_id": f"prompt-{name}",
            "aspect": task.aspect,
        }
        row["orig_criteria"] = task.criteria
        for score, description in enumerate(task.descriptions, start=1):
            row[f"orig_score{score}_description"] = description
        texts.append(json.dumps(row | columns, ensure_ascii=False) + "\n")
    return "".join(texts).encode("utf-8")


def generate(seed: int) -> dict[str, bytes]:
    """Relative path -> the bytes of a JSONL file, for all six files."""
    if len(TASKS) != 2 * len(SCORE_PAIRS):
        raise ValueError(f"the plans need {2 * len(SCORE_PAIRS)} tasks, not {len(TASKS)}")
    writer = Writer(seed)
    files = {}
    for split, (pointwise, pairwise) in COUNTS.items():
        for kind, rows in (
            ("pointwise", writer.scored(pointwise, split == "train")),
            ("pairwise", writer.paired(pairwise, split == "train")),
        ):
            files[f"{split}/{kind}.jsonl"] = _lines(split, kind, rows)
    return files


def write(folder: Path, seed: int = DEFAULT_SEED) -> None:
    """Writes the six files under `folder`."""
    for name, data in generate(seed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.seed_data.generate OUT_FOLDER")
    write(Path(sys.argv[1]))
