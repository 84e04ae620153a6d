"""The weights of a Hugging Face model folder, read tensor by tensor, with a LoRA adapter merged on the way.

Knows tensors by their Hugging Face names ("model.layers.0.self_attn.q_proj.weight"), nothing of GGUF.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import SreError

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Settings of an adapter that change the model in ways a plain sum of deltas does not reproduce.
_REFUSED = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises SreError when it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SreError("this file is missing", file=path) from error
    except (OSError, ValueError) as error:
        raise SreError(f"can't be read as JSON: {error}", file=path) from error
    if not isinstance(value, dict):
        raise SreError("expected a JSON object", file=path)
    return value


class Checkpoint:
    """The safetensors of a model folder. `shapes` maps each tensor's name to its shape; no data is held.

    Raises SreError when there are no safetensors, a shard is missing, or the weights are quantised.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.config = read_json(folder / "config.json")
        if self.config.get("quantization_config"):
            raise SreError("the weights are quantised; give the model's full-precision folder", file=folder)
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shard_of: dict[str, Path] = {}
        for path in shard_paths(folder):
            handle = self._files[path.name] = _open(safe_open, path)
            for name in handle.keys():  # noqa: SIM118 - not a dict
                self.shapes[name] = tuple(handle.get_slice(name).get_shape())
                self.shard_of[name] = path

    def tensor(self, name: str) -> Any:
        """The torch tensor `name`, in the type it is stored in."""
        return self._files[self.shard_of[name].name].get_tensor(name)


def shard_paths(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises SreError when there are none or one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise SreError(f"the shard {missing[0]} is missing ({len(missing)} in all)", file=index)
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise SreError(
        "no model.safetensors here; save the model with transformers' save_pretrained (safetensors)",
        file=folder,
    )


def _open(safe_open: Any, path: Path) -> Any:
    from safetensors import SafetensorError

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SreError(f"not whole safetensors, cut short perhaps: {error}", file=path) from error


@dataclass(frozen=True)
class LoraModule:
    """One adapted matrix: the names of its factors A (r, in) and B (out, r), and the scale of B @ A."""

    a: str
    b: str
    scale: float


def open_adapter(folder: Path, *further: str) -> tuple[dict[str, Any], Any]:
    """The settings of a LoRA adapter and its open safetensors.

    Raises SreError, with the reason, for files that are missing, cut short or of another format, and for an adapter
    that is more than scale * B @ A. further: names of settings that the caller can't take either.
    """
    from safetensors import safe_open

    where = folder / "adapter_config.json"
    if not where.is_file():
        raise SreError("not an adapter folder: adapter_config.json is missing", file=folder)
    config = read_json(where)
    if config.get("peft_type") != "LORA":
        raise SreError(f"expected a LoRA adapter, not {config.get('peft_type')!r}", file=where, field="peft_type")
    if config.get("bias", "none") != "none":
        raise SreError("an adapter with biases can't be used; train with bias none", file=where, field="bias")
    for field in (*_REFUSED, *further):
        if config.get(field):
            raise SreError("an adapter with this setting can't be used here", file=where, field=field)
    file = folder / "adapter_model.safetensors"
    if not file.is_file() and (folder / "adapter_model.bin").is_file():
        raise SreError("the adapter is saved as adapter_model.bin; save it as safetensors, PEFT's default", file=folder)
    if not file.is_file():
        raise SreError("not an adapter folder: adapter_model.safetensors is missing", file=folder)
    return config, _open(safe_open, file)


class Adapter:
    """A LoRA adapter folder, checked against the model it is merged into.

    `modules` maps a tensor name of the base to its factors. Raises SreError when the adapter is of another
    base (a name or a shape that doesn't match, a layer without factors), or of a kind that can't be merged by
    a sum.
    """

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.folder = folder
        self.config, self._file = open_adapter(folder)
        self.modules = self._pair_factors(base)
        self._check_complete(base)

    def merge(self, name: str, weight: Any) -> Any:
        """W + scale * B @ A in float32 for an adapted tensor; any other tensor comes back as it is."""
        module = self.modules.get(name)
        if module is None:
            return weight
        a, b = (self._file.get_tensor(factor).float() for factor in (module.a, module.b))
        return weight.float().addmm(b, a, alpha=module.scale)

    def _other_base(self, reason: str) -> SreError:
        said = self.config.get("base_model_name_or_path")
        hint = f" (it says it was trained on {said!r})" if said else ""
        return SreError(f"adapter of another base{hint}: {reason}", file=self.folder)

    def _pair_factors(self, base: Checkpoint) -> dict[str, LoraModule]:
        sides: dict[str, dict[str, str]] = {}
        for key in self._file.keys():  # noqa: SIM118 - not a dict
            match = _FACTOR.fullmatch(key.removeprefix(_PREFIX))
            if match is None:
                if self._is_copy(key, base):
                    continue
                raise SreError(f"the tensor {key!r} is no LoRA factor of a linear layer", file=self.folder)
            sides.setdefault(match["module"], {})[match["side"]] = key
        if not sides:
            raise SreError("the adapter holds no tensors", file=self.folder)
        return {f"{module}.weight": self._module(module, sides[module], base) for module in sorted(sides)}

    def _is_copy(self, key: str, base: Checkpoint) -> bool:
        """PEFT stores an unchanged copy of an embedding or head it adapts, or that was resized and back."""
        import torch

        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if base.shapes.get(name) != tuple(self._file.get_slice(key).get_shape()):
            return False
        stored = base.tensor(name)
        return bool(torch.equal(self._file.get_tensor(key).to(stored.dtype), stored))

    def _module(self, module: str, sides: dict[str, str], base: Checkpoint) -> LoraModule:
        if set(sides) != {"A", "B"}:
            raise SreError(f"{module} has only one of its two factors", file=self.folder)
        shape = base.shapes.get(f"{module}.weight")
        if shape is None:
            tied = module == "lm_head" and base.config.get("tie_word_embeddings")
            raise self._other_base(f"the model has no {module}.weight" + (" (it is tied)" if tied else ""))
        a, b = (tuple(self._file.get_slice(sides[side]).get_shape()) for side in "AB")
        if (b[0], a[1]) != shape or a[0] != b[1]:
            raise self._other_base(f"{module}.weight is {shape}, the adapter's factors are {b} and {a}")
        rank = self._setting("rank_pattern", module, self.config["r"])
        if rank != a[0]:
            raise SreError(f"{module} has rank {a[0]}, the settings say {rank:g}", file=self.folder, field="r")
        alpha = self._setting("alpha_pattern", module, self.config["lora_alpha"])
        return LoraModule(sides["A"], sides["B"], alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def _setting(self, pattern: str, module: str, default: float) -> float:
        """The value for `module` in a pattern of PEFT: the first key that matches the end of its name."""
        for key, value in (self.config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return float(value)
        return float(default)

    def _check_complete(self, base: Checkpoint) -> None:
        """An adapter of a shallower model fits by name and shape; the layers it leaves out give it away."""
        if self.config.get("layers_to_transform") is not None or self.config.get("exclude_modules"):
            return
        if not isinstance(self.config.get("target_modules"), list):
            return
        kinds = {name.rsplit(".", 2)[-2] for name in self.modules} & set(self.config["target_modules"])
        for name in base.shapes:
            if name.endswith(".weight") and name not in self.modules and name.rsplit(".", 2)[-2] in kinds:
                raise self._other_base(f"it has nothing for {name}")
