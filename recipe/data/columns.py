"""A row of a file, and which of its columns means what.

Case and invisible characters don't matter; spaces and hyphens count as underscores, and "actualOutput" is
actual_output. `--map OURS=THEIRS` names a column that isn't recognised.
"""

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from typing import Any

from recipe.data.records import Example, Message, Task
from recipe.data.values import (
    as_number,
    level_of,
    missing,
    no_label,
    texts_in,
    to_conversation,
    to_preference,
    to_text,
    turns_in,
    whole,
)
from recipe.errors import SreError
from recipe.system import read_table

_TABLE = read_table(__file__)
ALIASES: dict[str, tuple[str, ...]] = {name: tuple(aliases) for name, aliases in _TABLE.items()}
"""Our name -> the names in files, in lower case, the surest first."""
LEVELS = tuple(f"score{score}" for score in range(11))
"""Our names of the columns that describe a score."""
NAMES = (*ALIASES, *LEVELS)
RESPONSES: dict[Task, tuple[str, ...]] = {"pointwise": ("response",), "pairwise": ("response_a", "response_b")}
MODELS = ("model_a", "model_b")
LABEL: dict[Task, str] = {"pointwise": "score", "pairwise": "preference"}
FIRST: dict[str, dict[int | None, object]] = {
    "better_index": {0: 1, 1: 2, 2: "tie"},
    "first_is_better": {1: 1, 0: 2},
}
"""Our name of a column of 0 and 1 -> the label that each number stands for."""

NO_HEADER = "the first line of a table must be the names of its columns, such as question,answer,score"

Names = Mapping[str, str]  # our name -> the row's column


def looks_like_values(names: Iterable[object]) -> bool:
    """Whether these may be no names of columns: one of them is empty, a number or a sentence."""
    sentence = re.compile(r".*[.?]|(?:\S+\s+){3}.*|column \d+", re.S)
    return any(as_number(name) is not None or sentence.fullmatch(str(name)) for name in names)


@dataclass(frozen=True)
class Row:
    """One row as found, whose columns go by our names: `names` has the row's column of each.

    `line`, from 1: the line of a JSONL file, the row (no header) of other sources. `problem`: why it can't be read.
    """

    file: str
    stem: str
    line: int
    cells: Any
    problem: str = ""
    names: Names = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Any:
        return self.cells[self.names[name]] if name in self.names else None

    @property
    def place(self) -> str:
        """The id of a row that brings none."""
        return f"{self.stem}-{self.line}"

    @property
    def published(self) -> bool:
        """Whether it has the columns of the published collections, whose values are read as they are."""
        return any(str(column).startswith("orig_") for column in self.cells)

    def label(self, task: Task) -> str:
        """Our name of the column of its label. Beside two responses, `chosen` alone says which is better."""
        if task == "pairwise" and "chosen" in self and not {"rejected", "preference"} & self.names.keys():
            return "chosen"
        return next((name for name in FIRST if task == "pairwise" and name in self), LABEL[task])

    def winning_model(self) -> int | None:
        """The number of the response whose model the label of a pair names, by the columns of both models."""
        if not self.names.keys() >= {*MODELS}:
            return None
        winner, models = self.name(self.label("pairwise")), [self.name(name) for name in MODELS]
        named = winner and as_number(winner) is None and models.count(winner) == 1
        return models.index(winner) + 1 if named else None

    def sides(self, example: Example) -> list[str]:
        """The columns that hold the two responses of the example, in its order; [] where it isn't made of two."""
        pair = RESPONSES["pairwise"] if "response_a" in self and "response_b" in self else ("chosen", "rejected")
        found = [self.names[name] for name in pair if name in self]
        if example.task == "pointwise" or len(found) < 2:
            return []
        return found[::-1] if pair[0] == "chosen" and example.label == 2 else found

    def column(self, name: str) -> str:
        """The column that an error about `name` cites: the row's own, else the likeliest one."""
        if name in self.names:
            return self.names[name]
        keys, aliases = _by_key(tuple(self.cells)), ALIASES.get(name, (name,))
        empty = next((keys[alias] for alias in aliases if alias in keys), None)
        return empty or (aliases[0] if self.published else name)

    def error(self, message: str, column: str | None = None) -> SreError:
        return SreError(message, file=self.file, line=self.line, field=column)

    def error_about(self, name: str, message: str) -> SreError:
        return self.error(message, self.column(name))

    def error_without(self, name: str, message: str, *lacking: str, rubric: bool = True) -> SreError:
        """An error about a row in which columns were not recognised. It names those that are there."""
        value = self.cells.get(self.column(name), name)
        if missing(value) or value == "":
            return self.error_about(name, f"{message}: the column is empty in this row; fill it, or take the row out")
        free = [column for column in self.cells if column and column not in self.names.values()]
        free = [column for column in free if _fits(name, self.cells[column])]
        guesses = zip(lacking, [*free, *["COLUMN"] * len(lacking)], strict=False)
        options = [f"--map {name}={shlex.quote(str(column))}" for name, column in guesses]
        if rubric and "criteria" not in self:
            options.append("--rubric helpfulness")
        shown = ", ".join(map(str, filter(None, list(self.cells)[:30])))
        said = f"{message}; columns found: {shown or 'none'}"
        if not self.names and looks_like_values(self.cells):
            said = f"{said}; {NO_HEADER}"
        return SreError(said, file=self.file, line=self.line, field=self.column(name), options=" ".join(options))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """An error about a value becomes one about its column."""
        try:
            yield
        except SreError as error:
            raise self.error_about(name, error.message) from None

    def text(self, name: str) -> str:
        """A text, "" where it is missing. A number counts as its text."""
        return _text(self[name], self.column(name))

    def texts(self, name: str) -> list[str]:
        """A column of one text or of a list of texts."""
        value, column = self[name], self.column(name)
        if isinstance(value, str) and column.endswith("s"):  # a list in a CSV file
            value = texts_in(value) or value
        found = value if isinstance(value, list) else [None if no_label(value) else value]
        return [text for item in found if (text := _text(item, column)).strip()]

    def name(self, name: str) -> str:
        """An id or the like, a text or a number; "" for anything else."""
        value = self[name]
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return "" if isinstance(value, bool) or not isinstance(value, str | Real) else self.text(name).strip()

    def turns(self, name: str) -> tuple[Message, ...]:
        """The turns that a column holds; () where it holds none."""
        with self.reading(name):
            found = turns_in(self[name])
            return to_conversation(found) if found else ()


@dataclass(frozen=True)
class ReadRow:
    """A row of a source with its example, or with the error that says why it has none.

    A judged row without a label has neither, where it is read to train with. `id` is the row's own where it has one,
    else <file>-<line>.
    """

    id: str
    raw: Row
    example: Example | None = None
    error: SreError | None = None


def _text(value: object, column: str) -> str:
    if missing(value):
        return ""
    return str(value) if isinstance(value, Real) and not isinstance(value, bool) else to_text(value, column)


def _fits(name: str, value: object) -> bool:
    """Whether the column of this value may be proposed as a label, or else as a text."""
    if name == "score":
        return as_number(value) is not None
    with contextlib.suppress(SreError):
        if name == "preference":  # numbers may be one response's scores, which read as 1 or 2 mislead
            return whole(value) is None and to_preference(value, name) is not None
        return isinstance(value, str) or bool(texts_in(value) or to_conversation(turns_in(value)))
    return False


def column_map(columns: Names) -> Names:
    """What `--map` was given. Raises SreError for a name that we don't have."""
    for ours, theirs in columns.items():
        if ours not in NAMES:
            hint = f"; did you mean {theirs}={ours}?" if theirs in NAMES else ""
            raise SreError(f"no column {ours!r} to map onto; expected OURS=THEIRS, OURS of {', '.join(NAMES)}{hint}")
    return columns


def recognise(cells: Mapping[str, Any], mapped: Names) -> dict[str, str]:
    """A row's columns by our names: the mapped ones, then all that are recognised and not empty."""
    by_key = _by_key(tuple(cells))
    own = {}
    for name, column in mapped.items():
        if column not in cells and _key(column) not in by_key:
            shown = ", ".join(map(str, filter(None, list(cells)[:30])))
            raise SreError(f"the row lacks this column, which was mapped; columns found: {shown}", field=column)
        own[name] = column if column in cells else by_key[_key(column)]
    filled = tuple(name for name, value in cells.items() if not missing(value))
    return {name: column for name, column in _recognised(filled).items() if column not in own.values()} | own


@lru_cache(maxsize=1024)
def _recognised(columns: tuple[str, ...]) -> dict[str, str]:
    by_key = _by_key(columns)
    surest = {name: next(filter(by_key.__contains__, aliases), "") for name, aliases in ALIASES.items()}
    found = {name: by_key[alias] for name, alias in surest.items() if alias}
    # The two responses of a pair have names of one kind: "answer_a" goes with "answer_b".
    for one, other in zip(ALIASES["response_a"], ALIASES["response_b"], strict=True):
        if one in by_key and other in by_key:
            found |= {"response_a": by_key[one], "response_b": by_key[other]}
            break
    if "instruction" in by_key and "input" in by_key:  # Alpaca: the input belongs to the instruction
        found["input"] = by_key["input"]
    levels = {f"score{level_of(key)}": column for key, column in by_key.items()}
    return found | {name: column for name, column in levels.items() if name in LEVELS}


@lru_cache(maxsize=1024)
def _by_key(columns: tuple[str, ...]) -> dict[str, str]:
    return {_key(column): column for column in reversed(columns)}


def _key(column: str) -> str:
    shown = re.sub("[\u200b-\u200d\u2060\ufeff]", "", column).strip()
    return re.sub(r"[\s.-]+|(?<=[a-z0-9])(?=[A-Z])", "_", shown).lower()
