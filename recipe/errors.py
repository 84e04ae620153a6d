"""The one error a user can cause: it names the place and what to do; the CLI prints it and exits with code 2."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text that comes from data, unable to move the terminal."""
    return _CONTROL.sub("?", text)


def plural(count: int, noun: str) -> str:
    """ "1 row", "2 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class SreError(Exception):
    """Something the user can mend: bad input, a bad setting, a missing package.

    `file`, `line` (1-based) and `field` say where; `message` says what was expected; `options`, which options to add to
    the command, `sre judge` or another that reads rows.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        options: str = "",
    ) -> None:
        self.message, self.file, self.line, self.field, self.options = message, file, line, field, options
        place = [] if file is None else [str(file)]
        place += [] if line is None else [f"line {line}"]
        place += [] if field is None else [f"field {field!r}"]
        said = f"{message}. Add for example: {options}" if options else message
        super().__init__(printable(f"{', '.join(place)}: {said}" if place else said))


def install(extra: str = "") -> str:
    """The pip command that brings an extra, or the package itself. It runs in a checkout: nothing is published."""
    editable = "-e " if (Path(__file__).resolve().parents[1] / "constraints.txt").is_file() else ""
    return f"pip install -c constraints.txt {editable}'.{f'[{extra}]' if extra else ''}' in the checkout"


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says; the error's kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """A hint at the name that `word` is most like; empty where none is. shown: name -> what to show in its place."""
    import difflib  # here, so that `sre --help` answers at once

    near = difflib.get_close_matches(word, list(names), 1, 0.7)
    return f"; did you mean {(shown or {}).get(near[0], near[0])!r}?" if near else ""


def gpu_build() -> str:
    """How to get a llama-cpp-python that runs models on a GPU: it is built from source."""
    build = "pip install --force-reinstall --no-cache-dir --no-deps 'llama-cpp-python>=0.3.36,<0.4'"
    return f"CMAKE_ARGS=-DGGML_CUDA=on {build} (on a Mac -DGGML_METAL=on, on other cards -DGGML_VULKAN=on)"


class NothingToTrainError(SreError):
    """A training stage was left with no row: a finding about its settings, so an experiment goes on with other rows."""
