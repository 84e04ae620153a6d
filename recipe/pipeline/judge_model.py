"""A judge of a run, and everything that decides how it generates: what stages are given in place of the settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.pipeline.stage_cache import Made
from recipe.prompts import Prompts
from recipe.storage import fingerprint, hash_object
from recipe.system import process, wait_for
from recipe.training.trainer import Loading


@dataclass(frozen=True)
class JudgeModel:
    """A judge by name ("seed", "sft", "j1", …) and how it is run.

    `engine`: llamacpp, torch or vllm. `context`: tokens of a prompt and its judgement. `snapshot`: the GGUF type that
    llama.cpp reads it in. `gpu_layers`: of a GGUF file, see `SampleConfig`. The fields that aren't compared change no
    result.
    """

    name: str
    model: Made
    adapter: Made | None
    prompts: Prompts
    loading: Loading
    engine: str
    context: int
    parallel: int
    snapshot: str
    base_model: str = field(compare=False)
    gpu_layers: int | None = None

    @property
    def file(self) -> Path:
        return self.model.run / "gguf" / f"{self.name}.gguf"

    def open(self) -> Any:
        if self.engine == "llamacpp":
            return self.open_gguf(self.write_snapshot())
        from recipe.inference.pytorch.generator import TorchGenerator
        from recipe.inference.pytorch.loading import free_memory, take_share
        from recipe.inference.pytorch.vllm import VllmGenerator

        free_memory()
        take_share(self.loading.threads)
        return (VllmGenerator if self.engine == "vllm" else TorchGenerator)(
            self.model.path,
            adapter=self.adapter.path if self.adapter else None,
            name=self.name,
            parallel=self.parallel,
            context=self.context,
            quantization=self.loading.quantization,
            engine=self.loading.engine,
        )

    def open_gguf(self, path: Path) -> Any:
        """A generator for another GGUF file, run as this judge is."""
        from recipe.inference.llamacpp.generator import MOST_PARALLEL, LlamaCppGenerator

        # A card that trains may have no room for a 16-bit file, so beside PyTorch it takes layers only when asked to.
        usual = None if self.engine == "llamacpp" else 0
        return LlamaCppGenerator(
            path,
            threads=self.loading.threads,
            context=self.context,
            parallel=min(self.parallel, MOST_PARALLEL),
            gpu_layers=usual if self.gpu_layers is None else self.gpu_layers,
        )

    def write_snapshot(self) -> Path:
        """The judge as one GGUF file, written when first asked for and again when its weights have changed."""
        if process()[0]:
            wait_for(lambda: self.is_snapshot(self.file))
        if self.is_snapshot(self.file):
            return self.file
        from recipe.gguf.export import write_gguf
        from recipe.training.card import base_of
        from recipe.training.export import judge_metadata

        base = base_of(self.base_model, self.model.path)
        write_gguf(
            self.model.path,
            self.file,
            adapter=self.adapter.path if self.adapter else None,
            type_name=self.snapshot,
            metadata=judge_metadata(f"{self.loading.run}-{self.name}", base, self.prompts)
            | {"sre.weights": self._weights},
        )
        return self.file

    def is_snapshot(self, file: Path) -> bool:
        """Whether a GGUF file is there, and was written of this judge's weights and prompts."""
        from recipe.gguf.header import read_metadata

        return file.exists() and read_metadata(file).get("sre.weights") == self._weights

    @property
    def _weights(self) -> str:
        """A hash of all that the snapshot is made of."""
        sources = sorted(self.model.path.glob("*.safetensors"))
        sources += [self.adapter.path / "adapter_model.safetensors"] if self.adapter else []
        return hash_object([*map(fingerprint, sources), self.snapshot, self.prompts.digest])
