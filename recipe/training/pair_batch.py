"""A batch of preference pairs, and the log-probabilities of its completions.

With `shared` a pair is one sequence, [prompt, chosen, rejected], and a mask hides the chosen completion from the
rejected one. The prompt, most of the tokens, is computed once. This takes an attention with 4-D masks (sdpa or eager).
Without `shared` each completion is a sequence with its own prompt. Both give the same numbers. Logits are computed at
the completions' tokens alone, a chunk at a time, and again in the backward pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK = 256  # tokens whose logits are in memory at a time


Pair = Mapping[str, Sequence[int]]
"""Token ids: `prompt_ids`, `chosen_ids`, `rejected_ids`. None is empty; completions end with the end token."""


def can_share(model: Any) -> bool:
    """Whether `pack` may take `shared`. A mask of our own would undo a model's sliding windows."""
    return "sliding_attention" not in (getattr(model.config, "layer_types", None) or ())


def pack(pairs: Sequence[Pair], pad: int, *, shared: bool) -> dict[str, torch.Tensor]:
    """Make one batch of B pairs, padded with the id `pad`.

    Returns:
        The model's inputs: `input_ids`, `attention_mask`, and `position_ids` where `shared`. For the 2B completions,
        chosen before rejected: `completions` and `completion_mask` [2B, C]; `rows` and `places` [2B, C], where in
        `input_ids` the token before each of theirs is.
    """
    sides = [(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
    if shared:
        sequences = [[*pair["prompt_ids"], *pair["chosen_ids"], *pair["rejected_ids"]] for pair in pairs]
    else:
        sequences = [[*prompt, *completion] for prompt, completion in sides]
    ids, filled = _padded(sequences, pad)
    completions, completion_mask = _padded([completion for _, completion in sides], pad)
    places = torch.zeros_like(completions)
    for number, (prompt, completion) in enumerate(sides):
        start = len(prompt) - 1
        # In a shared sequence the rejected completion follows the chosen one; its first token follows the prompt.
        skipped = len(pairs[number - len(pairs)]["chosen_ids"]) if shared and number >= len(pairs) else 0
        places[number, : len(completion)] = start + skipped + torch.arange(len(completion))
        places[number, 0] = start
    rows = torch.arange(len(sides)) % len(sequences)
    batch = {
        "input_ids": ids,
        "attention_mask": filled.long(),
        "completions": completions,
        "completion_mask": completion_mask,
        "rows": rows.unsqueeze(1).expand_as(places),
        "places": places,
    }
    return batch | (_shared_view(pairs, ids) if shared else {})


def _padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask of what is no padding), both [N, length of the longest]."""
    ids = torch.full((len(sequences), max(map(len, sequences))), pad)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)


def _shared_view(pairs: Sequence[Pair], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """position_ids [B, S] and attention_mask [B, 1, S, S] (True: may attend) of sequences that hold a whole pair."""
    length = ids.shape[1]
    positions = torch.zeros_like(ids)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(pairs), 1, 1)
    for row, pair in enumerate(pairs):
        start, middle = len(pair["prompt_ids"]), len(pair["prompt_ids"]) + len(pair["chosen_ids"])
        end = middle + len(pair["rejected_ids"])
        positions[row, :middle] = torch.arange(middle)
        positions[row, middle:end] = start + torch.arange(end - middle)
        mask[row, :end, :end] = torch.ones(end, end, dtype=torch.bool).tril()
        mask[row, middle:end, start:middle] = False
    return {"position_ids": positions, "attention_mask": mask.unsqueeze(1)}


def token_logps(peft_model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability (nats) of each completion token, [2B, C]; 0 beyond a completion's end."""
    causal_lm = peft_model.get_base_model()
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids") if key in batch}
    hidden = causal_lm.base_model(**inputs, use_cache=False).last_hidden_state
    mask = batch["completion_mask"]
    before, tokens = hidden[batch["rows"][mask], batch["places"][mask]], batch["completions"][mask]

    def chosen(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cross_entropy(output_logits(causal_lm, states), targets, reduction="none")

    parts = zip(before.split(CHUNK), tokens.split(CHUNK), strict=True)
    logps = torch.cat([checkpoint(chosen, *part, use_reentrant=False) for part in parts])
    return logps.new_zeros(mask.shape).masked_scatter(mask, logps)


def output_logits(causal_lm: Any, hidden: Any) -> Any:
    """float32 logits of hidden states by the model's output head, capped where the model caps them (Gemma 2)."""
    logits = causal_lm.get_output_embeddings()(hidden).float()
    cap = getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()
