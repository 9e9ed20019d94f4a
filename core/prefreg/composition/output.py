"""Composing a model into a folder, block by block."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefreg.checkpoints.checkpoint import CONFIG_FILE, INDEX_FILE, StoredTensor
from prefreg.checkpoints.safetensors_io import SafetensorsWriter, read_into
from prefreg.composition.engine import compose_tensor, require_finite
from prefreg.composition.folder import RECIPE_FILE, new_folder, write_file
from prefreg.composition.layout import (
    METADATA,
    OutputFile,
    OutputTensor,
    index_file,
    parse_size,
    plan_files,
)
from prefreg.composition.plan import OpenPlan, Plan, opened
from prefreg.composition.recipe import (
    card_file,
    config_file,
    read_companion,
    recipe,
    recipe_file,
    sha256,
)
from prefreg.composition.survival import Survival, SurvivalMeter
from prefreg.errors import BaseModelError
from prefreg.vectors.tensors import (
    BLOCK_ELEMENTS,
    TORCH_DTYPES,
    blocks,
    parse_dtype,
    read_block,
    to_bytes,
    unreadable,
)

CARD_FILE = "README.md"

Progress = Callable[[int, int, str], None]
"""Told the bytes written, the bytes there are to write, and the tensor just written."""

_COPY_BYTES = 4 << 20
_SMALL_FILES_BYTES = 1 << 20  # for the recipe, the card, the index and the file system's own


@dataclass(frozen=True, slots=True)
class Composed:
    """A composition that has been written."""

    path: Path
    formula: str
    files: dict[str, str]
    """sha256 by file name, without the recipe and the card."""
    size: int
    """Bytes of all weight files."""
    survival: Survival | None
    """What the rounding left of the requested change; absent when none was requested."""


def write_composition(
    plan: Plan,
    destination: Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    max_shard_size: str | int | None = None,
    progress: Progress | None = None,
) -> Composed:
    """Write a plain checkpoint that transformers loads, with its recipe and card.

    Equal plans give equal bytes. The folder appears whole or not at all.

    Raises:
        OutputError: The destination is taken, full, or cannot be written.
        VectorError: A vector is damaged, does not fit, or overflows.
        BaseModelError: The base is damaged.
        UsageError: The dtype or the size is malformed.
    """
    wanted = parse_dtype(dtype) if dtype else None
    limit = parse_size(str(max_shard_size)) if max_shard_size is not None else None
    checkpoint = plan.base.checkpoint
    files = plan_files(checkpoint, dtype=wanted, max_shard_size=limit)
    small = _small_files(plan, files, wanted)
    size = sum(file.size for file in files)
    needed = size + sum(map(len, small.values())) + _SMALL_FILES_BYTES
    keep = [checkpoint.path, *(t.source for t in plan.terms if isinstance(t.source, Path))]
    with (
        opened(plan) as open_plan,
        new_folder(destination, needed=needed, overwrite=overwrite, keep=keep) as folder,
    ):
        weights = _WeightsWriter(open_plan, sum(file.nbytes for file in files), progress)
        hashes = {file.name: weights.write(folder / file.name, file) for file in files}
        hashes |= {name: sha256(data) for name, data in small.items()}
        survival = weights.meter.result()
        content = recipe(plan, dtype=wanted, files=hashes, survival=survival)
        small[RECIPE_FILE] = recipe_file(content)
        small[CARD_FILE] = card_file(plan, dtype=wanted, files=hashes, survival=survival)
        for name, data in small.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_file(folder / name, data)
    return Composed(destination, plan.formula, hashes, size, survival)


def _small_files(plan: Plan, files: tuple[OutputFile, ...], dtype: str | None) -> dict[str, bytes]:
    checkpoint = plan.base.checkpoint
    small = {CONFIG_FILE: config_file(checkpoint, dtype)}
    for path in checkpoint.companions():
        small[path.as_posix()] = read_companion(checkpoint.path / path)
    index = index_file(files)
    if index is not None:
        small[INDEX_FILE] = index
    return small


class _WeightsWriter:
    """Write the weight files of one composition."""

    def __init__(self, plan: OpenPlan, total: int, progress: Progress | None) -> None:
        self.meter = SurvivalMeter()
        self._plan = plan
        self._total = total
        self._done = 0
        self._progress = progress

    def write(self, path: Path, file: OutputFile) -> str:
        """Write a file and return its sha256."""
        tensors = {tensor.stored.spec.name: tensor for tensor in file.tensors}
        with SafetensorsWriter(path, file.entries(), METADATA) as writer:
            for spec in writer.specs:
                self._write_tensor(writer, tensors[spec.name])
                self._done += spec.nbytes
                if self._progress:
                    self._progress(self._done, self._total, spec.name)
            return writer.finish()

    def _write_tensor(self, writer: SafetensorsWriter, tensor: OutputTensor) -> None:
        spec = tensor.stored.spec
        terms = self._plan.terms_of(tensor.stored)
        if not terms and tensor.dtype == spec.dtype:
            _copy(tensor.stored, writer)
            return
        dtype = TORCH_DTYPES[tensor.dtype]
        for start, stop in blocks(spec.elements, BLOCK_ELEMENTS):
            base = read_block(tensor.stored, start, stop)
            parts = [(term.eta, term.vector.block(name, start, stop)) for term, name in terms]
            result = compose_tensor(base, parts, dtype)
            require_finite(spec.name, result, base)
            if parts:
                self.meter.add(parts, base.to(dtype), result)
            writer.write(to_bytes(result))


def _copy(stored: StoredTensor, writer: SafetensorsWriter) -> None:
    # Bytes, not numbers: dtypes that torch does not know pass through as well.
    spec = stored.spec
    try:
        with stored.file.open("rb") as stream:
            for start in range(0, spec.nbytes, _COPY_BYTES):
                view = memoryview(bytearray(min(_COPY_BYTES, spec.nbytes - start)))
                read_into(stream.fileno(), spec.offset + start, view)
                writer.write(view)
    except (OSError, EOFError) as error:
        raise unreadable(stored.file, error, BaseModelError) from error
