"""Stage DPO: J_{t+1} from J_t and its own preference pairs; the reference is J_t itself (SPEC: The recipe, 3c).

Makes adapter/ and training.json in its folder. The reference's log-probabilities were recorded while sampling, where
that is exact enough, else they are computed once before training.

On a 4-bit base the adapter is never merged into it (that would round most of the adapter away) and the reference is
the same base with J_t's adapter, so that only the adapter's change counts. The export adds the adapter to the 16-bit
base: another model by the base's rounding, which its card says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.config import DpoConfig
from recipe.data.records import Example, Judgement, Message, Preference
from recipe.errors import NothingToTrainError, SreError
from recipe.inference.base import Quantization, TrainingEngine
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.training.trainer import (
    completion_ids,
    one_gpu,
    progress_callback,
    prompt_ids,
    run_trainer,
    trainer_arguments,
)

# The recorded log-probabilities stand in for the reference pass when these many pairs (50 samples) agree this closely
# (nats).
CHECKED_PAIRS = 25
TOLERANCE = 0.1


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
) -> dict[str, Any]:
    """Go on training `adapter` (or, for DPO without SFT, a new one of settings `lora`) on `preferences`.

    `examples` holds the judged inputs by id. Pairs longer than `max_length` tokens are left out and counted. Raises
    SreError when no pair is left.
    """
    peft_model, tokenizer = engine.load(
        model,
        adapter=adapter,
        lora=None if adapter else {**(lora or {}), "seed": seed},
        quantization=quantization,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
    )
    rows = [to_row(tokenizer, prompts.judge(examples[pair.example_id]), pair) for pair in preferences]
    fitting = [row for row in rows if _length(row) <= max_length]
    if not fitting:
        raise NothingToTrainError(
            f"no preference pair to train on ({len(rows)} made, {len(rows)} longer than {max_length} tokens)"
        )
    trainer = make_trainer(peft_model, tokenizer, fitting, folder, settings, seed, gradient_checkpointing)
    facts = trainer.add_reference(settings.reference)
    with bar("DPO", trainer.args.max_steps, "steps") as advance:
        trainer.add_callback(progress_callback(advance))
        facts |= run_trainer(trainer, folder, advance)
    tokens = round(sum(_length(row) for row in fitting) * settings.epochs)
    return {
        "engine": engine.name,
        "pairs": len(fitting),
        "too_long": len(rows) - len(fitting),
        "tokens": tokens,
        **facts,
    }


def to_row(tokenizer: Any, prompt: Sequence[Message], pair: Preference) -> dict[str, Any]:
    """One pair as token ids, with the recorded reference log-probabilities (None where they don't hold)."""
    row: dict[str, Any] = {"prompt_ids": prompt_ids(tokenizer, prompt)}
    for side, judgement in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        ids = completion_ids(tokenizer, judgement.text)
        row[f"{side}_ids"] = ids
        row[f"ref_{side}_logps"] = _recorded(judgement, ids)
    return row


def _recorded(judgement: Judgement, ids: list[int]) -> float | None:
    """The sampler's log-probability, valid only when it drew exactly these ids, end token included."""
    return judgement.logprob if list(judgement.token_ids) == ids else None


def _length(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def make_trainer(
    peft_model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    folder: Path,
    settings: DpoConfig,
    seed: int,
    gradient_checkpointing: bool,
) -> Any:
    """TRL's DPOTrainer over tokenised pairs. On a CPU the two completions of a pair share one pass of their prompt;
    on a GPU Unsloth's kernels take no 4-D mask, and TRL's own pass is used."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig as TrlDpoConfig
    from trl import DPOTrainer
    from trl.models.utils import _ForwardRedirection

    from recipe.training import shared_prompt

    share = not torch.cuda.is_available()
    pad = tokenizer.pad_token_id

    class PairTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # the rows are token ids already

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset  # add_reference does it

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            if not share:
                return super()._compute_loss(model, inputs, return_outputs)
            plain = self.accelerator.unwrap_model(model)
            packed = shared_prompt.SharedPrompt(plain, inputs, self.accelerator.autocast)
            short = {key: value for key, value in inputs.items() if not key.startswith("packed_")}
            if model is plain:
                return super()._compute_loss(packed, short, return_outputs)
            # Several processes exchange gradients only after a pass through the wrapper's own forward.
            return _ForwardRedirection()(model, plain, super()._compute_loss, packed, short, return_outputs)

        def add_reference(self, choice: str) -> dict[str, Any]:
            self.train_dataset, facts = _with_reference(self, rows, choice)
            return facts

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = [shared_prompt.PackedPair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in batch]
        sides = {key: torch.tensor([row[key] for row in batch]) for key in ("ref_chosen_logps", "ref_rejected_logps")}
        return {**shared_prompt.pack(pairs, pad), **sides}

    arguments = trainer_arguments(
        settings,
        folder / "checkpoints",
        seed=seed,
        rows=len(rows),
        gradient_checkpointing=gradient_checkpointing,
    )
    trainer = PairTrainer(
        model=peft_model,
        args=one_gpu(TrlDpoConfig(**arguments, **_loss(settings), beta=settings.beta, precompute_ref_log_probs=True)),
        train_dataset=Dataset.from_list([{**row, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for row in rows]),
        processing_class=tokenizer,
        data_collator=collate if share else None,
    )
    # TRL's copy of the adapter, to compute the reference with. add_reference needs none, and in a checkpoint it hides
    # the adapter: transformers loads those in folders of their own or the one beside them, never both.
    trainer.model.delete_adapter("ref")
    return trainer


def _loss(settings: DpoConfig) -> dict[str, Any]:
    kind = "sigmoid_norm" if settings.length_normalise and settings.loss == "sigmoid" else settings.loss
    if settings.length_normalise and settings.loss != "sigmoid":
        raise SreError('length_normalise goes with loss = "sigmoid" only', field="dpo.length_normalise")
    if settings.sft_weight == 0:
        return {"loss_type": [kind]}
    return {"loss_type": [kind, "sft"], "loss_weights": [1.0, settings.sft_weight]}


def _with_reference(trainer: Any, rows: list[dict[str, Any]], choice: str) -> tuple[Any, dict[str, Any]]:
    """Fill in the reference log-probabilities; (dataset, facts: which were used, how far they differ)."""
    from datasets import Dataset

    recorded = [k for k, row in enumerate(rows) if None not in (row["ref_chosen_logps"], row["ref_rejected_logps"])]
    facts: dict[str, Any] = {"reference": "pass"}
    computed: dict[int, dict[str, Any]] = {}
    if choice != "pass" and recorded:
        checked = recorded[:CHECKED_PAIRS]
        here = reference_pass(trainer, [rows[k] for k in checked], "checking recorded log-probabilities")
        computed = dict(zip(checked, here, strict=True))
        sides = ("ref_chosen_logps", "ref_rejected_logps")
        gaps = [abs(rows[k][side] - computed[k][side]) for k in checked for side in sides]
        facts |= {"recorded_checked": len(gaps), "recorded_gap_max": round(max(gaps), 4)}
        facts["recorded_gap_mean"] = round(sum(gaps) / len(gaps), 4)
        if choice == "recorded" or max(gaps) <= TOLERANCE:
            facts["reference"] = "recorded"
    needed = [k for k in range(len(rows)) if facts["reference"] == "pass" or k not in recorded]
    missing = [k for k in needed if k not in computed]
    facts["reference_passes"] = len(missing) + len(computed)
    filled = reference_pass(trainer, [rows[k] for k in missing], "reference log-probabilities")
    computed |= dict(zip(missing, filled, strict=True))
    return Dataset.from_list([computed.get(k, row) for k, row in enumerate(rows)]), facts


def reference_pass(trainer: Any, rows: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """The rows with the untrained model's log-probabilities, computed as training computes them, without gradients.

    Several processes share the rows, and all get all of them.
    """
    import torch
    from accelerate.utils import gather_object

    if not rows:
        return []
    filled = []
    size = trainer.args.per_device_train_batch_size
    model = trainer.model
    was_training = model.training
    model.eval()
    with (
        torch.no_grad(),
        trainer.accelerator.split_between_processes(rows) as share,
        bar(label, len(share), "pairs") as advance,
    ):
        for start in range(0, len(share), size):
            batch = share[start : start + size]
            blank = [{**row, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for row in batch]
            inputs = {key: value.to(trainer.accelerator.device) for key, value in trainer.data_collator(blank).items()}
            logps = _logps(trainer, model, inputs)
            chosen, rejected = logps.chunk(2)
            for row, c, r in zip(batch, chosen.tolist(), rejected.tolist(), strict=True):
                filled.append({**row, "ref_chosen_logps": c, "ref_rejected_logps": r})
            advance(len(batch))
    model.train(was_training)
    gathered: list[dict[str, Any]] = gather_object(filled)
    return gathered


def _logps(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
    from recipe.training import shared_prompt

    if "packed_ids" in inputs:
        logits = shared_prompt.SharedPrompt(model, inputs, trainer.accelerator.autocast)().logits
    else:
        with trainer.accelerator.autocast():
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return shared_prompt.completion_logps(logits, inputs)
