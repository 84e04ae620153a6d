"""What is measured: prompts of the judge on the seed data, with a fixed number of new tokens each. Pure.

Nothing is drawn at random, so every run and every peer sees the same prompts. `figures.py` counts them, `measure.py`
runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from recipe.data.examples import read_examples
from recipe.data.records import Example, Message, Task, exchanged
from recipe.errors import SreError
from recipe.prompts import Prompts
from recipe.verdict import MARKER

NAMES = ("a", "b", "c", "d")
SAMPLES, SAMPLED_PROMPTS, ROWS, PAIRS = 10, 24, 200, 100
SHORTEST, LONGEST = 400, 650
"""Workload a: the least and the greatest length (tokens) that a prompt is filled up to; the last turn goes beyond."""
SAMPLED_TOKENS = (64, 96, 128)
JUDGED_TOKENS = 64

Encode = Callable[[Sequence[Message], str], list[int]]
"""(messages, the answer's beginning) -> token ids."""


@dataclass(frozen=True)
class Item:
    """One prompt. ids: its tokens, the label's marker included where only the label is asked for. new_tokens: of each
    sample, end tokens ignored."""

    id: str
    messages: tuple[Message, ...]
    labels: tuple[int, ...]
    ids: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True)
class Workload:
    """`samples` draws of every item at `temperature`. label_only: the one new token is the label."""

    name: str
    title: str
    items: tuple[Item, ...]
    samples: int = 1
    temperature: float = 0.0
    label_only: bool = False

    @property
    def new_tokens(self) -> int:
        """Of all samples of all items."""
        return self.samples * sum(item.new_tokens for item in self.items)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of every sample's prompt, as if nothing were shared."""
        return self.samples * sum(len(item.ids) for item in self.items)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(len(item.ids) + item.new_tokens for item in self.items)


def make_workload(name: str, rows: int | None, prompts: Prompts, encode: Encode) -> Workload:
    """One of NAMES, of at most `rows` prompts (pairs in c); None takes all. Raises SreError for another name.

    a: samples of long prompts, as when training data are drawn. b: greedy judgements of rows under one rubric. c:
    greedy judgements of pairs in both orders. d: the label alone.
    """
    if name not in NAMES:
        raise SreError(f"no workload {name!r}; expected some of {', '.join(NAMES)}", field="workload")
    if name == "a":
        return _sampled(min(rows or SAMPLED_PROMPTS, SAMPLED_PROMPTS), _Maker(prompts, encode))
    make = _Maker(prompts, encode, label_only=name == "d")
    items = [make.item(example, JUDGED_TOKENS) for example in _judged(name, rows)]
    counted = f"{len(items) // 2} pairs in both orders" if name == "c" else f"{len(items)} rows"
    manner = {"b": f"one rubric, {JUDGED_TOKENS} tokens", "c": f"{JUDGED_TOKENS} tokens", "d": "label only"}[name]
    return Workload(name, f"{counted}, {manner}", tuple(items), label_only=make.label_only)


def cold_start(prompts: Prompts, encode: Encode, *, label_only: bool) -> Workload:
    """The first judgement of a process: one prompt of SHORTEST tokens, with JUDGED_TOKENS new ones or the label."""
    make = _Maker(prompts, encode, label_only)
    example, *others = read_examples("seed-data", task="pointwise", limit=SAMPLED_PROMPTS)
    item = make.item(make.lengthened(example, others, SHORTEST), JUDGED_TOKENS)
    name, kind = ("cold-label", "label only") if label_only else ("cold-full", f"{JUDGED_TOKENS} tokens")
    title = f"first judgement of a process, {len(item.ids)}-token prompt, {kind}"
    return Workload(name, title, (item,), label_only=label_only)


@dataclass(frozen=True)
class _Maker:
    """Examples -> items."""

    prompts: Prompts
    encode: Encode
    label_only: bool = False

    def item(self, example: Example, new_tokens: int) -> Item:
        messages = self.prompts.judge(example, label_only=self.label_only)
        ids = tuple(self.encode(messages, MARKER if self.label_only else ""))
        return Item(example.id, messages, example.labels, ids, 1 if self.label_only else new_tokens)

    def lengthened(self, example: Example, others: Sequence[Example], target: int) -> Example:
        """`example` after as many turns of `others` as its prompt needs to have `target` tokens."""
        turns: tuple[Message, ...] = ()
        for other in others:
            longer = replace(example, conversation=(*turns, *example.conversation))
            if len(self.item(longer, 0).ids) >= target:
                return longer
            turns = (*turns, *other.conversation, Message("assistant", other.responses[0]))
        return replace(example, conversation=(*turns, *example.conversation))


def _sampled(count: int, make: _Maker) -> Workload:
    rows = read_examples("seed-data", task="pointwise", split="train")
    items = []
    for index in range(count):
        # 7 and 24 have no common factor: a short run has short and long prompts too.
        step = index * 7 % SAMPLED_PROMPTS / (SAMPLED_PROMPTS - 1)
        others = rows[SAMPLED_PROMPTS * (index + 1) % len(rows) :]
        example = make.lengthened(rows[index], others, SHORTEST + round(step * (LONGEST - SHORTEST)))
        items.append(make.item(example, SAMPLED_TOKENS[index % len(SAMPLED_TOKENS)]))
    lengths = sorted(len(item.ids) for item in items)
    asked = f"{SAMPLED_TOKENS[0]}-{SAMPLED_TOKENS[-1]} tokens"
    title = f"{SAMPLES} samples of {count} prompts of {lengths[0]}-{lengths[-1]} tokens, {asked}"
    return Workload("a", title, tuple(items), samples=SAMPLES, temperature=1.0)


def _judged(name: str, rows: int | None) -> Iterator[Example]:
    task: Task = "pairwise" if name == "c" else "pointwise"
    most = PAIRS if name == "c" else ROWS
    examples = read_examples("seed-data", task=task, split="test", limit=min(rows or most, most))
    for example in examples:
        yield replace(example, rubric=examples[0].rubric) if name == "b" else example
        if name == "c":
            yield exchanged(example)
