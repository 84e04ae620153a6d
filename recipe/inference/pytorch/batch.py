"""Draws the next token of each row of a PyTorch batch from the raw logits. Runs no model."""

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from recipe.inference.base import Completion
from recipe.inference.prompt import Prompt
from recipe.inference.sequence import Logits, Sample
from recipe.inference.token_sampling import NO_TOKEN

# llama.cpp ends a text at each of these that a vocabulary has. A model's configuration may name only one of them.
_ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


class Row:
    """One row of a batch: a sample, the most tokens still to come, and its completion (None until it ends)."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        # A forced label is read from one more place than the answer has tokens.
        self.steps = max(1, sample.prompt.reserve + sample.prompt.request.force_label)
        self.completion: Completion | None = None
        self._queue: deque[int] = deque()  # tokens to feed before the sample is asked again

    @property
    def prompt(self) -> Prompt:
        return self.sample.prompt

    @property
    def done(self) -> bool:
        return self.completion is not None

    @property
    def draws(self) -> bool:
        """Whether the next token is drawn freely."""
        return not (self.done or self._queue) and self.sample.draws

    def begin(self) -> list[int]:
        """All tokens so far, to be read in one pass."""
        return [*self.prompt.ids[: self.prompt.size].tolist(), *self.sample.tokens]

    def next(self, token: int, logits: Logits) -> int:
        """The token to feed next: `token`, drawn from `logits`, unless the sample is led to a label or has ended."""
        if not self._queue and not self.done:
            self.completion = self.sample.advance(token, logits)
            self._queue.extend(self.sample.pending)
        return self._queue.popleft() if self._queue else max(token, 0)


class Drawing:
    """Draws for the rows of one batch: the logits processor and the stopping criterion of `model.generate`."""

    def __init__(self, rows: Sequence[Row], temperature: float) -> None:
        self._rows, self._temperature = rows, temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Raw logits [rows, vocabulary] -> logits that leave each row its next token alone (any after its end)."""
        logits = scores.float()
        finite = torch.isfinite(logits.amax(dim=1))
        drawn = self._draw(logits if bool(finite.all()) else logits.where(finite[:, None], 0.0))
        tokens = drawn.where(finite, NO_TOKEN).tolist()
        chosen = [row.next(tokens[place], _row_of(logits, place)) for place, row in enumerate(self._rows)]
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.tensor(chosen, device=scores.device)[:, None], 0.0)

    def finished(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows have ended, [rows]."""
        return torch.tensor([row.done for row in self._rows], device=input_ids.device)

    def _draw(self, logits: torch.Tensor) -> torch.Tensor:
        """A token of each row from softmax(logits / temperature), or its first greatest logit: [rows]."""
        if self._temperature == 0:
            return logits.argmax(dim=1)
        uniforms = [row.sample.uniforms.random() if row.draws else 0.0 for row in self._rows]
        running = (logits / self._temperature).softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
        total = running[:, -1:].contiguous()
        targets = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * total
        # Rounding may make a target equal to the total; the last token that adds to it is drawn then.
        last = torch.searchsorted(running, total)
        return torch.minimum(torch.searchsorted(running, targets, right=True), last)[:, 0]


def _row_of(logits: torch.Tensor, place: int) -> Logits:
    return lambda: logits[place].cpu().numpy()


def left_padded(runs: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of runs of tokens, each [runs, longest]; the mask is 0 at the padding."""
    width = max(map(len, runs))
    ids = torch.tensor([[pad] * (width - len(run)) + list(run) for run in runs])
    mask = torch.tensor([[0] * (width - len(run)) + [1] * len(run) for run in runs])
    return ids, mask


class TorchTokenizer:
    """A transformers tokenizer behind the Tokenizer protocol."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.inner = tokenizer
        self._added = dict(tokenizer.added_tokens_decoder)
        self.piece = cache(self._piece)
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        self._bytes = {char: byte for byte, char in bytes_to_unicode().items()} if byte_level else None
        named = [tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id]
        ends = {token for one in named for token in (one if isinstance(one, list | tuple) else [one])}
        ends |= {token for token, added in self._added.items() if added.content in _ENDS}
        self.ends = frozenset(ends - {None})
        self.pad = int(next(token for token in (tokenizer.pad_token_id, *sorted(self.ends), 0) if token is not None))

    def tokenize(self, text: str) -> list[int]:
        return list(self.inner(text, add_special_tokens=False)["input_ids"])

    def is_end(self, token: int) -> bool:
        return token in self.ends

    def _piece(self, token: int) -> bytes:
        if token in self._added:
            return b"" if self._added[token].special else str(self._added[token].content).encode()
        text = self.inner.convert_ids_to_tokens(token)
        if text is None:
            return b""
        if self._bytes:
            return bytes(self._bytes[char] for char in text)
        if len(text) == 6 and text.startswith("<0x"):
            return bytes([int(text[3:5], 16)])
        return str(text).replace("▁", " ").encode()
