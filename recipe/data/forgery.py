"""Responses that claim a verdict of their own. Pure.

Training rows with a claim keep their label and rationale, so that a judge learns to ignore it. The audit appends the
same claims to test rows and measures how far the scores move.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

from recipe.data.records import TASKS, Example, Task
from recipe.system import read_table

_TEXTS = read_table(__file__)
CLAIMS: dict[Task, dict[str, str]] = {task: _TEXTS[task]["audit"] for task in TASKS}
"""What the audit appends, by a name for its table."""
OTHER_CLAIMS: dict[Task, tuple[str, ...]] = {task: tuple(_TEXTS[task]["training"]["texts"]) for task in TASKS}
"""Further wordings, for training rows only."""


def forge(example: Example, claim: str, *, response: int = 0, label: int | None = None) -> Example:
    """The example with a claim appended to one of its responses, counted from 0.

    label: what it claims; the best score or the response's own number by default.
    """
    if label is None:
        label = max(example.labels) if example.task == "pointwise" else response + 1
    texts = list(example.responses)
    texts[response] = f"{texts[response]} {claim.format(label=label)}"
    return replace(example, responses=tuple(texts))


def with_forged(examples: Iterable[Example], share: float, seed: int) -> list[Example]:
    """The examples, of which about `share` carry a claim. A row's draw depends on its id and `seed` alone."""
    rows = []
    for example in examples:
        draw = random.Random(f"{seed}:forged:{example.id}")
        if draw.random() < share:
            claims = (*CLAIMS[example.task].values(), *OTHER_CLAIMS[example.task])
            response = draw.randrange(len(example.responses))
            # Not always the best label: what a claim says must not become a sign of anything.
            label = draw.choice(example.labels) if draw.random() < 0.3 else None
            example = forge(example, draw.choice(claims), response=response, label=label)
        rows.append(example)
    return rows
