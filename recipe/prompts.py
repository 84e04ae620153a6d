"""Example -> messages, by the Jinja2 files in ../prompts. Knows no model and no tokenizer.

A file is an optional system part, a line `---`, and the user part. A variable that a file names and nobody gives is an
error (StrictUndefined). Text from data can't close its section or forge a result: the words of the output grammar are
replaced in it. Each engine keeps its own vocabulary's special tokens out of the text (inference/special_tokens.py).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from recipe.data.records import Example, Message
from recipe.system import resource
from recipe.templates import LimitedEnvironment

_JUDGING = ("pointwise", "pairwise", "pointwise_label_only", "pairwise_label_only")
NAMES = (*_JUDGING, "hint")
_SEPARATOR = "\n---\n"

# A capital, then letters of other scripts that look like it; a small letter is found by its capital.
_LOOKALIKES = "AАΑᎪꓮ BВΒᏴꓐ DᎠꓓԀ EЕΕᎬꓰЄ GԌᏀꓖ IІΙӀꓲᏆ JЈᎫꓙ LᏞꓡ MМΜᎷꓟ NΝꓠ RᎡᏒꓣ SЅՏᏚꓢ TТΤᎢꓔ UՍꓴυ"
_CAPITALS = {like: group[0] for group in _LOOKALIKES.split() for like in group[1:]}
_NAMED = re.compile(r"LATIN (?:CAPITAL LETTER|SMALL LETTER|LETTER SMALL CAPITAL) ([A-Z])(?: WITH .*)?")
_ENCLOSED = (0x1F150, 0x1F170, 0x1F1E6)  # where the capitals in black circles, in black squares, and of flags begin


def _apart(letters: str) -> str:
    """A pattern of these letters in any case, perhaps with spaces, dots, dashes or invisible characters before them."""
    return "".join(rf"[\s\0-\x1f\x7f._*~\-]{{0,3}}[{letter}{letter.lower()}]" for letter in letters)


# It begins with one set of characters, which makes the search fast. No letter stands before a word.
_FORGERIES = re.compile(
    r"[BEIJRbeijr](?<![A-Za-z].)(?:"
    rf"(?P<result>(?<=[Rr]){_apart('ESULT')})(?![A-RT-Za-rt-z])"
    r"(?=[Ss]?(?P<close>\s{0,2}[\])>}])?(?P<number>[\s:)\]>}*\-]{0,6}\d)?)"
    rf"|(?P<edge>(?<=[Bb]){_apart('EGIN')}|(?<=[Ee]){_apart('ND')})(?=[\s_])"
    rf"|(?<=[Jj]){_apart('UDG')}[Ee]?{_apart('MENT')}[\s_\-]{{1,3}}(?P<rating>[Rr]{_apart('ATING')})"
    rf"|(?P<item>(?<=[Ii]){_apart('TEM')})(?=\s{{0,2}}\d))"
)
_OPENING = re.compile(r"(?:(?<![\w)\]])\[|[<({])\s{0,2}/?\s{0,2}\Z")
_OTHER_WORDS = {"result": "outcome", "begin": "open", "end": "close", "rating": "grade", "item": "entry"}
# Control tokens of well-known chat templates: for servers, whose vocabulary nobody can ask for.
_CONTROLS = re.compile(
    r"<(?=/?(?:\||｜|(?:s|bos|eos|unk|pad|mask|start_of_turn|end_of_turn)>|<?/?SYS>"
    r"|(?:repo_?name|file_?name|file_sep|gh_stars|empty_output|(?:issue|jupyter|fim)_[a-z_]+|commit_(?:before|msg|after))>))"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)


class _Skeleton(dict[int, str]):
    """For str.translate: each character as the plain ASCII one that it looks like, others as they are."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


def _plain(char: str) -> str:
    category = unicodedata.category(char)
    if char.isascii():
        return char
    if category in ("Mn", "Me", "Cf"):
        return "\0"
    if char.isspace():
        return " "
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit)
    if category in ("Ps", "Pi", "Pe", "Pf"):
        return "<" if category in ("Ps", "Pi") else ">"
    name = unicodedata.name(char, "")
    upper = _CAPITALS.get(char) or _CAPITALS.get(char.upper())
    if named := _NAMED.fullmatch(name):
        upper = named.group(1)
    for start in _ENCLOSED:
        if start <= ord(char) < start + 26:
            upper = chr(ord("A") + ord(char) - start)
    if upper:
        return upper.lower() if char.islower() and "SMALL CAPITAL" not in name else upper
    first = unicodedata.normalize("NFKD", char)[0]
    return first if first.isascii() else char


_SKELETON = _Skeleton()


def neutralise(text: str) -> str:
    """Replace in `text` what could act as structure: the words of the output grammar and of section tags, in any case,
    bracket or look-alike script, and control tokens of well-known chat templates.

    Ordinary uses of these words stay: a lower-case "result" is replaced only in [brackets] or before a number.
    """
    skeleton = text if text.isascii() else text.translate(_SKELETON)
    parts, end = [], 0
    for found in _FORGERIES.finditer(skeleton):
        begin, stop, other = _replacement(found)
        if other:
            parts += [text[end:begin], other]
            end = stop
    return _CONTROLS.sub(lambda m: "‹" if m.group() == "<" else "(", "".join([*parts, text[end:]]))


def _replacement(found: re.Match[str]) -> tuple[int, int, str]:
    """Where in the text something is to be replaced, and by which word; "" where it may stay."""
    kind = next(name for name in ("result", "edge", "rating", "item") if found[name])
    start = found.start(kind) if kind == "rating" else found.start()
    letters = re.sub(r"[^A-Za-z]", "", found.string[start : found.end(kind)])
    other, shouted = _OTHER_WORDS[letters.lower()], letters.isupper()
    opened = _OPENING.search(found.string, max(0, start - 7), start)
    if kind == "edge":
        other = f"‹{other.upper()}" if opened and opened.group()[0] == "<" else ""
        return opened.start() if opened else start, found.end(kind), other
    bracketed = found["close"] and opened and opened.group()[0] in "[<"
    if not shouted and (kind == "item" or (kind == "result" and not found["number"] and not bracketed)):
        other = ""
    other = other.upper() if shouted else other.title() if letters.istitle() else other
    return start, found.end(kind), other


class Prompts:
    """The prompt files, some replaced by `overrides` (name -> template text) that come from a GGUF `file`."""

    def __init__(self, overrides: Mapping[str, str] | None = None, file: Path | None = None) -> None:
        self._file = file
        self.sources: dict[str, str] = {**_shipped(), **(overrides or {})}
        self._environment = LimitedEnvironment(
            loader=jinja2.FunctionLoader(self.sources.get), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        self._parts: dict[str, list[tuple[str, Callable[[Mapping[str, Any]], str]]]] = {}

    def __reduce__(self) -> tuple[type[Prompts], tuple[dict[str, str]]]:
        return Prompts, (self.sources,)  # a compiled template can't be sent to another process

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all templates: two judges with the same digest ask the same questions."""
        return hashlib.sha256(repr(sorted(self.sources.items())).encode()).hexdigest()

    def judge(self, example: Example, *, label_only: bool = False) -> tuple[Message, ...]:
        """The prompt of a judgement (A.1.1, A.1.2), by the example's task."""
        return self.render(f"{example.task}_label_only" if label_only else example.task, example)

    def hinted(self, example: Example) -> tuple[Message, ...]:
        """The prompt of a judgement that is told its label and is to give the reasons."""
        *before, asked = self.judge(example)
        (hint,) = self.render("hint", example, label=example.label)
        return (*before, Message(asked.role, f"{asked.content}\n{hint.content}"))

    def render(self, name: str, example: Example, **more: Any) -> tuple[Message, ...]:
        """The prompt `name` about an example, with `more` variables."""
        if name not in self._parts:
            self._parts[name] = self._compile(name)
        context = _context(example) | more
        return tuple(Message(role, render(context).strip()) for role, render in self._parts[name])

    def _compile(self, name: str) -> list[tuple[str, Callable[[Mapping[str, Any]], str]]]:
        place = (self._file, f"sre.prompts.{name}") if self._file else (f"prompts/{name}.jinja",)
        first, separator, second = self.sources[name].partition(_SEPARATOR)
        # Both parts see what the first one imports.
        imports = "".join(re.findall(r"{%-? import .*?%}", first))
        parts = [("system", first), ("user", imports + second)] if separator else [("user", first)]
        return [(role, self._environment.compile_limited(part, *place)) for role, part in parts]


def _context(example: Example) -> dict[str, Any]:
    names = ("response",) if len(example.responses) == 1 else ("response1", "response2")
    responses = [{"role": "assistant", "content": neutralise(text)} for text in example.responses]
    conversation = [{"role": turn.role, "content": neutralise(turn.content)} for turn in example.conversation]
    levels = sorted(example.rubric.descriptions.items())
    return {
        "task": example.task,
        "labels": list(example.labels),
        "criteria": neutralise(example.rubric.criteria),
        "scoring_criteria": [{"score": score, "description": neutralise(text)} for score, text in levels],
        "conversation_prefix": conversation,
        "reference": neutralise(example.reference),
        **dict(zip(names, responses, strict=True)),
    }


@cache
def _shipped() -> dict[str, str]:
    files = {name: f"{name}.jinja" for name in NAMES} | {"_sections.jinja": "_sections.jinja"}
    return {name: (resource("prompts") / file).read_text(encoding="utf-8") for name, file in files.items()}
