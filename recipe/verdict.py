"""The one grammar of a judgement's text: `<rationale> [RESULT] <label>`. Pure; never sees a prompt. See verdict.toml.

`format_verdict` writes it. `parse_verdict` reads it back, and reads what models that were not trained on it write
instead: `[RESULT]: 4`, `**[RESULT] 4**`, a line break or an odd blank before the label, `4.0` for 4, reasoning in
`<think>` tags before the rationale. What is not a verdict is malformed (None); no label is ever guessed.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from recipe.data.patterns import compiled
from recipe.system import read_table

MARKER = "[RESULT]"
_TABLE = read_table(__file__)
_VERDICT, _AWAITS, _OPENS, _OPENED, _CLOSES = (
    compiled(pattern, _TABLE["parts"]) for pattern in _TABLE["patterns"].values()
)


class Verdict(NamedTuple):
    """rationale: the text before the marker, stripped ("" in label-only mode). label: one of the allowed."""

    rationale: str
    label: int


def format_verdict(rationale: str, label: int) -> str:
    """The text a judge is trained to write; without a rationale, the label alone."""
    return f"{rationale} {MARKER} {label}" if rationale else f"{MARKER} {label}"


def parse_verdict(text: str, labels: Sequence[int], *, need_rationale: bool = True) -> Verdict | None:
    """Read the last well-formed verdict after the model's reasoning; None when there is none.

    Its label is one of `labels`. need_rationale: without a rationale before it a verdict is malformed too.
    """
    found = find_verdict(text, labels)
    if found is None:
        return None
    rationale = text[answer_begin(text) : found.start()].strip()
    if need_rationale and not rationale:
        return None
    return Verdict(rationale, int(found["label"]))


def find_verdict(text: str, labels: Sequence[int]) -> re.Match[str] | None:
    """Where the verdict that `parse_verdict` reads stands; its group "label" is the label."""
    if open_reasoning(text):
        return None
    found = [match for match in _VERDICT.finditer(text, answer_begin(text)) if int(match["label"]) in labels]
    return found[-1] if found else None


def awaits_label(text: str) -> bool:
    """Whether `text` ends where a label may come next: after a marker, and not within reasoning."""
    return bool(_AWAITS.search(text, max(0, len(text) - 64))) and not open_reasoning(text)


def answer_begin(text: str) -> int:
    """The length of the reasoning that `text` begins with, closing tag included; 0 without any."""
    return max((match.end() for match in _CLOSES.finditer(text)), default=0)


def open_reasoning(text: str) -> str:
    """The tag of reasoning that has begun and not ended, such as `<think>`; "" where there is none."""
    found = _OPENS.search(text, answer_begin(text))
    return found[1] if found else ""


def opened_at_end(prompt: str) -> str:
    """The tag of reasoning, with the blanks after it, that a prompt ends with; "" without one."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def gbnf(labels: Sequence[int]) -> str:
    """llama.cpp's grammar of the same output, for programs that decode with one. The rationale holds no bracket."""
    choices = " | ".join(f'"{label}"' for label in labels)
    return f'root ::= rationale " {MARKER} " label\nrationale ::= [^[\\]]+\nlabel ::= {choices}\n'
