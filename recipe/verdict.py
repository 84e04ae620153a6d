"""The one grammar of a judgement's text: `<rationale> [RESULT] <label>`. Pure; never sees a prompt.

`format_verdict` and `parse_verdict` are exact inverses for a stripped, non-empty rationale. What can't be read is
malformed (None), never a guessed label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MARKER = "[RESULT]"
# A label ends the number: "3.5", "35", "3/5" and "3rd" are no labels, "3." and "3)" are.
_VERDICT = re.compile(r"\[RESULT\][ \t]*(\d{1,3})(?!\w|[.,/]\d|/)")
_RATING = re.compile(r"Judgment rating:[ \t]*([1-5])(?!\w|[.,/]\d|/)")
_PICK = re.compile(r'\[\s*"ITEM(\d{1,3})"\s*,\s*"ITEM(\d{1,3})"\s*\]')


class Verdict(NamedTuple):
    """rationale: the text before the marker, stripped ("" in label-only mode). label: one of the allowed."""

    rationale: str
    label: int


def format_verdict(rationale: str, label: int) -> str:
    """The text a judge is trained to write; without a rationale, the label alone."""
    return f"{rationale} {MARKER} {label}" if rationale else f"{MARKER} {label}"


def parse_verdict(text: str, labels: Sequence[int], *, need_rationale: bool = True) -> Verdict | None:
    """Read the last well-formed `[RESULT] <label>` in what the model wrote; None when there is none.

    A well-formed marker with a label that is not allowed (a 6, a 3 in a pairwise judgement) is not well-formed.
    With `need_rationale` a verdict without one is malformed too (the label must be conditioned on it).
    """
    found = [m for m in _VERDICT.finditer(text) if int(m.group(1)) in labels]
    if not found:
        return None
    rationale = text[: found[-1].start()].strip()
    if need_rationale and not rationale:
        return None
    return Verdict(rationale, int(found[-1].group(1)))


def label_span(text: str, labels: Sequence[int]) -> tuple[int, int] | None:
    """Where the label that `parse_verdict` reads stands in `text`: (start, end) in characters, or None."""
    found = [m for m in _VERDICT.finditer(text) if int(m.group(1)) in labels]
    return found[-1].span(1) if found else None


def parse_rating(text: str) -> int | None:
    """The last `Judgment rating: <1-5>` of a self-assessment (A.1.4), else None."""
    found = _RATING.findall(text)
    return int(found[-1]) if found else None


def parse_pick(text: str, items: int) -> tuple[int, int] | None:
    """The last `["ITEMx", "ITEMy"]` of a meta-judge (A.1.6) as 0-based (best, worst); None unless two different,
    existing items are named."""
    for best, worst in reversed([(int(a) - 1, int(b) - 1) for a, b in _PICK.findall(text)]):
        if best != worst and 0 <= best < items and 0 <= worst < items:
            return best, worst
    return None


def gbnf(labels: Sequence[int]) -> str:
    """llama.cpp's grammar of the same output, for programs that decode with one. The rationale holds no bracket."""
    choices = " | ".join(f'"{label}"' for label in labels)
    return f'root ::= rationale " {MARKER} " label\nrationale ::= [^[\\]]+\nlabel ::= {choices}\n'


def pick_gbnf(items: int) -> str:
    """Grammar of a meta-judge's answer over `items` rationales: two different item numbers."""
    pairs = [f'"[\\"ITEM{a}\\", \\"ITEM{b}\\"]"' for a in range(1, items + 1) for b in range(1, items + 1) if a != b]
    return f"root ::= {' | '.join(pairs)}\n"
