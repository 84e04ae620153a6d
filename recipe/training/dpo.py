"""Stage DPO: J_{t+1} from J_t and its own preference pairs. The reference is J_t itself.

Writes adapter/ and training.json in its folder. The reference's log-probabilities are computed once, before training.

A 4-bit base stays as it is: merging J_t's adapter into it would round most of the adapter away. So policy and reference
share the 4-bit base and differ by the adapter alone. The export adds the adapter to the 16-bit base, which is another
model by the base's rounding; its card says so.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from recipe.config import DpoConfig
from recipe.data.records import Example, Preference
from recipe.errors import NothingToTrainError
from recipe.progress import bar
from recipe.training.trainer import Training, completion_ids, prompt_ids, tokens_in

KL_STEPS = 8  # `max_kl` looks at the mean KL of so many optimiser steps

SIDES = ("chosen", "rejected")


def run_dpo(
    training: Training[DpoConfig], *, examples: dict[str, Example], preferences: Sequence[Preference]
) -> dict[str, Any]:
    """Train J_t's adapter, or a new one for DPO without SFT, on preference pairs; returns facts for the marker."""
    settings = training.settings
    pairs, dev = hold_out(preferences, settings.held_out_share, training.seed)
    training.put(to_rows(training, examples, pairs), to_rows(training, examples, dev))
    rows, dev_rows = training.rows, training.dev_rows
    if rows is None:
        made = f"{len(preferences)} made, none within {training.loading.max_length} tokens"
        raise NothingToTrainError(f"no preference pair to train on ({made})")
    kept = len(rows) + (0 if dev_rows is None else len(dev_rows))
    too_long = training.left_out(len(preferences), kept, "preference pairs")
    trainer = make_trainer(training)
    trainer.train_dataset = with_reference(trainer, rows)
    if dev_rows is not None:
        trainer.eval_dataset = with_reference(trainer, dev_rows)
    facts = training.run(trainer, "DPO")
    tokens = tokens_in(rows, "prompt_ids", "chosen_ids", "rejected_ids")
    return {
        "engine": training.engine.name,
        "pairs": len(rows),
        "too_long": too_long,
        "tokens": round(tokens * settings.epochs),
        "kl": recent_kl(trainer.state.log_history),
        "stopped_early": facts["steps"] < trainer.args.max_steps,
        **facts,
    }


def hold_out(pairs: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """(training pairs, dev pairs): all pairs of a share of the inputs, drawn by `seed`, are dev pairs."""
    inputs = sorted({pair.example_id for pair in pairs})
    held = set(random.Random(f"{seed}:dev").sample(inputs, round(share * len(inputs))))
    return [pair for pair in pairs if pair.example_id not in held], [pair for pair in pairs if pair.example_id in held]


def to_rows(
    training: Training[DpoConfig], examples: dict[str, Example], pairs: Iterable[Preference]
) -> Iterator[dict[str, list[int]]]:
    """Tokenise the pairs whose prompt and longer completion fit into `max_length` tokens together."""
    tokenizer, longest = training.tokenizer, training.loading.max_length
    for pair in pairs:
        row = {
            "prompt_ids": prompt_ids(tokenizer, training.prompts.judge(examples[pair.example_id])),
            "chosen_ids": completion_ids(tokenizer, pair.chosen.text),
            "rejected_ids": completion_ids(tokenizer, pair.rejected.text),
        }
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= longest:
            yield row


def make_trainer(training: Training[DpoConfig]) -> Any:
    """TRL's DPOTrainer with `preference_loss`. Before training, its rows need `with_reference`."""
    import torch
    from transformers import TrainerCallback
    from trl import DPOConfig as TrlDpoConfig
    from trl import DPOTrainer
    from trl.models.utils import _ForwardRedirection

    from recipe.training import pair_batch

    settings, tokenizer = training.settings, training.tokenizer
    shared = not torch.cuda.is_available() and pair_batch.can_share(training.model)

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
        packed = pair_batch.pack(batch, tokenizer.pad_token_id, shared=shared)
        reference = [row.get(f"reference_{side}", 0.0) for side in SIDES for row in batch]
        return {**packed, "reference": torch.tensor(reference)}

    config = TrlDpoConfig(**training.arguments(), beta=settings.beta)
    trainer = training.open(PairTrainer, config, data_collator=collate)
    # TRL's copy of the adapter, as its reference. We need none, and in a checkpoint it would hide the adapter: of
    # several adapters transformers loads only those in subfolders.
    trainer.model.delete_adapter("ref")
    trainer.add_callback(StopAtKl())
    return trainer


def preference_loss(logps: Any, batch: dict[str, Any], settings: DpoConfig) -> tuple[Any, dict[str, Any]]:
    """The loss of a batch of pairs, and what is logged: one value for each pair.

    A completion's reward is beta * (its log-probability - the reference's). `kl` is what the log-probability of J_t's
    own completions has lost (nats), an estimate of the KL divergence from J_t. logps: of each completion token,
    [2B, C], chosen before rejected, 0 beyond the end. batch: `completion_mask` [2B, C], `reference` [2B].
    """
    import torch

    sums, tokens, reference = logps.sum(1), batch["completion_mask"].sum(1), batch["reference"]
    ratios = sums - reference
    chosen, rejected = (settings.beta * ratios).chunk(2)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    if settings.sft_weight:
        loss = loss - settings.sft_weight * sums.chunk(2)[0].sum() / tokens.chunk(2)[0].sum()
    rewards = {"chosen": chosen, "rejected": rejected, "margins": chosen - rejected}
    metrics = {f"rewards/{name}": value for name, value in rewards.items()}
    metrics |= {f"logps/{name}": side for name, side in zip(SIDES, sums.chunk(2), strict=True)}
    metrics["rewards/accuracies"] = (chosen > rejected).float()
    return loss, metrics | {"kl": sum((reference - sums).chunk(2)) / 2}


def recent_kl(history: Sequence[dict[str, Any]]) -> float:
    """The mean of the last steps' `kl` (nats a completion)."""
    found = [float(entry["kl"]) for entry in history if "kl" in entry][-KL_STEPS:]
    return sum(found) / len(found) if found else 0.0


def with_reference(trainer: Any, rows: Any) -> Any:
    """The dataset with the reference's log-probabilities: those of the trainer's model before its first step.

    They are computed as in training, but without gradients. Several processes share the rows, and all get all of them.
    """
    import torch
    from accelerate.utils import gather_object

    found: list[tuple[float, float]] = []
    size, model = trainer.args.per_device_train_batch_size, trainer.model
    was_training = model.training
    model.eval()
    with (
        torch.no_grad(),
        trainer.accelerator.split_between_processes(list(range(len(rows)))) as share,  # each a run of rows
        bar("reference log-probabilities", len(share), "pairs") as advance,
    ):
        for start in range(0, len(share), size):
            batch = trainer.data_collator([rows[k] for k in share[start : start + size]])
            batch = {key: value.to(trainer.accelerator.device) for key, value in batch.items()}
            chosen, rejected = trainer.token_logps(model, batch).sum(1).chunk(2)
            found += zip(chosen.tolist(), rejected.tolist(), strict=True)
            advance(len(chosen))
    model.train(was_training)
    for side, sums in zip(SIDES, zip(*gather_object(found), strict=True), strict=True):
        rows = rows.add_column(f"reference_{side}", list(sums))
    return rows
