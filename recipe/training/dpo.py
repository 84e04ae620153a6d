"""Stage DPO: J_{t+1} from J_t and its own preference pairs. The reference is J_t itself.

Makes adapter/ and training.json in its folder. The reference's log-probabilities were recorded while sampling, where
that is exact enough, else they are computed once before training.

On a 4-bit base the adapter is never merged into it (that would round most of the adapter away) and the reference is
the same base with J_t's adapter, so that only the adapter's change counts. The export adds the adapter to the 16-bit
base: another model by the base's rounding, which its card says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recipe.config import DpoConfig
from recipe.data.records import Example, Preference
from recipe.errors import NothingToTrainError
from recipe.inference.base import Quantization
from recipe.inference.pytorch.loading import TrainingEngine
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.training.trainer import (
    adapter_unrounded,
    completion_ids,
    label_places,
    one_gpu,
    prompt_ids,
    rows_on_disk,
    run_trainer,
    trainer_arguments,
)

# The recorded log-probabilities stand in for the reference pass when this many pairs (50 samples) agree this closely
# (nats).
CHECKED_PAIRS = 25
TOLERANCE = 0.1
KL_STEPS = 8  # optimiser steps over which the KL that may end training is averaged

# Of one completion: the reference's log-probability of all its tokens, and of the label's tokens alone (nats).
Logps = tuple[float, float]


def run_dpo(
    folder: Path,
    *,
    engine: TrainingEngine,
    model: Path,
    adapter: Path | None,
    lora: dict[str, Any] | None,
    examples: dict[str, Example],
    preferences: Sequence[Preference],
    prompts: Prompts,
    settings: DpoConfig,
    quantization: Quantization,
    max_length: int,
    gradient_checkpointing: bool,
    seed: int,
    report_to: str = "none",
    run: str = "",
) -> dict[str, Any]:
    """Go on training an adapter on preference pairs.

    Args:
        folder: The stage's folder.
        engine: Loads the model.
        model: The seed model's folder.
        adapter: J_t's adapter; None for DPO without SFT.
        lora: Settings of a new adapter, where `adapter` is None.
        examples: The judged inputs by id.
        preferences: The pairs.
        prompts: The templates.
        settings: The section `dpo`.
        quantization: How the base is loaded.
        max_length: A pair is left out, and counted, when its prompt and the longer completion have more tokens.
        gradient_checkpointing: Whether the backward pass computes activations anew.
        seed: The run's seed.
        report_to: Where the log goes besides training.json; see `run_trainer`.
        run: The run's name in that log.

    Returns:
        Facts for the done marker.

    Raises:
        NothingToTrainError: No pair is left.
    """
    peft_model, tokenizer = engine.load(
        model,
        adapter=adapter,
        lora=None if adapter else {**(lora or {}), "seed": seed},
        quantization=quantization,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
    )
    rows, dev_rows = (
        rows_on_disk(folder, name, to_rows(tokenizer, examples, pairs, max_length, prompts))
        for name, pairs in zip(("rows", "dev"), hold_out(preferences, settings.dev_share, seed), strict=True)
    )
    if rows is None:
        raise NothingToTrainError(
            f"no preference pair to train on ({len(preferences)} made, none within {max_length} tokens)"
        )
    trainer = make_trainer(peft_model, tokenizer, rows, dev_rows, folder, settings, seed, gradient_checkpointing)
    trainer.train_dataset, facts = with_reference(trainer, rows, settings)
    if dev_rows is not None:
        trainer.eval_dataset, _ = with_reference(trainer, dev_rows, settings)
    facts |= run_trainer(trainer, folder, settings, "DPO", report_to=report_to, run=run)
    kept = len(rows) + (0 if dev_rows is None else len(dev_rows))
    tokens = sum(len(row[key]) for row in rows for key in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return {
        "engine": engine.name,
        "pairs": len(rows),
        "too_long": len(preferences) - kept,
        "tokens": round(tokens * settings.epochs),
        "kl": recent_kl(trainer.state.log_history),
        "stopped_early": facts["steps"] < trainer.args.max_steps,
        **facts,
    }


def hold_out(pairs: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """(pairs to train on, dev pairs): the dev pairs are all those of a share of the inputs, drawn by `seed`."""
    inputs = sorted({pair.example_id for pair in pairs})
    held = set(random.Random(f"{seed}:dev").sample(inputs, round(share * len(inputs))))
    return [pair for pair in pairs if pair.example_id not in held], [pair for pair in pairs if pair.example_id in held]


def to_rows(
    tokenizer: Any, examples: dict[str, Example], pairs: Iterable[Preference], max_length: int, prompts: Prompts
) -> Iterator[dict[str, Any]]:
    """Tokenise the pairs that fit.

    Args:
        tokenizer: The model's tokeniser, with its chat template.
        examples: The judged inputs by id.
        pairs: The pairs.
        max_length: The most tokens of a prompt and one completion.
        prompts: The templates.

    Yields:
        `prompt_ids`, and of both sides `…_ids`; `…_places`, the indices of the completion's tokens that spell its
        label; and `…_drawn`, the log-probability recorded when it was drawn, None where other tokens were drawn.
    """
    for pair in pairs:
        example = examples[pair.example_id]
        row: dict[str, Any] = {"prompt_ids": prompt_ids(tokenizer, prompts.judge(example))}
        for side, judgement in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            ids = row[f"{side}_ids"] = completion_ids(tokenizer, judgement.text)
            row[f"{side}_drawn"] = judgement.logprob if list(judgement.token_ids) == ids else None
            row[f"{side}_places"] = label_places(tokenizer, judgement.text, example.labels)
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= max_length:
            yield row


def make_trainer(
    peft_model: Any,
    tokenizer: Any,
    rows: Any,
    dev_rows: Any,
    folder: Path,
    settings: DpoConfig,
    seed: int,
    gradient_checkpointing: bool,
) -> Any:
    """TRL's DPOTrainer over the rows of `to_rows`, as datasets; `dev_rows` may be None. The loss is `preference_loss`.

    On a CPU the two completions of a pair share one pass of their prompt. On a GPU Unsloth's kernels take no 4-D mask,
    and each has a pass of its own. The datasets still need `with_reference`.
    """
    import torch
    from transformers import TrainerCallback
    from trl import DPOConfig as TrlDpoConfig
    from trl import DPOTrainer
    from trl.models.utils import _ForwardRedirection

    from recipe.training import pair_batch

    shared = not torch.cuda.is_available()

    class PairTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # the rows are token ids already

        def token_logps(self, plain: Any, inputs: dict[str, Any]) -> Any:
            with self.accelerator.autocast():
                return pair_batch.token_logps(plain, inputs)

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            plain = self.accelerator.unwrap_model(model)
            # Several processes exchange gradients only after a pass through the wrapper's own forward.
            logps = (
                self.token_logps(plain, inputs)
                if model is plain
                else _ForwardRedirection()(model, plain, self.token_logps, plain, inputs)
            )
            loss, metrics = preference_loss(logps, inputs, settings)
            for name, values in metrics.items():
                mean = self.accelerator.gather(values.detach()).mean().item()
                self._metrics["train" if self.model.training else "eval"][name].append(mean)
            return (loss, None) if return_outputs else loss

    class StopAtKl(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if settings.max_kl is not None and recent_kl(state.log_history) > settings.max_kl:
                control.should_training_stop = True

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pairs = [pair_batch.TokenPair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in batch]
        packed = pair_batch.pack(pairs, tokenizer.pad_token_id, shared=shared)
        label_mask = torch.zeros_like(packed["completion_mask"])
        for number, row in enumerate([*batch, *batch]):
            label_mask[number, row["chosen_places" if number < len(batch) else "rejected_places"]] = True
        sides = [row.get(f"reference_{side}", (0.0, 0.0)) for side in ("chosen", "rejected") for row in batch]
        return {**packed, "label_mask": label_mask, "reference": torch.tensor(sides)}

    dev = dev_rows is not None
    arguments = trainer_arguments(
        settings, folder, seed=seed, rows=len(rows), gradient_checkpointing=gradient_checkpointing, dev=dev
    )
    with adapter_unrounded(peft_model):
        trainer = PairTrainer(
            model=peft_model,
            args=one_gpu(TrlDpoConfig(**arguments, beta=settings.beta)),
            train_dataset=rows,
            eval_dataset=dev_rows if settings.checkpoints else None,
            processing_class=tokenizer,
            data_collator=collate,
        )
    # TRL's copy of the adapter, for a reference that we compute without it. In a checkpoint it would hide the adapter:
    # transformers loads those in folders of their own or the one beside them, never both.
    trainer.model.delete_adapter("ref")
    trainer.add_callback(StopAtKl())
    return trainer


def preference_loss(logps: Any, batch: dict[str, Any], settings: DpoConfig) -> tuple[Any, dict[str, Any]]:
    """The loss of a batch of pairs, and what is logged of it.

    A completion's reward is beta times the sum, over its tokens, of w * (log-probability - the reference's), with w =
    `label_weight` at the label's tokens and 1 elsewhere. At weight 1 this is DPO as published; a larger weight lets the
    loss see the label, which is one token of about a hundred.

    Args:
        logps: Log-probability of each completion token, [2B, C], chosen before rejected, 0 beyond the end.
        batch: `completion_mask` and `label_mask` [2B, C]; `reference` [2B, 2]: the reference's log-probability of all
            tokens of a completion, and of the label's tokens.
        settings: The section `dpo`.

    Returns:
        (loss, one value for each pair of: rewards/chosen, /rejected, /margins and /accuracies, logps/chosen and
        /rejected, and kl, nats that J_t's own completions have lost: an estimate of the KL divergence from J_t).
    """
    import torch

    extra = settings.label_weight - 1
    sums, at_label, reference = logps.sum(1), (logps * batch["label_mask"]).sum(1), batch["reference"]
    scores = sums + extra * at_label
    ratios = scores - reference[:, 0] - extra * reference[:, 1]
    weights = batch["completion_mask"].sum(1) + extra * batch["label_mask"].sum(1)
    averaged = settings.length_normalise or settings.loss == "ipo"
    chosen, rejected = (ratios / weights if averaged else ratios).chunk(2)
    delta = chosen - rejected
    if settings.loss == "sigmoid":
        losses = -torch.nn.functional.logsigmoid(settings.beta * delta)
    elif settings.loss == "hinge":
        losses = torch.relu(1 - settings.beta * delta)
    else:
        losses = (delta - 1 / (2 * settings.beta)) ** 2
    loss = losses.mean()
    if settings.sft_weight:
        loss = loss - settings.sft_weight * scores.chunk(2)[0].sum() / weights.chunk(2)[0].sum()
    rewards = (settings.beta * ratios).chunk(2)
    names = ("chosen", "rejected")
    metrics = {f"rewards/{name}": side for name, side in zip(names, rewards, strict=True)}
    metrics |= {f"logps/{name}": side for name, side in zip(names, sums.chunk(2), strict=True)}
    metrics |= {"rewards/margins": rewards[0] - rewards[1], "rewards/accuracies": (rewards[0] > rewards[1]).float()}
    return loss, metrics | {"kl": sum((reference[:, 0] - sums).chunk(2)) / 2}


def recent_kl(history: Sequence[dict[str, Any]]) -> float:
    """The mean of the last steps' `kl` (nats a completion)."""
    found = [float(entry["kl"]) for entry in history if "kl" in entry][-KL_STEPS:]
    return sum(found) / len(found) if found else 0.0


def with_reference(trainer: Any, rows: Any, settings: DpoConfig) -> tuple[Any, dict[str, Any]]:
    """Add the reference's log-probabilities to a dataset.

    Args:
        trainer: The trainer, before its first step.
        rows: A dataset that `make_trainer` was given.
        settings: The section `dpo`. A label weight needs the reference of the label's tokens, which isn't recorded.

    Returns:
        (the dataset with the columns that the trainer reads, facts: which reference was used and how far the two
        differ where both are known).
    """
    known: dict[int, tuple[Logps, Logps]] = {
        k: ((chosen, 0.0), (rejected, 0.0))
        for k, (chosen, rejected) in enumerate(zip(rows["chosen_drawn"], rows["rejected_drawn"], strict=True))
        if chosen is not None and rejected is not None
    }
    facts: dict[str, Any] = {"reference": "pass"}
    computed: dict[int, tuple[Logps, Logps]] = {}
    if settings.reference != "pass" and settings.label_weight == 1 and known:
        checked = list(known)[:CHECKED_PAIRS]
        computed = reference_pass(trainer, rows, checked, "checking recorded log-probabilities")
        gaps = [abs(known[k][side][0] - computed[k][side][0]) for k in checked for side in (0, 1)]
        facts |= {"recorded_checked": len(gaps), "recorded_gap_max": round(max(gaps), 4)}
        facts["recorded_gap_mean"] = round(sum(gaps) / len(gaps), 4)
        if settings.reference == "recorded" or max(gaps) <= TOLERANCE:
            facts["reference"] = "recorded"
    usable = known if facts["reference"] == "recorded" else {}
    missing = [k for k in range(len(rows)) if k not in usable and k not in computed]
    facts["reference_passes"] = len(missing) + len(computed)
    found = {**usable, **computed, **reference_pass(trainer, rows, missing, "reference log-probabilities")}
    for number, side in enumerate(("chosen", "rejected")):
        rows = rows.add_column(f"reference_{side}", [list(found[k][number]) for k in range(len(rows))])
    return rows, facts


def reference_pass(trainer: Any, rows: Any, indices: Sequence[int], label: str) -> dict[int, tuple[Logps, Logps]]:
    """Log-probabilities of the rows at `indices`, computed as training computes them, without gradients.

    Several processes share the rows, and all get all of them.
    """
    import torch
    from accelerate.utils import gather_object

    if not indices:
        return {}
    found: list[tuple[int, list[float], list[float]]] = []
    size = trainer.args.per_device_train_batch_size
    model = trainer.model
    was_training = model.training
    model.eval()
    with (
        torch.no_grad(),
        trainer.accelerator.split_between_processes(list(indices)) as share,
        bar(label, len(share), "pairs") as advance,
    ):
        for start in range(0, len(share), size):
            part = share[start : start + size]
            batch = trainer.data_collator([rows[k] for k in part])
            batch = {key: value.to(trainer.accelerator.device) for key, value in batch.items()}
            logps = trainer.token_logps(model, batch)
            sides = torch.stack([logps.sum(1), (logps * batch["label_mask"]).sum(1)], dim=1).tolist()
            found += zip(part, sides[: len(part)], sides[len(part) :], strict=True)
            advance(len(part))
    model.train(was_training)
    return {k: ((*chosen,), (*rejected,)) for k, chosen, rejected in gather_object(found)}
