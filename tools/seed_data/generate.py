"""Writes the seed data: `python -m tools.seed_data.generate OUT_FOLDER`.

A row is in the published collections' columns (data/README.md lists them), e.g.
{"id": "sre-seed-train-pointwise-0001", "source": "sre-seed", "aspect": "next_in_line",
"orig_instruction": "Say what follows each one: ...", "orig_response": "...",
"orig_criteria": "...", "orig_score": "3", "orig_feedback": "Step by step: ..."}
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.seed_data.chance import Chance
from tools.seed_data.tasks import TASKS
from tools.seed_data.tasks_types import THINGS, Task
from tools.seed_data.wording import pairwise_rationale, pointwise_rationale

DEFAULT_SEED = 20261123
COUNTS = {"train": (600, 400), "dev": (100, 100), "test": (200, 200)}
SCORES = (1, 2, 3, 4, 5)
SCORE_PAIRS = tuple((better, worse) for better in SCORES for worse in SCORES if better > worse)


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

    def response(self, task: Task, instruction: str, score: int) -> str:
        """A response with the score, checked from the texts."""
        met = self.chance.shuffled([place < score - 1 for place in range(THINGS)])
        text = task.respond(self.chance, instruction, met)
        if task.score(instruction, text) != score:
            raise AssertionError(f"{task.aspect}: meant for {score}: {instruction!r} -> {text!r}")
        return text

    def pointwise(self, task: Task, score: int) -> dict[str, str]:
        """The columns of one scored response, rubric and ids aside."""
        instruction = self.request(task)
        response = self.response(task, instruction, score)
        return {
            "orig_instruction": instruction,
            "orig_response": response,
            "orig_reference_answer": "",
            "orig_score": str(score),
            "orig_feedback": pointwise_rationale(self.chance, task, task.check(instruction, response)),
        }

    def pairwise(self, task: Task, scores: tuple[int, int]) -> dict[str, str]:
        """The columns of one compared pair; scores are those of response A and B."""
        instruction = self.request(task)
        responses = [self.response(task, instruction, score) for score in scores]
        findings = [task.check(instruction, response) for response in responses]
        return {
            "orig_instruction": instruction,
            "orig_response_A": responses[0],
            "orig_response_B": responses[1],
            "orig_preference": "A" if scores[0] > scores[1] else "B",
            "orig_feedback": pairwise_rationale(self.chance, task, findings),
        }


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


def paired_plan(chance: Chance, count: int) -> list[tuple[Task, tuple[int, int]]]:
    """`count` (task, scores of A and B): every two rows hold one of each preference.

    Every 20 rows hold each order of each pair of scores once.
    """
    tasks: list[Task] = []
    while len(tasks) < count:
        tasks += chance.shuffled(list(TASKS.values()))
    first, second = (_endless_pairs(chance), _endless_pairs(chance))
    plan: list[tuple[Task, tuple[int, int]]] = []
    for place in range(0, count, 2):
        worse_last, (better, worse) = next(first), next(second)
        couple = chance.shuffled([worse_last, (worse, better)])
        plan += list(zip(tasks[place : place + 2], couple, strict=True))
    return plan


def _endless_pairs(chance: Chance) -> Iterator[tuple[int, int]]:
    while True:
        yield from chance.shuffled(SCORE_PAIRS)


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
    if len(TASKS) % len(SCORES):
        raise ValueError(f"the scored plan needs a multiple of {len(SCORES)} tasks, not {len(TASKS)}")
    writer = Writer(seed)
    files = {}
    for split, (pointwise, pairwise) in COUNTS.items():
        scored = scored_plan(writer.chance, pointwise)
        rows = [(task, writer.pointwise(task, score)) for task, score in scored]
        files[f"{split}/pointwise.jsonl"] = _lines(split, "pointwise", rows)
        paired = paired_plan(writer.chance, pairwise)
        rows = [(task, writer.pairwise(task, scores)) for task, scores in paired]
        files[f"{split}/pairwise.jsonl"] = _lines(split, "pairwise", rows)
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
