"""Reads the weights of a Hugging Face model folder, one tensor at a time, and merges a LoRA adapter into them."""

import math
import re
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf.architecture import sees_pictures, text_config
from recipe.storage import read_json, write_json
from recipe.system import read_table

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_REFUSED = read_table(__file__, "adapters.toml")["refused"]
# The text part of a model that sees pictures too, as on the hub and as transformers saves it.
_TEXT = re.compile(r"(?:language_model\.model|model\.language_model)\.(?P<name>.+)")


class Checkpoint:
    """A model folder's config.json and safetensors, of the text part. `shapes` maps each tensor's name to its shape."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise SreError("this file is missing", file=folder / "config.json")
        whole = read_json(folder / "config.json")
        self.config = text_config(whole)
        if self.config.get("quantization_config"):
            raise SreError("the weights are quantised; give the model's full-precision folder", file=folder)
        self._stored: dict[str, tuple[Any, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in shard_paths(folder):
            shard = _open(path)
            for stored in shard.keys():  # noqa: SIM118 - not a dict
                text = _TEXT.fullmatch(stored)
                if text or not sees_pictures(whole):
                    name = f"model.{text['name']}" if text else stored
                    self._stored[name] = shard, stored
                    self.shapes[name] = tuple(shard.get_slice(stored).get_shape())

    def tensor(self, name: str) -> Any:
        """The torch tensor `name`, in the type it is stored in."""
        shard, stored = self._stored[name]
        return shard.get_tensor(stored)

    def write_text_part(self, folder: Path) -> None:
        """Write the text part as a model of its own, in as many shards. One of them is in memory at a time."""
        from safetensors.torch import save_file

        files: dict[str, str] = {}
        for number, shard in enumerate(dict.fromkeys(shard for shard, _ in self._stored.values())):
            names = [name for name, (own, _) in self._stored.items() if own is shard]
            files |= dict.fromkeys(names, f"text-{number}.safetensors")
            save_file({name: self.tensor(name) for name in names}, folder / files[names[0]], metadata={"format": "pt"})
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
        write_json(folder / "config.json", self.config)


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
    if not single.is_file():
        raise SreError("no model.safetensors here; save the model with transformers' save_pretrained", file=folder)
    return [single]


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SreError(f"not whole safetensors, cut short perhaps: {error}", file=path) from error


def open_adapter(folder: Path) -> tuple[dict[str, Any], Any]:
    """The settings of a LoRA adapter and its open safetensors. Raises SreError for settings that aren't plain LoRA."""
    where = folder / "adapter_config.json"
    if not where.is_file():
        raise SreError("not an adapter folder: adapter_config.json is missing", file=folder)
    config = read_json(where)
    if config.get("peft_type") != "LORA":
        raise SreError(f"expected a LoRA adapter, not {config.get('peft_type')!r}", file=where, field="peft_type")
    if config.get("bias", "none") != "none":
        raise SreError("an adapter with biases can't be used; train with bias none", file=where, field="bias")
    for field in _REFUSED:
        if config.get(field):
            raise SreError("an adapter with this setting can't be used here", file=where, field=field)
    for field in ("r", "lora_alpha"):
        if not isinstance(config.get(field), int | float) or not 0 < config[field] < math.inf:
            raise SreError(f"expected a number above 0, not {config.get(field)!r}", file=where, field=field)
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file() and "; save adapter_model.bin as safetensors, PEFT's default"
        raise SreError(f"not an adapter folder: adapter_model.safetensors is missing{pickled or ''}", file=folder)
    return config, _open(file)


class Adapter:
    """A LoRA adapter, checked against the model that it is merged into: its names, shapes and layers."""

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self._folder = folder
        self._config, self._file = open_adapter(folder)
        self.modules: dict[str, dict[str, str]] = {}  # weight -> the names of its factors, {"A": …, "B": …}
        for key in self._file.keys():  # noqa: SIM118 - not a dict
            match = _FACTOR.fullmatch(key)
            if match:
                self.modules.setdefault(f"{match['module']}.weight", {})[match["side"]] = key
            elif ".base_layer." not in key:  # PEFT's copy of an adapted head, which training leaves as it is
                raise SreError(f"the tensor {key!r} is no LoRA factor of a linear layer", file=folder)
        rank = self._config["r"]
        for name, factors in self.modules.items():
            if factors.keys() != {"A", "B"}:
                raise SreError(f"{name} has only one of its two factors", file=folder)
            if name not in base.shapes:
                raise self._other_base(f"the model has no {name}")
            a, b = (tuple(self._file.get_slice(factors[side]).get_shape()) for side in "AB")
            shape = base.shapes[name]
            if (*b, *a) != (shape[0], rank, rank, shape[-1]):
                raise self._other_base(f"{name} is {shape}, the adapter's factors are {b} and {a}, its rank is {rank}")
        # The adapter of a model with fewer layers fits by name and shape, but leaves out the other layers.
        kinds = {_kind(name) for name in self.modules}
        for name in base.shapes:
            if name.endswith(".weight") and name not in self.modules and _kind(name) in kinds:
                raise self._other_base(f"it has nothing for {name}")

    def merge(self, name: str, weight: Any) -> Any:
        """W + alpha / r * B @ A in float32 for an adapted weight; any other tensor comes back as it is."""
        if name not in self.modules:
            return weight
        a, b = (self._file.get_tensor(self.modules[name][side]).float() for side in "AB")
        return weight.float().addmm(b, a, alpha=self._config["lora_alpha"] / self._config["r"])

    def _other_base(self, reason: str) -> SreError:
        return SreError(f"adapter of another base: {reason}", file=self._folder)


def _kind(name: str) -> str:
    """The last part of a module's name: "q_proj" of model.layers.0.self_attn.q_proj.weight."""
    return name.rsplit(".", 2)[-2]
