"""Messages -> prompt text by a model's chat template: one way for training, sampling and judging."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import jinja2

from recipe.data.records import Message
from recipe.errors import SreError

# Templates that print the date (Llama 3.2) print this one, so that a judge reads in a year what it was trained on.
_DATE = datetime.date(2024, 7, 26)
_VARIABLES = {"date_string": f"{_DATE:%d %b %Y}", "strftime_now": _DATE.strftime}


def render_chat(messages: Sequence[Message], template: Callable[..., Any]) -> str:
    """The prompt of `messages`, up to where the assistant begins.

    A template may refuse a system message (Gemma 2) or leave it out. Its text then begins the first user message.

    Args:
        messages: The conversation.
        template: Takes the turns, each with `role` and `content`, and the template's variables by name.

    Returns:
        The text.

    Raises:
        jinja2.TemplateError, ValueError, SreError: What the template raises when it refuses the conversation.
    """
    system = [message.content for message in messages if message.role == "system"]
    try:
        text = str(template(_turns(messages), add_generation_prompt=True, **_VARIABLES))
        if all(content.strip() in text for content in system):
            return text
    except (jinja2.TemplateError, ValueError, SreError):
        if not system:
            raise
    return str(template(_turns(_folded(messages)), add_generation_prompt=True, **_VARIABLES))


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _folded(messages: Sequence[Message]) -> list[Message]:
    system = [message.content for message in messages if message.role == "system"]
    first, *others = [message for message in messages if message.role != "system"] or [Message("user", "")]
    return [Message(first.role, "\n\n".join([*system, first.content]).strip()), *others]
