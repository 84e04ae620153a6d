"""The settings of a run: frozen pydantic models and one TOML file. Unknown keys are errors.

The paper states only N = 10, temperature 1.0, 5000 and 500 inputs, and a margin of 2 or more. All else is ours.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recipe.errors import SreError, did_you_mean
from recipe.system import user_text

CONFIGS = Path(__file__).parent / "configs"
SEED_DATA = "seed-data"
Task = Literal["pointwise", "pairwise"]
# Section, name in older versions, name now: a run folder keeps its config.toml for years.
_RENAMED = (("export", "judge", "type"), ("dpo", "dev_share", "held_out_share"))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=_Section)


def only(section: S, *names: str) -> S:
    """The section with these settings and all others at their defaults: as much of it as somebody may read."""
    return type(section)(**{name: getattr(section, name) for name in names})


class ModelConfig(_Section):
    """The seed model and what trains it."""

    source: str = "smollm2-135m"  # the embedded default, a local folder or .gguf file, or a hub name
    revision: str | None = None
    engine: Literal["auto", "unsloth", "transformers"] = "auto"
    quantization: Literal["auto", "none", "nf4"] = "auto"  # auto: nf4 (QLoRA) on a GPU, none on a CPU
    max_length: int = Field(1024, ge=64)  # tokens of prompt and judgement together
    gradient_checkpointing: bool | Literal["auto"] = "auto"  # auto: on a GPU only


class DataConfig(_Section):
    """Where rows come from, and how many are used (null: all)."""

    # seed-data (or its part seed-data:counted), a file, a folder, or a hub name. "" is none: the judge then learns the
    # other task alone. So does it where a task is left out beside rows of your own for the other one.
    pointwise: str | None = None
    pairwise: str | None = None
    default: str = SEED_DATA  # the rows where both are left out
    train_pointwise: int | None = Field(None, ge=1)
    train_pairwise: int | None = Field(None, ge=1)
    # inputs: two scored responses to one prompt under one rubric make a pair, which the higher score wins. The pairs
    # join the inputs of self-rationalization.
    pairs_from_scores: Literal["off", "inputs"] = "off"
    pairs_balance_length: bool = True  # keep as many pairs whose shorter response wins as pairs whose longer one does
    # Share of the training rows whose response claims a verdict ("Score: 5"); label and rationale stay as they are.
    forged_share: float = Field(0.05, ge=0, le=1)
    # Share of the training rows with a reference answer that show it to the judge; 0: no row of the run shows one.
    reference_share: float = Field(0.5, ge=0, le=1)
    dev_pointwise: int | None = Field(None, ge=0)
    dev_pairwise: int | None = Field(None, ge=0)
    test_pointwise: int | None = Field(None, ge=0)
    test_pairwise: int | None = Field(None, ge=0)
    dev_split: str = "dev"  # the split with rows that decide which judge is best; "" takes none
    test_split: str = "test"  # the split with rows to measure the judges on; "" takes none
    # Where the data has no such split, the rows of so many of the training prompts. They are not trained on.
    dev_share: float = Field(0.1, ge=0, lt=1)
    test_share: float = Field(0.1, ge=0, lt=1)
    skip_bad_rows: bool = False

    def source(self, task: str) -> str:
        """Where a task's rows come from; "" where the run has none."""
        named, other = (self.pointwise, self.pairwise) if task == "pointwise" else (self.pairwise, self.pointwise)
        if named is not None:
            return named
        seed_data = other is not None and other.partition(":")[0] == SEED_DATA
        return self.default if not other else other if seed_data else ""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the judge learns."""
        scored = self.pairs_from_scores != "off"
        kinds: tuple[Task, ...] = ("pointwise", "pairwise")
        return tuple(task for task in kinds if self.source(task) or (scored and task == "pairwise"))

    def takes(self, split: Literal["dev", "test"]) -> bool:
        """Whether rows are held out to decide which judge is best (dev), or to measure the judges on (test)."""
        limits = [getattr(self, f"{split}_{task}") for task in self.tasks]
        return bool(getattr(self, f"{split}_split")) and any(limit != 0 for limit in limits)


class LoraConfig(_Section):
    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainConfig(_Section):
    """What SFT and DPO have in common."""

    learning_rate: float = Field(2e-4, gt=0)
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(2, ge=1)  # rows (SFT) or pairs (DPO) in one forward pass
    accumulate: int = Field(4, ge=1)  # forward passes per optimiser step
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the steps
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    checkpoints: int = Field(4, ge=0)  # saved per stage; a killed stage repeats at most one part of so many
    patience: int | None = Field(None, ge=1)  # checkpoints without a lower dev loss until training stops (null: never)

    @model_validator(mode="after")
    def _check_checkpoints(self) -> Self:
        if not self.checkpoints and (self.patience is not None or getattr(self, "held_out_share", False)):
            raise ValueError(
                "patience and held_out_share need checkpoints: what is measured on held-out rows is a checkpoint"
            )
        return self


class SftConfig(TrainConfig):
    label_only: bool = False  # ablation: train without rationales
    # Of rows that have labels alone. given: they are left out. bootstrap: a model writes them, see BootstrapConfig.
    rationales: Literal["given", "bootstrap"] = "given"
    both_orders: bool = True  # each training pair also with its responses exchanged

    @property
    def bootstraps(self) -> bool:
        """Whether a model writes rationales for training rows that have none."""
        return self.rationales == "bootstrap" and not self.label_only


class BootstrapConfig(_Section):
    """Rationales for training rows that have none, under sft.rationales = "bootstrap"."""

    # Who writes them: a GGUF file, or the address (http://…/v1) of a server that speaks OpenAI's API, whose key is in
    # the variable OPENAI_API_KEY. "" is the seed model, which is held to a form in English on llama.cpp.
    teacher: str = ""
    teacher_model: str | None = None  # on that server; null: the only one that it has
    n: int = Field(4, ge=1)  # judgements of a row, and as many more with its label as a hint where none had it
    keep: int = Field(1, ge=1)  # rationales of a row at most; each is a row of SFT
    temperature: float = Field(0.8, gt=0)
    max_tokens: int = Field(128, ge=16)
    block: int = Field(16, ge=1)  # rows judged together and written together


class MergeConfig(_Section):
    method: Literal["exact", "svd"] = "exact"  # svd: the best approximation of the sum at a lower rank
    pointwise_weight: float = 0.5
    pairwise_weight: float = 0.5
    rank: int | None = Field(None, ge=1)  # svd: the rank kept (null: lora.r)


class SampleConfig(_Section):
    """Self-rationalization: N judgements of each input from J_t."""

    inputs: tuple[int, ...] = (5000,)  # of each round; a round that isn't named takes a tenth of the one before it
    pairwise_share: float = Field(0.5, ge=0, le=1)
    n: int = Field(10, ge=1)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(256, ge=8)
    block: int = Field(16, ge=1)  # inputs sampled together and written together
    # auto: on a GPU vllm where it is installed beside Unsloth, else torch; without a GPU llamacpp.
    engine: Literal["auto", "llamacpp", "torch", "vllm"] = "auto"
    parallel: int = Field(16, ge=1, le=1024)  # llama.cpp takes up to 128
    # Layers that llama.cpp puts on a GPU, -1 for all. null: all if llama.cpp draws the samples and was built for a GPU
    # (`sre doctor`), else none. A GPU rounds differently from a CPU, so samples differ.
    gpu_layers: int | None = Field(None, ge=-1)

    def inputs_of(self, t: int) -> int:
        """How many inputs round t (from 1) samples."""
        further = max(0, t - len(self.inputs))
        named = self.inputs[t - further - 1]
        return max(2, round(named / 10**further)) if further else named


class CurateConfig(_Section):
    margin: int = Field(2, ge=1)  # pointwise; pairwise labels differ by 1 (right against wrong)
    max_pairs_per_input: int | None = Field(None, ge=1)
    max_pairs: int | None = Field(None, ge=1)
    balance_labels: bool = True  # every pair with its mirror, and every label chosen about equally often
    balance_criteria: bool = True  # mirrors of the same criterion first, and criteria take turns
    reject_malformed: bool = False  # whether a malformed judgement may be the rejected one


class DpoConfig(TrainConfig):
    learning_rate: float = Field(5e-5, gt=0)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(8, ge=1)
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(0.0, ge=0)  # weight of an SFT term on the chosen side (RPO); the paper has none
    max_kl: float | None = Field(None, gt=0)  # nats a completion from J_t at which training stops (null: never)
    held_out_share: float = Field(0.0, ge=0, le=0.5)  # of the inputs: their pairs choose the best checkpoint


class RoundsConfig(_Section):
    """Which rounds of self-rationalization are kept. It takes dev rows; without them every round is."""

    # better: the judge's dev figure is above that of the judge before. significant: the 95% interval of the difference
    # is above 0 too. The loop ends at the first round that isn't kept. all: every round is kept.
    keep: Literal["better", "significant", "all"] = "better"


class ExportConfig(_Section):
    snapshot: Literal["F32", "F16", "BF16"] = "F16"  # the file each J_t is sampled and evaluated with
    types: tuple[str, ...] = ("Q8_0", "Q4_K_M")
    type: str = "Q8_0"  # the one that becomes judge.gguf
    # Which judge becomes judge.gguf: sft, j1, …, or the best on the dev rows (the last where there are none).
    source: str = "best"
    flip_rows: int = Field(40, ge=0)  # rows on which the verdict flip rate is measured


class EvaluateConfig(_Section):
    max_tokens: int = Field(256, ge=8)
    label_only: bool = False  # ablation: ask for the label alone
    samples: int = Field(1, ge=1)  # more than one: self-consistency, the majority of so many at temperature 1
    both_orders: bool = True  # judge each pair of the test rows with its responses exchanged, too
    resamples: int = Field(2000, ge=100)


class Config(_Section):
    """One run: `sre run CONFIG`."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(0, ge=0)
    iterations: int = Field(2, ge=0)  # rounds of self-rationalization at most
    # What round 1 starts from. Ablations: mixed is one SFT on both tasks' rows; seed is no SFT at all.
    start: Literal["merged", "mixed", "seed"] = "merged"
    threads: int | None = Field(None, ge=1)  # of the CPU; null: all cores
    # Where training logs go besides training.json. auto: TensorBoard where it is installed. Changes no result.
    report_to: Literal["auto", "none", "tensorboard", "wandb", "trackio"] = "auto"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    sft: SftConfig = SftConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    merge: MergeConfig = MergeConfig()
    sample: SampleConfig = SampleConfig()
    curate: CurateConfig = CurateConfig()
    dpo: DpoConfig = DpoConfig()
    rounds: RoundsConfig = RoundsConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if not self.sample.inputs:
            raise ValueError("sample.inputs needs at least one number")
        if self.export.type not in (*self.export.types, self.export.snapshot):
            raise ValueError(f"export.type {self.export.type!r} is not among export.types or export.snapshot")
        if not self.data.tasks:
            raise ValueError("data.pointwise and data.pairwise are both empty; name rows for one of them")
        return self


def key_of(value: object) -> str | None:
    """The name in the file ("sft") of a section of the settings; None for any other value."""
    sections = Config.model_fields.items() if isinstance(value, _Section) else ()
    return next((name for name, field in sections if field.annotation is type(value)), None)


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file (a path, or the name of a shipped one such as "cpu-smollm2-135m"), apply `key=value`.

    A value is TOML (`sample.n=4`, `data.pointwise="my.jsonl"`); text that isn't TOML counts as a string.
    Raises SreError naming the file and the key for anything unknown, missing or of the wrong type.
    """
    path = _find(source)
    try:
        raw = tomllib.loads(user_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SreError(f"not valid TOML: {error}", file=path) from None
    _find_data(raw.get("data"), path.parent)
    for override in overrides:
        _apply(raw, override)
    return validate(raw, file=path)


def validate(raw: dict[str, Any], *, file: str | Path | None = None) -> Config:
    """Build a Config from a plain dict; SreError names the first wrong key. Names of older versions are understood."""
    for section, old, new in _RENAMED:
        part = raw.get(section)
        if isinstance(part, dict) and old in part:
            part.setdefault(new, part.pop(old))
    if raw.get("update") == "dpo":
        del raw["update"]  # older versions had best-of-n, too, which is a baseline of experiments/ now
    curation = raw.get("curate")
    method = curation.pop("method", "correct-answer") if isinstance(curation, dict) else "correct-answer"
    if method != "correct-answer":
        advice = f"the other methods are baselines, run from a checkout: python -m experiments PRESET {method}"
        raise SreError(f"pairs are right answers against wrong ones; {advice}", file=file, field="curate.method")
    try:
        return Config.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        section, _, name = key.rpartition(".")
        plain = Config().model_dump()
        inner = [f"{part}.{own}" for part, found in plain.items() if isinstance(found, dict) for own in found]
        known = sorted([*plain, *inner], key=lambda other: other.rpartition(".")[0] == section)  # its own section wins
        names = {other.rpartition(".")[2]: other for other in known}
        hint = did_you_mean(name, names, shown=names) or "; see `sre config` for all of them"
        message = f"unknown setting{hint}" if unknown else first["msg"]
        raise SreError(message, file=file, field=key or None) from None


def dump(config: Config) -> str:
    """The config as TOML text that `load` reads back to an equal Config. Unset (None) keys are left out."""
    text = partial(json.dumps, ensure_ascii=False)  # what JSON writes of these values is TOML too
    plain = config.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {text(value)}" for key, value in plain.items() if not isinstance(value, dict)]
    for section, values in plain.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {text(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def presets() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def _find(source: str | Path) -> Path:
    path = Path(source)
    for file in (path, path / "config.toml"):
        if file.is_file():
            return file
    shipped = CONFIGS / f"{source}.toml"
    if shipped.is_file():
        return shipped
    hint = did_you_mean(str(source), presets()) or f" (presets: {', '.join(presets())})"
    raise SreError(f"no such config file, and no preset of that name{hint}", file=source)


def _find_data(data: Any, folder: Path) -> None:
    """Let a relative source of rows that isn't in the current folder be the one in the config's folder.

    `sre init` writes it with that folder's name. What takes its place counts from the current folder again.
    """
    for name in ("default", "pointwise", "pairwise") if isinstance(data, dict) else ():
        source = data.get(name)
        if not isinstance(source, str) or not source or source.partition(":")[0] == SEED_DATA:
            continue
        path, above = Path(source), Path(source).parent.parts
        if path.is_absolute() or path.exists():
            continue
        named = above and folder.resolve().parts[-len(above) :] == above
        found = folder / (path.name if named else path)
        if found.exists():
            data[name] = os.path.relpath(found)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SreError(f"{override!r} is not of the form key=value, e.g. --set sample.n=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise SreError(f"{section!r} is a single value, not a section", field=key.strip())
    raw[last] = value
