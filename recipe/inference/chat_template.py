"""A model's chat template: one renderer for training, sampling and judging, so that all see the same prompt.

It has no tools, and its date is always the same. A template that has no place for a system turn gets its text at the
head of the first user turn.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.templates import LimitedEnvironment

_FIELD = "tokenizer.chat_template"
# Templates that print the date (Llama 3.2's) print this one: a judge reads in a year what it was trained on.
_DATE = datetime.date(2024, 7, 26)
_SIGNS = ("sre-first-text", "sre-second-text")  # texts that a template prints where it prints messages


class _Generation(Extension):
    """The tag {% generation %}, with which some templates mark what the assistant writes: it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as in Jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Renders messages up to where the assistant begins. Raises SreError for a `source` that is missing or broken.

    bos, eos: the texts of the tokens that begin a text and end a turn, "" where there is none.
    """

    def __init__(self, source: str | None, *, bos: str, eos: str, file: Path | str) -> None:
        if not source:
            raise SreError("there is no chat template; take an instruction-tuned model", file=file, field=_FIELD)
        self._context = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        self._context |= {"tools": None, "documents": None, "date_string": f"{_DATE:%d %b %Y}"}
        self._render = _ENVIRONMENT.compile_limited(source, file, _FIELD)
        self._folds = False
        system, user = (Message(role, sign) for role, sign in zip(("system", "user"), _SIGNS, strict=True))
        try:
            text = self.render([system, user])
        except SreError:
            text = ""
        self._folds = not all(sign in text for sign in _SIGNS)
        if self._folds and not all(sign in self.render([system, user]) for sign in _SIGNS):
            raise SreError("this template doesn't print what the user says", file=file, field=_FIELD)

    @classmethod
    def of(cls, tokenizer: Any) -> ChatTemplate:
        """The template of a transformers tokenizer."""
        source = tokenizer.get_chat_template() if tokenizer.chat_template else None
        return cls(source, bos=tokenizer.bos_token or "", eos=tokenizer.eos_token or "", file=tokenizer.name_or_path)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text. Raises SreError for messages that the template refuses."""
        turns = [{"role": m.role, "content": m.content} for m in (folded(messages) if self._folds else messages)]
        return self._render({**self._context, "messages": turns})


def folded(messages: Sequence[Message]) -> list[Message]:
    """Without system turns: their text stands at the head of the first other turn."""
    texts = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not texts or not others:
        return list(messages)
    return [Message(others[0].role, "\n\n".join([*texts, others[0].content])), *others[1:]]


def _environment() -> LimitedEnvironment:
    """The settings and functions that transformers gives a chat template."""

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)

    extensions: list[Any] = ["jinja2.ext.loopcontrols", _Generation]
    environment = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = environment.limited("format", _DATE.strftime)
    environment.filters["tojson"] = environment.limited("tojson", tojson)
    return environment


_ENVIRONMENT = _environment()
