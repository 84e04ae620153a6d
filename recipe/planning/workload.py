"""How much a run has to do: rows, tokens and pairs of each stage, read from the data's files, nothing fetched."""

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from recipe.config import Config
from recipe.data.files import SEED_PARTS
from recipe.data.records import Task
from recipe.data.selection import Selection, Split
from recipe.errors import SreError
from recipe.prompts import Prompts
from recipe.system import user_path
from recipe.verdict import format_verdict

CHARS_PER_TOKEN = 3.5  # the seed data under SmolLM2's tokeniser; English prose alone has 4 and more
TEMPLATE_TOKENS = 25  # what a chat template adds to a system and a user turn
MEASURED_ROWS = 100
HELD_OUT: tuple[Split, Split] = ("dev", "test")


@dataclass(frozen=True)
class TaskLoad:
    """One task's rows, and their tokens."""

    train: int
    sft: int  # of the training rows
    dev: int
    test: int
    prompt: float  # mean tokens
    completion: float
    longest: int  # tokens of a row
    unexplained: int = 0  # SFT's rows that a model has to write a rationale for


# Not on this machine, so taken from their data cards (the rows) and from samples (the tokens, estimated).
PUBLISHED = {
    "prometheus-eval/Feedback-Collection": TaskLoad(99_952, 0, 0, 0, 800, 130, 2048),
    "prometheus-eval/Preference-Collection": TaskLoad(199_760, 0, 0, 0, 1000, 250, 2560),
}


@dataclass(frozen=True)
class Workload:
    """A run's rows by task, and what follows from its settings."""

    config: Config
    tasks: dict[Task, TaskLoad]

    def sft(self, task: Task) -> tuple[int, float, float]:
        """(rows, all tokens, those of completions) of SFT: each order of a pair is a row, tokens are of all epochs."""
        load, settings = self.tasks[task], self.config.sft
        rows = load.sft * (2 if task == "pairwise" and settings.both_orders else 1)
        completion = min(load.completion, 10) if settings.label_only else load.completion
        tokens = min(load.prompt + completion, self.config.model.max_length)
        return rows, rows * settings.epochs * tokens, rows * settings.epochs * completion

    def inputs(self, t: int) -> dict[Task, int]:
        """Inputs that iteration t samples, by task."""
        wanted, pairs = self.config.sample.inputs_of(t), self.config.sample.pairwise_share
        shares = {"pointwise": 1 - pairs, "pairwise": pairs} if len(self.tasks) > 1 else {}
        return {task: min(round(wanted * shares.get(task, 1)), load.train) for task, load in self.tasks.items()}

    def pairs(self, t: int) -> int:
        """Preference pairs expected of iteration t: four of five inputs give as many as they may."""
        curate, n = self.config.curate, self.config.sample.n
        each = 0.8 * min(curate.max_pairs_per_input or math.inf, 0.1 * n * n)
        return max(1, round(min(curate.max_pairs or math.inf, each * sum(self.inputs(t).values()))))

    def mean(self, counts: Mapping[Task, int]) -> tuple[float, float]:
        """(prompt, completion) tokens of a row, over rows of both tasks in these numbers."""
        total = max(1, sum(counts.values()))
        loads = [(load, counts.get(task, 0) / total) for task, load in self.tasks.items()]
        return sum(load.prompt * part for load, part in loads), sum(load.completion * part for load, part in loads)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that is not left out."""
        return min(self.config.model.max_length, max(load.longest for load in self.tasks.values()))


def read_workload(config: Config, selection: Selection) -> Workload:
    """Count and measure the rows of a selection.

    Raises SreError for data that is not on this machine and not in the table above.
    """
    file, tokenizer = user_path(config.model.source) / "tokenizer.json", None
    if file.is_file() and importlib.util.find_spec("tokenizers"):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))

    def count(text: str) -> int:
        if tokenizer is None:
            return math.ceil(len(text) / CHARS_PER_TOKEN)
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return Workload(config, {task: _load(config, selection, task, count) for task in config.data.tasks})


def _load(config: Config, selection: Selection, task: Task, count: Callable[[str], int]) -> TaskLoad:
    source = config.data.source(task)
    if source in PUBLISHED:
        return _held_out(config, task, PUBLISHED[source])
    if source and source not in SEED_PARTS and not user_path(source).exists():
        raise SreError(
            f"{source!r} is not on this machine, and nothing is downloaded to count its rows; the data sets whose size "
            f"is known: seed-data, {', '.join(PUBLISHED)}",
            field=f"data.{task}",
        )

    train = selection.rows("train", task, limited=False)
    if not train:
        raise SreError(f"no training rows in {source!r}", field=f"data.{task}")
    sft = selection.sft_rows(task)
    unexplained = config.sft.bootstraps and sum(not row.rationale.strip() for row in sft)
    prompts, sizes = Prompts(), []
    for row in train[:: max(1, len(train) // MEASURED_ROWS)]:
        shown = "\n".join(message.content for message in prompts.judge(row))
        label = row.label if row.label is not None else row.labels[0]
        judgement = format_verdict(row.rationale.strip() or "-", label)
        sizes.append((count(shown) + TEMPLATE_TOKENS, count(judgement) + 1))
    prompt, completion = (sum(side) / len(sizes) for side in zip(*sizes, strict=True))
    if unexplained:
        completion += unexplained / len(sft) * config.bootstrap.max_tokens / 2
    dev, test = (len(selection.rows(split, task)) for split in HELD_OUT)
    longest = max(map(sum, sizes))
    return TaskLoad(len(train), len(sft), dev, test, prompt, completion, longest, int(unexplained))


def _held_out(config: Config, task: Task, load: TaskLoad) -> TaskLoad:
    """A published collection, which has training rows only, with dev and test rows split off as the settings say."""
    train = load.train
    kept: dict[str, int] = {}
    for split in HELD_OUT:
        share = getattr(config.data, f"{split}_share") if getattr(config.data, f"{split}_split") else 0.0
        limit = getattr(config.data, f"{split}_{task}")
        taken = round(share * load.train)
        train -= taken
        kept[split] = taken if limit is None else min(taken, limit)
    sft = min(train, getattr(config.data, f"train_{task}") or train)
    return replace(load, train=train, sft=sft, **kept)
