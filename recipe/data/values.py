"""What a cell holds: texts, labels, turns and rubrics, in the forms that people's files have. Pure; reads no file."""

import ast
import hashlib
import itertools
import json
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from numbers import Integral, Real
from typing import Any

from recipe.data.patterns import compiled
from recipe.data.records import Message, Rubric
from recipe.errors import SreError
from recipe.system import read_table

_TABLE = read_table(__file__)
ROLES = {name: role for role, names in _TABLE["roles"].items() for name in names}
"""Role in a file -> role in a prompt."""
TIE = 0  # what `to_preference` gives for a tie
COUNTING = "0 and 1"
"""How an error about a preference begins where the column's values can be read in two ways."""
_COUNTED = (
    "--map better_index=COLUMN takes 0 as the first response, 1 as the second and 2 as a tie, "
    "--map first_is_better=COLUMN takes 1 as yes; if 0 is a tie, write tie"
)
OFF_SCALE = "off the scale"
"""How an error about a number that is no label begins: all numbers of the column may mean something else."""
MOST_SCORE = 10
_WHOLE = re.compile(r"[0-9]{1,9}(?:\.0*|,00?)?")  # "4,0" is what tables with semicolons have
_PYTHON_TURNS = re.compile(r"\s*\[\s*\{\s*'(?:role|content|from|value)'\s*:")
_TRANSCRIPT = re.compile(r"\n\nHuman:.*\n\nAssistant:", re.S)
_HALF = re.compile("[\ud800-\udfff]")
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_LEVEL = re.compile(r"(?:orig_)?score_?(\d{1,2})_description")
_NOTHING = set(_TABLE["nothing"])
_PREFERENCES = {word: int(label) for label, words in _TABLE["preferences"].items() for word in words}
_compiled = partial(compiled, parts=_TABLE["rubric"]["parts"])
_SHAPES = [_compiled(shape) for shape in _TABLE["rubric"]["shapes"]]
_SCORED, _PART, _RANGE = (_compiled(_TABLE["rubric"][name]) for name in ("scored", "part", "range"))
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 50


def missing(value: object) -> bool:
    """Whether there is no value: None, NaN, and pandas' NaT and NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, Real) and bool(value != value)


def no_label(value: object) -> bool:
    """`missing`, or a text that stands for it in a column of labels."""
    return missing(value) or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def to_text(value: object, field: str, expected: str = "a string") -> str:
    """The value, if it is a string that can be written as UTF-8 and has no NUL. Raises SreError otherwise."""
    if not isinstance(value, str):
        raise SreError(f"expected {expected}, not {type(value).__name__} {short(value)}", field=field)
    if "\0" in value:
        raise SreError("expected text without NUL characters", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = ascii(value[error.start])
        message = f"expected valid Unicode; character {error.start + 1} is {found}. Save the file as UTF-8"
        raise SreError(message, field=field) from None
    return value


def whole(value: object) -> int | None:
    """A whole number of any type or as text ("4", "4.0"); None for anything else."""
    if isinstance(value, str):
        return int(re.split("[.,]", value)[0]) if _WHOLE.fullmatch(value.strip()) else None
    if isinstance(value, Integral):
        return None if isinstance(value, bool) else int(value)
    number = float(value) if isinstance(value, Real | Decimal) else 0.5
    return int(number) if number.is_integer() else None


def to_score(value: object, scores: Sequence[int], field: str) -> int | None:
    """A score of the scale; None where it is missing. Raises SreError for anything else."""
    if no_label(value):
        return None
    score = whole(value)
    if score not in scores:
        off = "" if as_number(value) is None else f"{OFF_SCALE}: "
        gaps = len(scores) <= scores[-1] - scores[0]
        which = f"of {', '.join(map(str, scores))}" if gaps else f"from {scores[0]} to {scores[-1]}"
        expected = f"{off}expected a whole score {which}, not {short(value)}"
        raise SreError(f"{expected}; {_advice(value)}", field=field)
    return score


def _advice(value: object) -> str:
    """What to do with a column of scores such as this one."""
    number, advice = as_number(value), _TABLE["advice"]
    if number is None:
        return str(advice["text" if counted(value) is None else "truth"])
    if number < 0:
        return str(advice["below"])
    return str(advice["off" if not number <= MOST_SCORE else "whole" if number.is_integer() else "part"])


def as_number(value: object) -> float | None:
    """The number that a cell holds or spells; None for anything else, and for True and False."""
    try:
        return float(str(value).strip().replace(",", "."))
    except ValueError:
        return None


def counted(value: object) -> int | None:
    """`whole`, with True as 1 and False as 0."""
    return {"true": 1, "false": 0}.get(str(value).strip().lower(), whole(value))


def to_preference(value: object, field: str) -> int | None:
    """1 or 2 for the better response (a mean of votes is between them), TIE for a tie, None where it is missing."""
    if no_label(value):
        return None
    number = counted(value)
    if number == 0 or (number == 1 and whole(value) is None):
        raise SreError(f"{COUNTING} can mean two things, and here is {short(value)}: {_COUNTED}", field=field)
    words = str(value).strip().lower() if number is None else str(number)
    words = re.sub(f"^(?:{_TABLE['responses']})[ _]?|(?: is better| wins)?[.!]?$|[\\s\\[\\]()_*'\"]", "", words)
    if isinstance(value, str | Real | Decimal):
        if words in _PREFERENCES:
            return _PREFERENCES[words]
        if re.fullmatch(r"1\.\d+", words):
            return TIE if float(words) == 1.5 else 1 if float(words) < 1.5 else 2
    expected = f"expected 1 or 2, A or B, A>B or B>A, or tie, not {short(value)}"
    if as_number(value) is not None:
        expected = f"{OFF_SCALE}: {expected}; write 1 where the first response is better, 2 where the second is"
    elif isinstance(value, str):
        expected += "; if it names a model, --map model_a=COLUMN --map model_b=COLUMN tell whose each response is"
    raise SreError(expected, field=field)


def unclear(note: str) -> bool:
    """Whether an error about a label says that other labels of its column may be read wrongly."""
    return note.startswith((OFF_SCALE, COUNTING))


def to_conversation(value: object) -> tuple[Message, ...]:
    """A conversation from a string (one user turn), or from turns: Message, {role, content} or {from, value}."""
    if isinstance(value, str):
        value = [Message("user", value)]
    if not isinstance(value, Sequence) or not value:
        raise SreError(f"expected a list of {{role, content}}, not {short(value)}", field="conversation")
    return tuple(_message(turn) for turn in value)


def turns_in(value: object) -> list[Any]:
    """The turns in a cell: a list or its JSON or Python text, one turn, a transcript of HH-RLHF; [] where it has none.

    Raises SreError for a list of turns without its commas, which pandas writes of an array.
    """
    if isinstance(value, Mapping):  # of OpenAI's preference format; one turn, of ShareGPT's
        value = [value] if {"content", "value"} & value.keys() else value.get("messages")
    if not isinstance(value, str):
        return list(value) if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value) else []
    if _TRANSCRIPT.match(value):
        _, *parts = _SPEAKER.split(value)
        turns = [{"role": role, "content": text.strip()} for role, text in zip(parts[::2], parts[1::2], strict=True)]
        return turns if turns[-1]["content"] or turns[-1]["role"] == "Human" else turns[:-1]
    read = parsed(value) if value.lstrip().startswith("[") else None
    if read is None and _PYTHON_TURNS.match(value):
        raise SreError("expected a list of turns as JSON; this text begins like one, but can't be read")
    turns = read if isinstance(read, list) else []
    named = all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in turns)
    return turns if named else []


def texts_in(value: object) -> list[str]:
    """The texts in a cell that holds a list of them, also as JSON or Python; [] for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value)
    if not isinstance(value, list) or not all(isinstance(text, str | None) for text in value):
        return []
    return [text or "" for text in value]


def parsed(text: str) -> object:
    """The value that a text spells in JSON or in Python (as pandas writes lists to CSV); None where it is neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of odd escapes in texts that are no literals
        for read in (json.loads, ast.literal_eval):
            try:
                return read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    return None


def _message(given: object) -> Message:
    turn = given
    if isinstance(turn, Mapping):
        if isinstance(turn.get("data"), Mapping):  # LangChain's
            turn = {**turn["data"], **turn}
        role = turn.get("role") or turn.get("from") or turn.get("type")
        content = turn.get("content", turn.get("value", turn.get("parts")))
        if missing(content) and turn.get("tool_calls"):
            content = json.dumps(turn["tool_calls"], ensure_ascii=False, default=str)
        if isinstance(content, list):  # in parts, as OpenAI's API has it
            texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
            if not all(isinstance(text, str) for text in texts):
                raise SreError("expected parts of text; a judge sees no images or sounds", field="conversation")
            content = "\n".join(map(str, texts))
        turn = Message(role, content)  # type: ignore[arg-type]  # checked below
    role = ROLES.get(turn.role.lower()) if isinstance(turn, Message) and isinstance(turn.role, str) else None
    if not isinstance(turn, Message) or role is None:
        expected = f"{{role, content}} with a role of {', '.join(dict.fromkeys(ROLES.values()))}"
        raise SreError(f"expected {expected}, not {short(given)}", field="conversation")
    return Message(role, to_text(turn.content, "conversation", "a turn's content as a string"))


def to_rubric(value: object) -> Rubric:
    """A rubric from a Rubric, a text (see `split_rubric`), or a mapping.

    The mapping has `criteria`, and `descriptions` by score or `score1_description` and so on. Two or more scores from 0
    to 10 are described, or none. Raises SreError (field "rubric") otherwise.
    """
    if isinstance(value, str):  # a mapping may come as JSON
        value = (parsed(value) if value.lstrip().startswith("{") else None) or split_rubric(to_text(value, "rubric"))
    if isinstance(value, Mapping):
        value = Rubric(value.get("criteria"), _levels(value))  # type: ignore[arg-type]  # checked below
    if not isinstance(value, Rubric):
        raise SreError(f"expected a text or {{criteria, descriptions}}, not {short(value)}", field="rubric")
    if not to_text(value.criteria, "rubric", "criteria as a string").strip():
        raise SreError("expected criteria that say what to judge, not an empty text", field="rubric")
    for score, text in value.descriptions.items():
        if not to_text(text, "rubric", f"a description of score {score} as a string").strip():
            raise SreError(f"expected a description of score {score}, not an empty text", field="rubric")
    if len(value.descriptions) == 1:
        raise SreError("expected descriptions of at least two scores, or of none", field="rubric")
    return value


def _levels(value: Mapping[Any, Any]) -> dict[int, Any]:
    columns = {level: text for key, text in value.items() if (level := level_of(str(key))) is not None}
    found = value.get("descriptions") or columns
    if isinstance(found, str):
        found = parsed(found)
    # Parquet fills the scores that other rows have with nulls.
    given = {whole(k): v for k, v in found.items() if not missing(v)} if isinstance(found, Mapping) else {None: ""}
    if not all(score is not None and score <= MOST_SCORE for score in given):
        raise SreError(f"expected descriptions by score, 0 to {MOST_SCORE}, not {short(found)}", field="rubric")
    return given  # type: ignore[return-value]


def level_of(column: str) -> int | None:
    """The score that a column such as `score1_description` describes."""
    match = _LEVEL.fullmatch(column)
    return int(match[1]) if match else None


def split_rubric(text: str) -> dict[str, Any]:
    """A rubric written as one text -> its criteria, and the descriptions by score, of which there may be none.

    [Are both items fruits?]
    Score 1: Neither is.
    Score 2: Both are.

    Scores may also be list items, headings, rows of a table, bold, bare numbers, or all on one line. Raises SreError
    (field "rubric") for repeated scores, gaps, scores that are not whole, and for a scale other than 1 to 5 that is
    named without descriptions.
    """
    text = text.replace("\r\n", "\n")
    if _PART.search(text):
        raise _error("a score is described that is no whole number from 0 up")
    places = next((found for shape in _SHAPES if _tells(found := list(shape.finditer(text)))), [])
    criteria = text[: places[0].start()] if places else text
    criteria = criteria.strip()
    if criteria.startswith("[") and criteria.endswith("]"):
        criteria = criteria[1:-1].strip()
    scores = [int(place["score"]) for place in places]
    if not places:
        named = _RANGE.search(text)
        if _SCORED.search(text) or (named and named.groups() != ("1", "5")):
            raise _error("a scale is named and its scores are not described one by one")
    elif len(set(scores)) < len(scores):
        raise _error("one score is described twice")
    elif sorted(scores) != list(range(min(scores), max(scores) + 1)):
        raise _error(f"only the scores {', '.join(map(str, sorted(scores)))} are described, which leaves gaps")
    ends = [*(place.start() for place in places[1:]), len(text)]
    texts = [text[place.end() : end].strip(" \t\n;,|") for place, end in zip(places, ends, strict=False)]
    names = [f"{place['name']}: " if place["name"] else "" for place in places]  # "Score 1 (poor): ..."
    levels = {score: name + said for score, name, said in zip(scores, names, texts, strict=True)}
    return {"criteria": criteria, "descriptions": levels}


def _tells(places: list[re.Match[str]]) -> bool:
    """Whether these are descriptions of scores. Bare numbers must count up or down, or they are something else."""
    if not places or places[0].re is _SHAPES[0]:
        return bool(places)
    words = {(place.string[: place.start()].split() or [""])[-1] for place in places}
    if len(places) > 1 == len(words) and min(words).isalnum():
        return False  # "Step 1: ..., Step 2: ..."
    scores = [int(place["score"]) for place in places]
    steps = {after - before for before, after in itertools.pairwise(scores)}
    return steps in ({1}, {-1})


def _error(why: str) -> SreError:
    advice = "write the criteria, then a line for each score such as `Score 1: ...`"
    return SreError(f"{why}; {advice}, or give a rubric with `criteria` and `descriptions`", field="rubric")


def conversation_id(conversation: Sequence[Message]) -> str:
    """The prompt_id of a row that brings none: 12 hex digits (blake2b) of the roles and contents."""
    return short_hash([[turn.role, turn.content] for turn in conversation])


def short_hash(value: object) -> str:
    """12 hex digits of a value's JSON text."""
    return hashlib.blake2b(json.dumps(value, default=str).encode(), digest_size=6).hexdigest()


def short(value: object) -> str:
    """At most 60 printable characters of a value, for messages."""
    text = _repr.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unwritable(value: object) -> bool:
    """Whether it holds half a surrogate pair, which stands for a byte that is not UTF-8, and which `writable` loses."""
    return bool(_HALF.search(json.dumps(value, ensure_ascii=False, default=str)))


def writable(value: Any) -> Any:
    """The value as JSON and UTF-8 can hold it: NaN becomes null, half a surrogate pair a question mark."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {writable(str(key)): writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [writable(item) for item in value]
    if missing(value) or (isinstance(value, float) and value in (float("inf"), -float("inf"))):
        return None
    return value if isinstance(value, bool | int | float) else writable(str(value))
