"""Keeps a vocabulary's special tokens out of what comes from data.

A tokenizer reads a special token wherever text spells it: `<think>` in a response gets the id of a chat template's own.
So a prompt may hold the special tokens that its chat template writes, and no others. Where data spells one, its text is
changed (`‹think>`) and the prompt is tokenised again.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.chat_template import ChatTemplate

_LOOKALIKES = {"<": "‹", "[": "(", "{": "("}
_TRIES = 8


class PromptEncoder:
    """Messages -> token ids in which no special token comes from the messages' contents.

    `tokenize` recognises special tokens; `special` gives the text of one, None for any other token. `unknown`: the id
    that stands for characters that the vocabulary lacks; only its written form is broken.
    """

    def __init__(
        self,
        render: Callable[[Sequence[Message]], str],
        tokenize: Callable[[str], list[int]],
        special: Callable[[int], str | None],
        unknown: int | None = None,
    ) -> None:
        self._render, self._tokenize, self._special, self._unknown = render, tokenize, special, unknown
        self._expected: dict[tuple[tuple[str, bool], ...], Counter[int]] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> PromptEncoder:
        """The encoder of a transformers tokenizer, with its chat template."""
        ids = partial(tokenizer, add_special_tokens=False)
        special = added_tokens(tokenizer).get
        return cls(
            ChatTemplate.of(tokenizer).render,
            lambda text: list(ids(text)["input_ids"]),
            special,
            tokenizer.unk_token_id,
        )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's ids. Raises SreError when the contents form a special token that can't be broken."""
        roles = tuple((message.role, bool(message.content)) for message in messages)
        if roles not in self._expected:
            plain = [Message(role, "x" if filled else "") for role, filled in roles]
            self._expected[roles] = self._count(self._tokenize(self._render(plain)))
        for _ in range(_TRIES):
            ids = self._tokenize(self._render(messages))
            found = self._count(ids)
            found.subtract(self._expected[roles])
            extra = {token: self._special(token) or "" for token in +found}  # `+` drops what isn't above 0
            broken = [Message(m.role, break_tokens(m.content, list(extra.values()))) for m in messages]
            if broken == list(messages):
                extra.pop(-1 if self._unknown is None else self._unknown, None)
                # A tokenizer that normalises finds its tokens in other characters too.
                broken = [Message(m.role, unicodedata.normalize("NFKC", m.content)) for m in messages]
            if not extra:
                return ids
            messages = broken
        text = next(iter(extra.values()))
        raise SreError(f"a message forms the model's special token {text!r}, which can't be broken")

    def plain(self, text: str) -> str:
        """`text`, which is data, with its special tokens broken."""
        return break_tokens(text, [self._special(token) or "" for token in self._count(self._tokenize(text))])

    def _count(self, ids: Sequence[int]) -> Counter[int]:
        special = {token for token in set(ids) if self._special(token) is not None}
        return Counter(token for token in ids if token in special)


def break_tokens(text: str, tokens: Sequence[str]) -> str:
    """`text` with the first character of each of `tokens` replaced by a look-alike, or a dot put after it."""
    for token in sorted(tokens, key=len, reverse=True):
        if token:
            first = _LOOKALIKES.get(token[0], f"{token[0]}·" if len(token) > 1 else "·")
            text = text.replace(token, first + token[1:])
    return text


def is_structure(text: str, *, control: bool) -> bool:
    """Whether a token of the vocabulary, control or added by its makers, may be written by a template alone.

    Tokens added for plain words, single characters or runs of spaces (Gemma has one for each length) are text like any
    other.
    """
    return control or not (len(text) == 1 or all(c.isalnum() or c.isspace() or c == "▁" for c in text))


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens of a transformers tokenizer: id -> text."""
    added = tokenizer.added_tokens_decoder.items()
    return {i: t.content for i, t in added if t.content and is_structure(t.content, control=t.special)}
