"""Which tokens write a label, and which lead up to it.

A label must be one token, because its probability is read from one row of logits. So a scale with a 10 is refused where
the tokenizer splits numbers into digits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError
from recipe.inference.token_sampling import log_total
from recipe.verdict import MARKER, awaits_label, find_verdict, open_reasoning

_MARKER = MARKER.encode()
_BLANKS = b" \t"  # what a tokenizer may put into one token with a label

LabelTokens = dict[int, int]


class Tokenizer(Protocol):
    """A model's vocabulary. Special tokens written in a text are recognised, none are added."""

    def tokenize(self, text: str) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token writes; a control token writes none."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends a text."""


class LabelPlaces:
    """Label tokens of one scale. `longest`: the most tokens that `lead_in` appends, without the label."""

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

    def at(self, written: bytes | bytearray, piece: bytes) -> LabelTokens | None:
        """The tokens of all labels, when `piece` drawn after `written` is a label at the label's place; else None."""
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
        """Tokens that write `blanks` and a label in one."""
        if blanks not in self._forms:
            self._forms[blanks] = {label: self._single(blanks, label) for label in self.labels}
        return self._forms[blanks]

    def _single(self, blanks: bytes, label: int) -> int:
        text = blanks.decode() + str(label)
        for ids in (continuation(MARKER + text, self._tokenize), self._tokenize(text)):
            if ids and self._piece(ids[-1]) == text.encode():
                return ids[-1]
        raise self._refusal()

    def _common(self, lead: str, *, after_text: bool) -> tuple[list[int], LabelTokens]:
        """Common beginning of `lead` + label over all labels, and the one token that differs."""
        split = (lambda text: continuation(text, self._tokenize)) if after_text else self._tokenize
        runs = [split(f"{lead}{label}") for label in self.labels]
        shared = min((shared_length(runs[0], run) for run in runs[1:]), default=len(runs[0]) - 1)
        if any(len(run) != shared + 1 for run in runs):
            raise self._refusal()
        return runs[0][:shared], {label: run[shared] for label, run in zip(self.labels, runs, strict=True)}

    def _refusal(self) -> SreError:
        why = f"this model's tokenizer needs more than one token for a label of the scale {list(self.labels)}"
        advice = "use a scale of single digits (from 1 to 10: (score + 1) // 2), or a model of the Llama 3 family"
        return SreError(f"{why}; {advice}")


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
    """Log-softmax over the whole vocabulary (nats) of each label's token: row [vocabulary]."""
    total = float(log_total(row[None, :])[0])
    return {label: float(row[token]) - total for label, token in tokens.items()}


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
