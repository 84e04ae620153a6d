"""A rubric written as one text -> its criteria and the description of each score. Pure.

[Are both items fruits?]
Score 1: Neither is.
Score 2: Both are.

Scores may also be list items, bold, bare numbers, or all on one line. A text whose scale is unclear is an error.
"""

import itertools
import re
from typing import Any

from recipe.errors import SreError

_ITEM = r"(?:^[ \t]*(?:[-*+•>#]+[ \t]+)?)"
_NUMBER = r"[*_]*(?P<score>\d{1,3})(?:[ \t]*(?:points?|stars?))?[*_]*[ \t]*"
_NAME = r"[*_]*(?:score|rating|level|grade)(?:[ \t]+of)?[ \t]*"
_SHAPES = (
    # "Score 1: ..." anywhere, "Score 1 - ..." at the beginning of a line.
    re.compile(rf"(?:{_ITEM}|(?<![\w*_])){_NAME}{_NUMBER}(?:[:=]|(?<=[ \t])[-–—](?=[ \t]))[*_]*", re.I | re.M),
    re.compile(rf"{_ITEM}{_NUMBER}(?:[:=]|(?<=[ \t])[-–—])[*_]*(?=\s|$)", re.I | re.M),
    re.compile(rf"(?<![\w.:/*_-]){_NUMBER}(?::[*_]*[ \t]|=)", re.I),
)
_SCORE = re.compile(
    rf"(?:^|[^\w*_]){_NAME}\d+[*_]*[ \t]*(?:[-–—/,&.)]|to|and|or)?[ \t]*\d*[*_]*[ \t]*[:=]", re.I | re.M
)
_RANGE = re.compile(
    r"\b(?:scales?|scor(?:es?|ed|ing)|rat(?:es?|ed|ings?))\b[^.?!\n]{0,40}?\b"
    r"(\d+)[ \t]*(?:\([^)\n]*\)[ \t]*)?(?:-|–|—|to|\.{2,3})[ \t]*(\d+)\b",
    re.I,
)


def split_rubric(text: str) -> dict[str, Any]:
    """The criteria, and the descriptions by score, of which there may be none.

    Raises SreError (field "rubric") for repeated scores, for gaps, and for a scale other than 1 to 5 that is named
    without descriptions.
    """
    places = next((found for shape in _SHAPES if _tells(found := list(shape.finditer(text)))), [])
    criteria = text[: places[0].start()] if places else text
    criteria = criteria.strip()
    if criteria.startswith("[") and criteria.endswith("]"):
        criteria = criteria[1:-1].strip()
    scores = [int(place["score"]) for place in places]
    if not places:
        _check_unwritten(text)
    elif len(set(scores)) < len(scores):
        raise _error("one score is described twice")
    elif sorted(scores) != list(range(min(scores), max(scores) + 1)):
        raise _error(f"only the scores {', '.join(map(str, sorted(scores)))} are described, which leaves gaps")
    ends = [*(place.start() for place in places[1:]), len(text)]
    levels = {score: text[p.end() : end].strip(" \t\n;,|") for score, p, end in zip(scores, places, ends, strict=False)}
    return {"criteria": criteria, "descriptions": levels}


def _tells(places: list[re.Match[str]]) -> bool:
    """Whether these are descriptions of scores. Bare numbers must count up or down, or they are something else."""
    if not places or places[0].re is _SHAPES[0]:
        return bool(places)
    scores = [int(place["score"]) for place in places]
    steps = {after - before for before, after in itertools.pairwise(scores)}
    return steps in ({1}, {-1})


def _check_unwritten(text: str) -> None:
    named = _RANGE.search(text)
    if _SCORE.search(text) or (named and named.groups() != ("1", "5")):
        raise _error("a scale is named and its scores are not described one by one")


def _error(why: str) -> SreError:
    advice = "write the criteria, then a line for each score such as `Score 1: ...`"
    return SreError(f"{why}; {advice}, or give a rubric with `criteria` and `descriptions`", field="rubric")
