"""The one grammar of a judgement's text: `<rationale> [RESULT] <label>`. Pure; never sees a prompt.

`format_verdict` writes it. `parse_verdict` reads it back, and reads what models that were not trained on it write
instead: `[RESULT]: 4`, `**[RESULT] 4**`, a line break or an odd blank before the label, `4.0` for 4, reasoning in
`<think>` tags before the rationale. What is not a verdict is malformed (None); no label is ever guessed.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

MARKER = "[RESULT]"
# A quotation mark before the marker: the text speaks about a verdict, it does not give one.
_BEGIN = r"(?<![\"'`“‘«‹„*_])[*_]*\[RESULT\]"
# Between marker and label: blanks of any kind (a zero-width one too), a colon, emphasis, the prompt's own "<".
_GAP = r"[\s\u200b-\u200d\u2060\ufeff:*_<]*"
# The number ends with the label: 3.5, 35, 3/5, 3rd, 3-4 and "3?" give no label; 3.0, "3." and "3)" do.
_END = r"(?![^\W_]|[%+?]|[.,]\d|[ \t]*/|[ \t]*[-–—~][ \t]*\d)"
_VERDICT = re.compile(rf"{_BEGIN}{_GAP}(?P<label>0|[1-9][0-9]{{0,2}})(?:\.0+)?{_END}")
_AWAITS = re.compile(rf"{_BEGIN}{_GAP}$")
_RATING = re.compile(r"Judgment rating:[ \t]*([1-5])(?!\w|[.,/]\d|/)")
_PICK = re.compile(r'\[\s*"ITEM(\d{1,3})"\s*,\s*"ITEM(\d{1,3})"\s*\]')
_TAG = r"(?:seed:)?(?:think(?:ing)?|thought|reasoning)"
_OPENS = re.compile(rf"^[ \t]*(<{_TAG}>|\[THINK\])", re.IGNORECASE | re.MULTILINE)
_OPENED = re.compile(rf"(?:<{_TAG}>|\[THINK\])\s*$", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_TAG}>|\[/THINK\]", re.IGNORECASE)


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


def gbnf(labels: Sequence[int]) -> str:
    """llama.cpp's grammar of the same output, for programs that decode with one. The rationale holds no bracket."""
    choices = " | ".join(f'"{label}"' for label in labels)
    return f'root ::= rationale " {MARKER} " label\nrationale ::= [^[\\]]+\nlabel ::= {choices}\n'
