"""What TorchGenerator does between two passes of the model: every row of a batch moves one token on.

It sees the raw logits: it draws, records, stops at a label and leads on to a forced one, with no second pass. It runs
no model and renders no prompt. See scheduler.py for the same on llama.cpp.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.labels import LabelPlaces, LabelTokens, label_logprobs, last_well_formed, whole_characters
from recipe.inference.token_sampling import stream
from recipe.verdict import parse_verdict

# What llama.cpp takes for an end wherever a vocabulary has it; a folder's configuration may name only one of them.
_ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


@dataclass
class Row:
    """One sequence of a batch: `tokens` follow the prompt's `ids`; the first `lead` of them are fed with it.

    script: tokens that must come next. forced: the label tokens to choose among once the script is through. found:
    as in sample.Sample. steps: the most tokens still to come. finish: "" until the row is complete.
    """

    request: Request
    ids: list[int]
    index: int
    places: LabelPlaces | None
    uniforms: np.random.Generator
    steps: int
    lead: int = 0
    question: Question | None = None
    script: deque[int] = field(default_factory=deque)
    forced: LabelTokens | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    written: bytearray = field(default_factory=bytearray)
    found: list[tuple[int, int, dict[int, float]]] = field(default_factory=list)
    finish: Literal["", "stop", "length", "forced"] = ""

    def completion(self, sampling: Sampling) -> Completion:
        """What came of a row that is complete."""
        assert self.finish
        text = whole_characters(bytes(self.written))
        return Completion(
            request_id=self.request.id,
            sample=self.index,
            text=text.strip() if self.request.label_only else text,
            token_ids=tuple(self.tokens),
            finish=self.finish,
            prompt_tokens=len(self.ids),
            token_logprobs=tuple(self.logprobs) if sampling.logprobs and self.finish != "forced" else (),
            label_logprobs=last_well_formed(bytes(self.written), self.found, self.request.labels),
        )


@dataclass
class Question:
    """A request with choices (`runs`: their tokens). known: beginning -> log-probability of each token after it."""

    request: Request
    ids: list[int]
    runs: list[list[int]]
    known: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)

    def leader(self) -> tuple[int, bool]:
        """The choice of the greatest sum of what is known (the first of equals), and whether all of it is known.

        Log-probabilities only lower a sum: a leader that is known to its end has won.
        """
        scores = [self._scores(run) for run in self.runs]
        best = max(range(len(scores)), key=lambda choice: (sum(scores[choice]), -choice))
        return best, len(scores[best]) == len(self.runs[best])

    def row(self, choice: int) -> Row:
        """A row that writes one choice, and learns what its beginnings know of all others."""
        run = self.runs[choice]
        longest = max(map(len, self.runs))
        uniforms = stream(0, self.request.id, choice)
        return Row(self.request, self.ids, choice, None, uniforms, longest, question=self, script=deque(run))

    def learn(self, beginning: tuple[int, ...], logits: torch.Tensor) -> None:
        """Note the log-probabilities after `beginning`: logits [vocabulary]."""
        if beginning in self.known:
            return
        size = len(beginning)
        following = sorted({run[size] for run in self.runs if len(run) > size and tuple(run[:size]) == beginning})
        self.known[beginning] = label_logprobs(logits.cpu().numpy(), {token: token for token in following})

    def completion(self, choice: int, sampling: Sampling) -> Completion:
        """The answer."""
        run = self.runs[choice]
        scores = tuple(self._scores(run)) if sampling.logprobs else ()
        text = self.request.choices[choice]
        return Completion(self.request.id, 0, text, tuple(run), "forced", len(self.ids), scores)

    def _scores(self, run: list[int]) -> list[float]:
        """Log-probabilities of its tokens as far as they are known."""
        beginnings = (tuple(run[:size]) for size in range(len(run)))
        known = itertools.takewhile(lambda beginning: beginning in self.known, beginnings)
        return [self.known[beginning][run[len(beginning)]] for beginning in known]


class Drawing:
    """Takes every row of one batch one token on, from the logits; also a logits processor for `model.generate`.

    rows: those of the batch that are still run, in order; whoever leaves finished ones behind sets it.
    """

    def __init__(self, rows: list[Row], vocabulary: Vocabulary, sampling: Sampling) -> None:
        self.rows, self._vocabulary, self._sampling = rows, vocabulary, sampling

    def draw(self, logits: torch.Tensor) -> list[int]:
        """Raw logits [rows, vocabulary] -> the token that comes next in each row (any, where it is complete)."""
        logits = logits.float()
        if not bool(torch.isfinite(logits.amax(dim=1)).all()):
            raise SreError("the model's logits are not finite numbers: its weights are damaged")
        drawn = self._draw(logits)
        at_drawn = logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(dim=1)
        return [
            token if row.finish else self._advance(row, token, logprob, logits[index])
            for index, (row, token, logprob) in enumerate(
                zip(self.rows, drawn.tolist(), at_drawn.tolist(), strict=True)
            )
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Raw logits [rows, vocabulary] -> -inf everywhere but at each row's next token."""
        chosen = torch.tensor(self.draw(scores), device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def finished(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """The stopping criterion: which rows are complete, [rows]."""
        return torch.tensor([bool(row.finish) for row in self.rows], device=input_ids.device)

    def _draw(self, logits: torch.Tensor) -> torch.Tensor:
        """A token of each row from softmax(logits / temperature), or its first greatest logit: [rows]."""
        if self._sampling.temperature == 0:
            return logits.argmax(dim=1)
        draws = [not (row.finish or row.script or row.forced) for row in self.rows]
        uniforms = [row.uniforms.random() if free else 0.0 for row, free in zip(self.rows, draws, strict=True)]
        running = (logits / self._sampling.temperature).softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
        total = running[:, -1:].contiguous()
        targets = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * total
        # Rounding may carry a target to the total itself: its last token of non-zero weight then.
        last = torch.searchsorted(running, total)
        return torch.minimum(torch.searchsorted(running, targets, right=True), last)[:, 0]

    def _advance(self, row: Row, drawn: int, logprob: float, logits: torch.Tensor) -> int:
        """Take a row one token on, `drawn` where it is free to; returns the token that comes next."""
        if row.question:
            row.question.learn(tuple(row.tokens), logits)
        if row.script:
            token = row.script.popleft()
            row.tokens.append(token)
            row.written += self._vocabulary.piece(token)
            if row.question and not row.script:
                row.finish = "forced"
            return token
        if row.forced:
            return self._force(row, row.forced, logits)
        row.logprobs.append(logprob)
        return self._take(row, drawn, logits)

    def _take(self, row: Row, token: int, logits: torch.Tensor) -> int:
        """Take in a token drawn from `logits` [vocabulary]."""
        row.tokens.append(token)
        if token in self._vocabulary.ends:
            if self._leads_on(row):
                row.tokens.pop()
                return self._advance(row, token, 0.0, logits)
            row.finish = "stop"
            return token
        piece = self._vocabulary.piece(token)
        labels = row.places.at(row.written, piece) if row.places else None
        if labels:
            begin = len(row.written)
            row.found.append((begin, begin + len(piece), label_logprobs(logits.cpu().numpy(), labels)))
        row.written += piece
        if labels and self._sampling.stop_at_label:
            row.finish = "stop"
        elif len(row.tokens) >= self._sampling.max_tokens and not self._leads_on(row):
            row.finish = "length"
        return token

    def _leads_on(self, row: Row) -> bool:
        """At the end of what the model writes: lay out the way to a label where one must follow."""
        request = row.request
        text = row.written.decode("utf-8", "replace")
        if not (request.force_label and row.places) or parse_verdict(text, request.labels, need_rationale=False):
            return False
        lead, row.forced = row.places.lead_in(row.written)
        row.script.extend(lead)
        return True

    def _force(self, row: Row, tokens: LabelTokens, logits: torch.Tensor) -> int:
        """Write the most probable label (the lowest of equals)."""
        logprobs = label_logprobs(logits.cpu().numpy(), tokens)
        token = tokens[max(logprobs, key=lambda label: (logprobs[label], -label))]
        begin = len(row.written)
        row.written += self._vocabulary.piece(token)
        row.tokens.append(token)
        row.found.append((begin, len(row.written), logprobs))
        row.finish = "forced"
        return token


class Vocabulary:
    """A tokenizer as llama.cpp shows its own: plain ids, the bytes of each token, the tokens that end a text."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.tokenizer = tokenizer
        self._added = dict(tokenizer.added_tokens_decoder)
        self._pieces: dict[int, bytes] = {}
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        self._bytes = {char: byte for byte, char in bytes_to_unicode().items()} if byte_level else None
        named = [tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id]
        ends = {token for one in named for token in (one if isinstance(one, list | tuple) else [one])}
        ends |= {token for token, added in self._added.items() if added.content in _ENDS}
        self.ends = frozenset(ends - {None})
        self.pad = int(next(token for token in (tokenizer.pad_token_id, *sorted(self.ends), 0) if token is not None))

    def tokenize(self, text: str) -> list[int]:
        """Ids of `text` as it stands: special tokens written in it are recognised, none are added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def piece(self, token: int) -> bytes:
        """The bytes a token writes; a control token writes none."""
        if token not in self._pieces:
            self._pieces[token] = self._piece(token)
        return self._pieces[token]

    def _piece(self, token: int) -> bytes:
        if token in self._added:
            return b"" if self._added[token].special else str(self._added[token].content).encode()
        text = self.tokenizer.convert_ids_to_tokens(token)
        if text is None:
            return b""
        if self._bytes:
            return bytes(self._bytes[char] for char in text)
        if len(text) == 6 and text.startswith("<0x"):
            return bytes([int(text[3:5], 16)])
        return str(text).replace("▁", " ").encode()
