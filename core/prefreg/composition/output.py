"""Composing a model into a folder, block by block."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prefreg.checkpoints.checkpoint import CONFIG_FILE, INDEX_FILE
from prefreg.composition.card import CARD_FILE, checkpoint_card
from prefreg.composition.folder import RECIPE_FILE, new_folder, write_file
from prefreg.composition.layout import OutputFile, index_file, parse_size, plan_files
from prefreg.composition.plan import Plan, opened
from prefreg.composition.recipe import config_file, read_companion, recipe, recipe_file, sha256
from prefreg.composition.rounding import Rounding
from prefreg.composition.streaming import THREADS, Progress, write_weights
from prefreg.composition.survival import Survival
from prefreg.vectors.elements import parse_dtype, require_device

_NEAREST = Rounding()

_SMALL_FILES_BYTES = 1 << 20  # for the recipe, the card, the index and the file system's own


@dataclass(frozen=True, slots=True)
class Composed:
    """A composition that has been written."""

    path: Path
    formula: str
    files: dict[str, str] | None
    """sha256 by file name, without the recipe and the card; only where they were asked for."""
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
    max_shard_size: str | None = None,
    rounding: Rounding = _NEAREST,
    device: str = "cpu",
    durable: bool = False,
    hashed: bool = False,
    progress: Progress | None = None,
) -> Composed:
    """Write a plain checkpoint that transformers loads, with its recipe and card.

    Equal plans give equal bytes, on every device. The folder appears whole or not at all; with
    `durable` it survives a loss of power too. `hashed` adds the sha256 of every file, which costs
    about as much as the composing itself.

    Raises:
        OutputError: The destination is taken, full, or cannot be written.
        VectorError: A vector is damaged, does not fit, or overflows.
        BaseModelError: The base is damaged.
        UsageError: The dtype or the size is malformed, or the device is not there.
    """
    require_device(device)
    wanted = parse_dtype(dtype) if dtype else None
    limit = parse_size(max_shard_size) if max_shard_size else None
    checkpoint = plan.base.checkpoint
    files = plan_files(checkpoint, dtype=wanted, max_shard_size=limit)
    small = _small_files(plan, files, wanted)
    size = sum(file.size for file in files)
    needed = size + sum(map(len, small.values())) + _SMALL_FILES_BYTES
    keep = [checkpoint.path, *(t.source for t in plan.terms if isinstance(t.source, Path))]
    with (
        opened(plan) as open_plan,
        new_folder(
            destination, needed=needed, overwrite=overwrite, keep=keep, durable=durable
        ) as folder,
    ):
        survival = write_weights(
            open_plan,
            files,
            folder,
            rounding=rounding,
            device=device,
            durable=durable,
            progress=progress,
        )
        hashes = _hashes(folder, files, small) if hashed else None
        content = recipe(
            plan,
            dtype=wanted,
            max_shard_size=max_shard_size,
            rounding=rounding,
            files=hashes,
            survival=survival,
        )
        small[RECIPE_FILE] = recipe_file(content)
        small[CARD_FILE] = checkpoint_card(
            plan, dtype=wanted, rounding=rounding, files=hashes, survival=survival
        )
        for name, data in small.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_file(folder / name, data, durable=durable)
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


def _hashes(folder: Path, files: tuple[OutputFile, ...], small: dict[str, bytes]) -> dict[str, str]:
    def read(file: OutputFile) -> str:
        with (folder / file.name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor(THREADS) as pool:
        large = dict(zip((file.name for file in files), pool.map(read, files), strict=True))
    return large | {name: sha256(data) for name, data in small.items()}
