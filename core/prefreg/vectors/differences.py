"""Task vectors of other tools: files of differences, under the names of the base's weights."""

from pathlib import Path

from prefreg.checkpoints.checkpoint import CONFIG_FILE, Checkpoint, StoredTensor, listed
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import is_weight, weight_shapes
from prefreg.errors import VectorError
from prefreg.vectors.compression import measure
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.extraction import Extraction
from prefreg.vectors.pole_tensors import CheckpointTensors, TensorSource
from prefreg.vectors.writing import write_dense


def open_differences(path: Path, base: Checkpoint) -> CheckpointTensors:
    """Open a safetensors file, or all of a folder's, that holds differences from `base`.

    Weights that no file holds are taken as unchanged.
    """
    if (path / CONFIG_FILE).is_file():
        raise VectorError(
            f"{path} holds a whole model, not differences. Import it with --plus and --minus, or "
            "with --plus and --positive-only."
        )
    tensors = _gather(path)
    shapes = weight_shapes(base)
    reshaped = [
        f"{name} {list(tensor.spec.shape)} against {list(shapes[name])}"
        for name, tensor in tensors.items()
        if name in shapes and tensor.spec.shape != shapes[name]
    ]
    problems = [
        f"{what} {listed(names)}"
        for what, names in (
            ("the base has no weight of its own called", tensors.keys() - shapes.keys()),
            ("of other shapes are", reshaped),
            ("no floats are", [name for name, tensor in tensors.items() if not is_weight(tensor)]),
        )
        if names
    ]
    if problems:
        raise VectorError(
            f"{path} does not fit its base: {'; '.join(problems)}. "
            "Name the base that the differences were taken from."
        )
    whole = Checkpoint(path, tensors, (), indexed=False, config={})
    return CheckpointTensors(whole, {name: name for name in tensors})


def store_difference(source: TensorSource, destination: Path, *, dtype: str = "F32") -> Extraction:
    """Store a vector that is already a difference, and measure it."""
    written = write_dense(source, destination, dtype=dtype)
    with DenseVector.open(destination) as stored:
        found = measure(source, stored)
    if not found.norm:
        raise VectorError("The task vector holds nothing but zeros. Check what it was taken from.")
    rounded = dtype != "F32"
    return Extraction(
        sha256=written.sha256,
        size=written.size,
        norm=found.norm,
        norms=found.norms,
        zeros=None,
        positive_norm=None,
        negative_norm=None,
        cosine_poles=None,
        storage_error=found.relative_error if rounded else None,
        storage_cosine=found.cosine if rounded else None,
    )


def _gather(path: Path) -> dict[str, StoredTensor]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, spec in read_header(file, VectorError).tensors.items():
            if name in tensors:
                raise VectorError(f"{path} holds {name!r} in two files. Leave one of them out.")
            tensors[name] = StoredTensor(file, spec)
    if not tensors:
        raise VectorError(f"{path} holds no safetensors with differences.")
    return tensors
