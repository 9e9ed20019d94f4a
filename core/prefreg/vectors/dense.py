"""Dense vectors: one tensor per weight, in a safetensors file or in the registry's bytes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefreg.errors import VectorError
from prefreg.vectors.stored import OpenVector, StoredVector

if TYPE_CHECKING:
    import torch

METADATA: Mapping[str, str] = {"prefreg": '{"format":1,"kind":"dense"}'}
"""The whole metadata of a dense vector's file, so that equal vectors are equal files."""

STORAGE_DTYPES = ("F32", "BF16")


class DenseVector(OpenVector):
    """A dense preference vector that is read a tensor or a block at a time."""

    dtype: str
    """`F32` or `BF16`, as it is stored."""

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
        if stored.metadata != METADATA:
            raise VectorError(
                f"{stored.label} is not a dense preference vector: its metadata is not "
                f"{dict(METADATA)!r}. Name a file that prefreg wrote."
            )
        dtypes = {spec.dtype for spec in stored.specs.values()}
        if len(dtypes) != 1 or not dtypes <= set(STORAGE_DTYPES):
            found = ", ".join(sorted(dtypes)) or "nothing"
            raise VectorError(
                f"{stored.label} holds {found}; a dense vector holds only F32 or only BF16."
            )
        self.dtype = dtypes.pop()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(self.stored.specs)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.stored.specs[name].shape

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a tensor in float32.

        Raises:
            VectorError: The file cannot be read.
        """
        spec = self.stored.specs[name]
        return self.block(name, 0, spec.elements).reshape(spec.shape)

    def block(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of a tensor in float32.

        Raises:
            VectorError: The file cannot be read.
        """
        return self.stored.read(name, start, stop).float()
