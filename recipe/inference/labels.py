"""Which tokens write a label, and which lead up to it.

Most labels are one token, whose probability is read from one row of logits. Many tokenizers split a 10 into digits: its
probability is that of "1" times that of "0" after "1". A label 1 beside it is "1" without a digit after it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError
from recipe.inference.token_sampling import log_total
from recipe.verdict import MARKER, awaits_label, find_verdict, open_reasoning

_MARKER = MARKER.encode()
_BLANKS = b" \t"  # what a tokenizer may put into one token with a label

LabelTokens = dict[int, tuple[int, ...]]
"""The tokens that write each label: one or two. All labels of two tokens begin with the same one."""


class Tokenizer(Protocol):
    """A model's vocabulary. Special tokens written in a text are recognised, none are added."""

    def tokenize(self, text: str) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token writes; a control token writes none."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends a text."""


class LabelPlaces:
    """Label tokens of one scale.

    longest: the most tokens that `lead_in` appends, without the label. extra: the most tokens that labels of two tokens
    add to what is decoded: one that ends the label, and one that is decoded for its logits and not kept.
    """

    def __init__(self, labels: Sequence[int], tokenizer: Tokenizer) -> None:
        self.labels = tuple(labels)
        self._tokenize, self._piece = tokenizer.tokenize, tokenizer.piece
        self._texts = {str(label).encode() for label in labels}
        self._forms: dict[bytes, LabelTokens] = {}
        self._full = self._common(f" {MARKER} ", after_text=True)
        self._bare = self._common(f"{MARKER} ", after_text=False)
        # The last is the most that leads out of reasoning.
        close = max(len(self._tokenize(_close(tag))) for tag in ("<seed:reasoning>", "<|channel|>analysis<|message|>"))
        self.longest = max(len(self._full[0]), len(self._bare[0]) + close)
        forms = [self._full[1], self._bare[1], *([self._form(b"")] if max(self.labels) > 9 else [])]
        self.extra = 2 if any(shared_token(form) is not None for form in forms) else 0
        if self.extra:
            self._texts |= {text[:1] for text in self._texts}

    def at(self, written: bytes | bytearray, piece: bytes) -> LabelTokens | None:
        """The tokens of all labels, where `piece` drawn after `written` is a label, or begins one; else None."""
        if piece.lstrip(_BLANKS) not in self._texts or not awaits_label(written.decode("utf-8", "replace")):
            return None
        return self._form(piece[: len(piece) - len(piece.lstrip(_BLANKS))])

    def lead_in(self, written: bytes | bytearray) -> tuple[list[int], LabelTokens]:
        """The tokens to append to `written` until a label must follow (maybe none), and the label tokens there.

        Reasoning that has not ended is closed first.
        """
        text = written.decode("utf-8", "replace")
        if tag := open_reasoning(text):
            return [*self._tokenize(_close(tag)), *self._bare[0]], self._bare[1]
        if not written:
            return self._bare
        if not awaits_label(text):
            return self._full
        if not written.endswith(_MARKER):
            return [], self._form(b"")
        ids, tokens = self._bare
        marker = b""
        for index, token in enumerate(ids):
            marker += self._piece(token)
            if marker.strip() == _MARKER:
                return ids[index + 1 :], tokens
        return self._full

    def _form(self, blanks: bytes) -> LabelTokens:
        """Tokens that write `blanks` and a label, the blanks in one token with its first digit."""
        if blanks not in self._forms:
            self._forms[blanks] = self._checked({label: self._run(blanks, label) for label in self.labels})
        return self._forms[blanks]

    def _run(self, blanks: bytes, label: int) -> tuple[int, ...]:
        text = blanks.decode() + str(label)
        for size in range(1, 1 + len(str(label))):
            for ids in (continuation(MARKER + text, self._tokenize), self._tokenize(text)):
                if b"".join(map(self._piece, ids[-size:])) == text.encode():
                    return tuple(ids[-size:])
        raise self._refusal()

    @cached_property
    def digits(self) -> list[int]:
        """The tokens of 0 to 9."""
        return [self._run(b"", digit)[0] for digit in range(10)]

    def _common(self, lead: str, *, after_text: bool) -> tuple[list[int], LabelTokens]:
        """Common beginning of `lead` + label over all labels, and the tokens that differ."""
        split = (lambda text: continuation(text, self._tokenize)) if after_text else self._tokenize
        runs = [split(f"{lead}{label}") for label in self.labels]
        shared = min(map(len, runs)) - 1
        if any(run[:shared] != runs[0][:shared] for run in runs):
            raise self._refusal()
        ends = {label: tuple(run[shared:]) for label, run in zip(self.labels, runs, strict=True)}
        return runs[0][:shared], self._checked(ends)

    def _checked(self, tokens: LabelTokens) -> LabelTokens:
        begins = {run[0] for run in tokens.values() if len(run) > 1}
        if len(begins) > 1 or any(len(run) > min(2, len(str(label))) for label, run in tokens.items()):
            raise self._refusal()
        return tokens

    def _refusal(self) -> SreError:
        return SreError(f"this model's tokenizer can't write the labels {list(self.labels)}; use scores from 0 to 10")


def shared_token(tokens: LabelTokens) -> int | None:
    """The token that labels of two tokens begin with; None where every label is one token."""
    return next((run[0] for run in tokens.values() if len(run) > 1), None)


def shared_length(a: Sequence[int] | NDArray[np.int32], b: Sequence[int] | NDArray[np.int32]) -> int:
    """Length of the longest common beginning."""
    limit = min(len(a), len(b))
    differing = np.flatnonzero(np.asarray(a[:limit]) != np.asarray(b[:limit]))
    return int(differing[0]) if len(differing) else limit


def continuation(text: str, tokenize: Callable[[str], list[int]]) -> list[int]:
    """Ids of `text` after other text: some tokenizers put a blank before a text that stands alone."""
    anchor = tokenize("a")
    ids = tokenize("a" + text)
    return ids[len(anchor) :] if ids[: len(anchor)] == anchor else tokenize(text)


def label_logprobs(row: NDArray[np.float32], tokens: LabelTokens) -> dict[int, float]:
    """Log-softmax over the whole vocabulary (nats) of each label's first token: row [vocabulary]."""
    total = float(log_total(row[None, :])[0])
    return {label: float(row[run[0]]) - total for label, run in tokens.items()}


def whole_logprobs(
    first: Mapping[int, float], row: NDArray[np.float32], tokens: LabelTokens, digits: Sequence[int]
) -> dict[int, float]:
    """The log-probabilities (nats) of whole labels, some of two tokens, from those of their first tokens.

    Args:
        first: what `label_logprobs` tells of the label's place.
        row: the logits [vocabulary] after the token that labels of two tokens begin with.
        tokens: those of the labels.
        digits: the tokens of 0 to 9. A label that is the shared token alone has none of them after it.
    """
    shared = shared_token(tokens)
    ended = row.copy()
    ended[list(digits)] = -np.inf
    total, alone = map(float, log_total(np.stack([row, ended])))
    found = {}
    for label, run in tokens.items():
        after = float(row[run[1]]) if len(run) > 1 else alone if run[0] == shared else total
        found[label] = first[label] + after - total
    return found


def last_well_formed(text: bytes, found: Mapping[int, dict[int, float]], labels: Sequence[int]) -> dict[int, float]:
    """The log-probabilities of the label that `parse_verdict` reads in `text`; {} where it reads none.

    found: the labels met while drawing: where each ends in `text` -> its log-probabilities.
    """
    written = text.decode("utf-8", "surrogateescape")
    verdict = find_verdict(written, labels)
    if verdict is None:
        return {}
    return found.get(len(written[: verdict.end("label")].encode("utf-8", "surrogateescape")), {})


def _close(tag: str) -> str:
    ended = tag.replace("|begin", "|end").replace("|START", "|END").replace(">analysis", ">final")
    return f"\n{ended if ended != tag else f'{tag[0]}/{tag[1:]}'}\n\n"
