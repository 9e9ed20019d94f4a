"""Writing vectors: equal tensors give equal files, and a file is there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefreg.checkpoints.safetensors_file import SafetensorsWriter
from prefreg.errors import OutputError, VectorError
from prefreg.files import replacing
from prefreg.vectors.dense import METADATA, STORAGE_DTYPES, blocks
from prefreg.vectors.pole_tensors import TensorSource
from prefreg.vectors.tensors import TORCH_DTYPES, is_finite, to_bytes


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is complete on the disk."""

    sha256: str
    size: int


@contextmanager
def dense_writer(
    destination: Path, shapes: dict[str, tuple[int, ...]], dtype: str
) -> Iterator[SafetensorsWriter]:
    """Write a dense vector beside its destination and move it there when it is whole."""
    if dtype not in STORAGE_DTYPES:
        raise VectorError(f"Vectors are stored in {' or '.join(STORAGE_DTYPES)}, not in {dtype!r}.")
    if not shapes:
        raise VectorError("A vector without tensors cannot be stored.")
    tensors = [(name, dtype, shape) for name, shape in shapes.items()]
    with (
        written_whole(destination) as partial,
        SafetensorsWriter(partial, tensors, METADATA) as writer,
    ):
        yield writer


@contextmanager
def written_whole(destination: Path) -> Iterator[Path]:
    """Yield the name of a file beside the destination, which takes its place when all went well."""
    try:
        with replacing(destination) as partial:
            yield partial
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error.strerror}.") from error


def write_dense(source: TensorSource, destination: Path, *, dtype: str = "F32") -> WrittenFile:
    """Store a vector that is already a difference."""
    shapes = {name: source.shape(name) for name in source.names}
    with dense_writer(destination, shapes, dtype) as writer:
        for spec in writer.specs:
            for start, stop in blocks(spec.elements):
                stored = source.block(spec.name, start, stop).to(TORCH_DTYPES[dtype])
                if not is_finite(stored):
                    raise VectorError(f"{spec.name!r} of the vector holds NaN or infinity.")
                writer.write(to_bytes(stored))
        return WrittenFile(writer.finish(), writer.size)
