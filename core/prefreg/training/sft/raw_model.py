"""What fine-tuning starts from: a model that is there, or random weights of a configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.checkpoint import CONFIG_FILE, companions
from prefreg.errors import BaseModelError
from prefreg.models.loading import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class RawModel:
    """The place of a tokenizer and a configuration, with weights or without."""

    name: str
    path: Path
    base: BaseModel | None
    """The model whose weights are the start, or None where they are random."""

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are stored in."""
        return _DTYPES.get(self.base.fingerprint.dtype if self.base else "", torch.float32)

    def load(self, seed: int) -> "PreTrainedModel":
        """Load the weights, or draw them from the seed, in float32."""
        if self.base is not None:
            return load_model(self.base)
        set_seed(seed)
        maker: Any = AutoModelForCausalLM
        try:
            config = AutoConfig.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
            model: PreTrainedModel = maker.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BaseModelError(
                f"No causal language model can be made of {self.path / CONFIG_FILE}: {reason:.300}"
            ) from error
        return model

    def companions(self) -> dict[str, bytes]:
        """Read the files that belong to the model beside its weights and configuration."""
        try:
            return {
                path.as_posix(): (self.path / path).read_bytes() for path in companions(self.path)
            }
        except OSError as error:
            raise BaseModelError(f"{error.filename} cannot be read: {error.strerror}.") from error

    def describe(self) -> dict[str, Any]:
        """Return where the weights come from, in a form that JSON can hold."""
        if self.base is None:
            return {"name": None, "revision": None, "weights": None}
        return {
            "name": self.base.name,
            "revision": self.base.revision,
            "weights": self.base.fingerprint.weights,
        }


def find_raw(base: str) -> RawModel:
    """Find the model whose weights are the start."""
    found = resolve_base(base)
    return RawModel(str(found), found.path, found)


def random_raw(config: Path) -> RawModel:
    """Take a configuration with the tokenizer beside it."""
    folder = config if config.is_dir() else config.parent
    if config.name != CONFIG_FILE and not (folder / CONFIG_FILE).is_file():
        raise BaseModelError(
            f"{config} is no {CONFIG_FILE} and no folder with one. Name a transformers "
            f"{CONFIG_FILE} that has its tokenizer's files beside it."
        )
    folder = folder.resolve()
    return RawModel(str(folder), folder, None)
