"""DPO's forward pass with the prompt computed once: [prompt, chosen, rejected] as one masked sequence.

A pair's two completions follow the same prompt, which is most of the tokens. Packed so, a pair of 2 x (260 + 60)
tokens costs 380, and logits are computed at completion places only. Exact: rejected tokens see the prompt and
themselves, never the chosen. Needs an attention that takes a 4-D mask (transformers' sdpa or eager).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True)
class PackedPair:
    """Token ids of one pair. All non-empty; completions end with the end token."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]


def pack(pairs: Sequence[PackedPair], pad: int) -> dict[str, torch.Tensor]:
    """Pack B pairs into one row each.

    packed_ids, packed_positions [B, S]; packed_mask [B, 1, S, S] (True: may attend); packed_places [2B, 1 + C], the
    place in the row of every token of the short view, chosen before rejected. The short view is what TRL's loss sees,
    [2B, 1 + C]: the prompt's last token and the completion, as input_ids, attention_mask and completion_mask.
    """
    longest = max(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
    width = 1 + max(max(len(p.chosen), len(p.rejected)) for p in pairs)
    ids = torch.full((len(pairs), longest), pad)
    positions = torch.zeros_like(ids)
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(pairs), 1, 1)
    short = torch.full((2 * len(pairs), width), pad)
    completion = torch.zeros_like(short)
    places = torch.zeros_like(short)
    for row, pair in enumerate(pairs):
        start, middle = len(pair.prompt), len(pair.prompt) + len(pair.chosen)
        end = middle + len(pair.rejected)
        ids[row, :end] = torch.tensor([*pair.prompt, *pair.chosen, *pair.rejected])
        positions[row, :middle] = torch.arange(middle)
        positions[row, middle:end] = start + torch.arange(end - middle)
        mask[row, :end, :end] = torch.ones(end, end, dtype=torch.bool).tril()
        mask[row, middle:end, start:middle] = False
        sides = ((row, start, middle), (len(pairs) + row, middle, end))
        for side, first, last in sides:
            count = last - first
            short[side, 0] = pair.prompt[-1]
            short[side, 1 : 1 + count] = ids[row, first:last]
            completion[side, 1 : 1 + count] = 1
            places[side, 0] = start - 1
            places[side, 1 : 1 + count] = torch.arange(first, last)
    attention = completion.clone()
    attention[:, 0] = 1
    return {
        "input_ids": short,
        "attention_mask": attention,
        "completion_mask": completion,
        "packed_ids": ids,
        "packed_positions": positions,
        "packed_mask": mask.unsqueeze(1),
        "packed_places": places,
    }


class SharedPrompt:
    """Stands in for the model in TRL's loss: called with the short view, it runs the packed rows."""

    def __init__(
        self,
        peft_model: Any,
        batch: dict[str, torch.Tensor],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = peft_model.base_model.model
        self._batch = batch
        self._autocast = autocast

    def __call__(self, **_: Any) -> SimpleNamespace:
        """logits [2B, 1 + C, vocabulary] for the short view's tokens."""
        with self._autocast():
            hidden = self._model.base_model(
                input_ids=self._batch["packed_ids"],
                position_ids=self._batch["packed_positions"],
                attention_mask=self._batch["packed_mask"],
                use_cache=False,
            ).last_hidden_state
            places = self._batch["packed_places"]
            rows = torch.arange(len(hidden), device=hidden.device).repeat(2).unsqueeze(1)
            logits = self._model.get_output_embeddings()(hidden[rows, places])
        return SimpleNamespace(logits=logits.float())


def completion_logps(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the completion tokens' log-probabilities (nats), [2B]."""
    logps = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    chosen = logps.gather(2, batch["input_ids"][:, 1:].unsqueeze(2)).squeeze(2)
    return (chosen * batch["completion_mask"][:, 1:]).sum(dim=1)
