"""The names of the two responses in a pairwise rationale: rewritten to the prompt's, exchanged, and read back.

The prompt has RESPONSE 1 and RESPONSE 2. Published rationales have "Response A" and "Assistant B", and a judge trained
on them learns that words and label are unrelated. So rationales are rewritten when they are read:

    "Response A's answer is shorter; Assistant B is the better one."
    "Response 1's answer is shorter; Response 2 is the better one."
"""

import re
from collections.abc import Callable

_NUMBER = {"A": "1", "B": "2", "1": "1", "2": "2"}
_NOUN = r"(?:response|answer|assistant|candidate|output|completion|reply|model|option)"
_END = r"(?![\w+#*&]|[.,]\d|-\w|['’]?\()"  # "Response 1.5", "B-tree", "A+" and "f(A)" name no response
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)

# "Response A", "answer (B)", "Responses A and B", "Response 1 (A)".
_NAMED = re.compile(
    rf"\b(?P<noun>{_NOUN}s?)(?P<gap>\s+[(#]?)(?P<one>[ABab12]){_END}"
    rf"(?P<same>\s+\([ABab12]\))?(?:(?P<joint>\s*(?:and|or|&|/|vs\.?|versus|over)\s+)(?P<two>[ABab12]){_END})?",
    re.IGNORECASE,
)
# A bare letter counts only where it can be neither an article nor the letter of a list.
_BARE = (
    re.compile(rf"(?<![\w&/(.])([AB])(\s+(?:and|or|over|vs\.?|versus)\s+)([AB]){_END}(?!\s+\([ABab12]\))"),
    re.compile(rf"(\b(?:than|over|prefer|prefers|preferred|choose|favou?rs?)\s+)([AB])(?=\s*(?:[.;!?]|$)){_END}"),
    re.compile(r"(?<![\w&/(.])([AB])(?=['’]s\s+(?:response|answer|output|explanation))"),
    re.compile(
        r"(^|[.,;:!?]\s+|\b(?:that|and|but|because|while|whereas)\s+)([AB])"
        r"(?=\s+(?:is|was)\s+(?:(?:clearly|slightly|much|far|the)\s+)?"
        r"(?:better|worse|stronger|weaker|superior|inferior|more|less)\b)"
    ),
)
_EXCHANGED = str.maketrans("12", "21")
_OURS = re.compile(
    rf"\bresponses?\s+[(#]?[12]{_END}(?:\s*(?:and|or|&|/|vs\.?|versus|over)\s+[12]{_END})?", re.IGNORECASE
)


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


_X = r"responses? [(#]?(?P<x>[12])(?:['’]s)?\b"
_UP = (
    r"(?:better|best|stronger|superior|preferable|preferred|favou?red|winner|chosen|clearer|the more|"
    r"more (?!or )\w+|higher|highest|outperform\w*|wins?|excels|surpass\w*|edges? out|has the edge)"
)
_DOWN = r"(?:worse|worst|weaker|inferior|poorer|less (?!than)\w+|lower|lowest|lacks?|not as|falls? short|fails?|loses)"
_GAP = r"(?:(?!responses? [(#]?[12]\b)[^.;\n]){0,160}?"
_VERB = r"\b(?:prefer\w*|choose|favou?r\w*|pick|select|in favou?r of|winner is|winner:|goes to|better is)"
_BEST = r"\b(?:better|stronger|superior|preferred|best) (?:response|answer|one|choice|option)(?: overall| here)*"
_TAKE = r"\b(?:choose|choice is|pick|prefer) the (?:answer|response|one) (?:of|from|by|provided by|given by)"
# (pattern, whether the response it names wins), tried in this order at each place.
_STATEMENTS = tuple(
    (re.compile(pattern, re.IGNORECASE), wins)
    for pattern, wins in (
        (rf"{_VERB}\W+(?:the )?{_X}", True),
        (rf"{_BEST} (?:is|would be)\W+{_X}", True),
        (rf"{_TAKE} {_X}", True),
        (rf"{_X}{_GAP}\b(?:is|was|are|does|did)(?: not|n['’]t) (?:as|so|quite as) {_GAP}", False),
        (rf"{_X}{_GAP}\b{_UP}\b", True),
        (rf"{_X}{_GAP}\b{_DOWN}\b", False),
    )
)
_SCORES = re.compile(
    rf"{_X}{_GAP}[:\s(](?P<score>10|\d(?:\.\d)?)(?:\s*/\s*10|\s+out of\s+10|\b)(?![.,]?\d)", re.IGNORECASE
)


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
