"""The names of the two responses in a pairwise rationale: rewritten to the prompt's, exchanged, and read back.

The prompt has RESPONSE 1 and RESPONSE 2. Published rationales have "Response A" and "Assistant B", and a judge trained
on them learns that words and label are unrelated. So rationales are rewritten when they are read:

    "Response A's answer is shorter; Assistant B is the better one."
    "Response 1's answer is shorter; Response 2 is the better one."
"""

import re
from collections.abc import Callable
from functools import partial

from recipe.data.patterns import compiled
from recipe.system import read_table

_NUMBER = {"A": "1", "B": "2", "1": "1", "2": "2"}
_EXCHANGED = str.maketrans("12", "21")
_TABLE = read_table(__file__)
_compiled = partial(compiled, parts=_TABLE["parts"])
_NAMED, _OURS, _CODE, _SCORES = (_compiled(_TABLE[name]) for name in ("named", "ours", "code", "scores"))
_BARE = [_compiled(pattern) for pattern in _TABLE["bare"]]
_STATEMENTS = [(_compiled(found["pattern"]), found["wins"]) for found in _TABLE["statements"]]


def to_prompt_names(rationale: str) -> str:
    """The rationale with the prompt's names. Code stays as it is, and so does an "A" that may be an article."""
    return _outside_code(rationale, _rename)


def exchange_names(rationale: str) -> str:
    """The rationale of the same pair in the other order: 1 for 2 and 2 for 1. Twice gives the text back."""
    return _outside_code(rationale, lambda text: _OURS.sub(lambda match: match[0].translate(_EXCHANGED), text))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _rename(text: str) -> str:
    def named(match: re.Match[str]) -> str:
        noun, one = match["noun"], match["one"]
        if one not in _NUMBER or (match["two"] or "A") not in _NUMBER:
            return match.group()  # a small "a" is an article
        # "option 2" and "model 1" may well be things that the responses speak of.
        if one in "12" and noun.lower().rstrip("s") in ("option", "model", "output"):
            return match.group()
        word = "response" + ("s" if noun.lower().endswith("s") else "")
        word = word.upper() if noun.isupper() else word.capitalize() if noun[0].isupper() else word
        second = match["joint"] + _NUMBER[match["two"]] if match["two"] else ""
        return f"{word}{match['gap']}{_NUMBER[one]}{second}"

    text = _NAMED.sub(named, text)
    for bare in _BARE:
        text = bare.sub(lambda m: "".join(f"Response {_NUMBER[x]}" if x in ("A", "B") else x for x in m.groups()), text)
    return text


def stated_winner(rationale: str) -> int | None:
    """Which response a rationale, in the prompt's names, calls the better one: 1, 2, or None where it doesn't say.

    Scores for both responses decide, else the last sentence that compares them.
    """
    scores = {match["x"]: float(match["score"]) for match in _SCORES.finditer(rationale)}
    if len(scores) == 2 and scores["1"] != scores["2"]:
        return 1 if scores["1"] > scores["2"] else 2
    for sentence in reversed(re.split(r"(?<=[.!?;])\s+|\n+", rationale)):
        found = [
            (match.start(), order, int(match["x"]) if wins else 3 - int(match["x"]))
            for order, (pattern, wins) in enumerate(_STATEMENTS)
            for match in pattern.finditer(sentence)
        ]
        if found:
            return min(found)[2]
    return None
