"""Dense vectors: one tensor per weight, in a safetensors file or in the registry's bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.checkpoints.safetensors_file import SafetensorsWriter
from prefreg.errors import VectorError
from prefreg.vectors.stored import StoredVector, Vector, WrittenFile, blocks, vector_writer

if TYPE_CHECKING:
    import torch

    from prefreg.vectors.tensors import TensorSource

STORAGE_DTYPES = ("F32", "BF16")


class DenseVector(Vector):
    """A dense preference vector, which alone is read without torch."""

    kind = form = "dense"

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
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

    def block(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of a tensor in float32."""
        return self.stored.read(name, start, stop).float()


@contextmanager
def dense_writer(
    destination: Path, shapes: dict[str, tuple[int, ...]], dtype: str
) -> Iterator[SafetensorsWriter]:
    """Write a dense vector beside its destination and move it there when it is whole."""
    if dtype not in STORAGE_DTYPES:
        raise VectorError(f"Vectors are stored in {' or '.join(STORAGE_DTYPES)}, not in {dtype!r}.")
    tensors = [(name, dtype, shape) for name, shape in shapes.items()]
    with vector_writer(destination, DenseVector.kind, tensors) as writer:
        yield writer


def write_dense(source: "TensorSource", destination: Path, *, dtype: str = "F32") -> WrittenFile:
    """Store a vector that is already a difference."""
    # Torch, which reading does without.
    from prefreg.vectors.tensors import TORCH_DTYPES, require_storable, to_bytes

    shapes = {name: source.shape(name) for name in source.names}
    with dense_writer(destination, shapes, dtype) as writer:
        for spec in writer.specs:
            for start, stop in blocks(spec.elements):
                stored = source.block(spec.name, start, stop).to(TORCH_DTYPES[dtype])
                writer.write(to_bytes(require_storable(spec.name, stored)))
        return WrittenFile(writer.finish(), writer.size)
