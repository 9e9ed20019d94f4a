"""What a fine-tuned model changed in its base, read a block at a time."""

from pathlib import Path

import torch

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.vectors.lowrank import FactorTensors
from prefreg.vectors.peft_adapters import CONFIG_FILE, read_adapter
from prefreg.vectors.tensors import CheckpointTensors, TensorSource


class Change:
    """θ − θ_base of a whole checkpoint, in float32, under the base's names."""

    def __init__(self, tuned: TensorSource, base: TensorSource) -> None:
        """Refer to both, without reading them."""
        self._tuned, self._base = tuned, base

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return self._tuned.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tuned.shape(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Return the change of a tensor."""
        return self._tuned.tensor(name) - self._base.tensor(name)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the change of the flat elements `start:stop` of a tensor."""
        return self._tuned.block(name, start, stop) - self._base.block(name, start, stop)


def open_change(spec: str | Path, base: BaseModel) -> TensorSource:
    """Open a fine-tuned checkpoint, or the folder of a PEFT adapter, as a change of its base.

    Raises:
        BaseModelError: The checkpoint is missing, damaged, quantised or of another architecture.
        VectorError: The adapter does not fit the base, or is more than factors.
    """
    folder = Path(spec)
    if (folder / CONFIG_FILE).is_file():
        adapter = read_adapter(folder, base.checkpoint)
        return FactorTensors(adapter.factors, adapter.whole)
    tuned = CheckpointTensors.of_pole(resolve_base(str(spec)).checkpoint, base.checkpoint)
    return Change(tuned, CheckpointTensors(base.checkpoint))
