"""The folder of a composition: a plain checkpoint, which appears whole or not at all.

Its recipe names every file beside it, so that what a user puts there later is known as theirs.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prefreg.checkpoints.base_licence import CARD_FILE
from prefreg.checkpoints.checkpoint import CONFIG_FILE, INDEX_FILE, companions, read_companion
from prefreg.composition.layout import OutputFile, index_file, parse_size, plan_files
from prefreg.composition.plan import Plan, opened
from prefreg.composition.recipe import (
    checkpoint_card,
    config_file,
    recipe,
    recipe_file,
)
from prefreg.composition.rounding import Rounding, Survival
from prefreg.composition.streaming import THREADS, write_weights
from prefreg.errors import OutputError, listed
from prefreg.files import (
    beside,
    exchange,
    hash_bytes,
    hash_file,
    human_size,
    open_regular,
    remove_abandoned,
    sync,
)
from prefreg.json_values import fields_to_json, parse_json
from prefreg.progress import Progress
from prefreg.registry.licences import Licences
from prefreg.vectors.stored import parse_dtype, require_device

RECIPE_FILE = "prefreg.json"
SMALL_FILES_BYTES = 1 << 20
"""Room for the recipe, the card, the index and the file system's own."""

_NEAREST = Rounding()
_CLUTTER = ("._*", ".DS_Store", ".directory", "Thumbs.db", "desktop.ini")
"""Patterns of files that file managers leave wherever they look; nobody misses them."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Composed:
    """A composition that was written as a checkpoint."""

    path: Path
    formula: str
    base: str
    size: int
    """Bytes of all weight files."""
    survival: Survival | None
    """What the rounding left of the requested change; absent when none was requested."""
    files: dict[str, str] | None
    """sha256 by file name, without the recipe and the card; only where they were asked for."""
    licences: Licences
    """Of the base and of the vectors that change it, as they were recorded."""
    warnings: tuple[str, ...] = ()

    @property
    def gain(self) -> float | None:
        """The share of the requested change that the rounding left."""
        return self.survival.gain if self.survival else None

    def to_json(self) -> dict[str, Any]:
        """Return the result in a form that JSON can hold; its recipe has the hashes of files."""
        found = fields_to_json(self)
        del found["files"]
        return found


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
    """
    require_device(device)
    wanted = parse_dtype(dtype) if dtype else None
    limit = parse_size(max_shard_size) if max_shard_size else None
    checkpoint = plan.base.checkpoint
    files = plan_files(checkpoint, dtype=wanted, max_shard_size=limit)
    small = _small_files(plan, files, wanted)
    size = sum(file.size for file in files)
    needed = size + sum(map(len, small.values())) + SMALL_FILES_BYTES
    with (
        opened(plan) as open_plan,
        new_folder(
            destination, needed=needed, overwrite=overwrite, keep=plan.read_paths, durable=durable
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
        small[CARD_FILE] = checkpoint_card(
            plan, dtype=wanted, rounding=rounding, files=hashes, survival=survival
        )
        for name, data in small.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_file(folder / name, data, durable=durable)
        write_recipe(folder, content, durable=durable)
    return Composed(
        destination, plan.formula, str(plan.base), size, survival, hashes, plan.licences
    )


@contextmanager
def new_folder(
    destination: Path,
    *,
    needed: int,
    overwrite: bool | None,
    keep: Sequence[Path],
    durable: bool = False,
) -> Iterator[Path]:
    """Yield a hidden folder beside the destination, which takes its place when all went well.

    `needed` bytes must be free; nothing in `keep` may be replaced or written into. With `durable`
    the names are on the disk when this ends. `overwrite` is None where nobody can ask for it.
    """
    target = Path(os.path.realpath(destination))
    made: list[Path] = []
    if not target.name:
        raise OutputError(f"{target} is no folder that can be made. Choose another folder.")
    partial = beside(target)
    try:
        try:
            remove_abandoned(target.parent, target.name)
            require_usable(target, overwrite=overwrite, keep=keep)
            _make_parents(target, made)
            _require_space(target, needed)
            partial.mkdir()
            yield partial
            if durable:
                sync(partial)
            _take_place(partial, target, overwrite=bool(overwrite))
            if durable:
                sync(target.parent)
        except OSError as error:
            raise OutputError(_explain(target, error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_parents(made)
        raise


def write_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a new file, and with `durable` bring it to the disk."""
    with path.open("xb") as stream:
        stream.write(data)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def write_recipe(folder: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write the recipe of a folder, which is its last file, with the names of the others."""
    complete = {**content, "contents": sorted(_files(folder))}
    write_file(folder / RECIPE_FILE, recipe_file(complete), durable=durable)


def require_usable(target: Path, *, overwrite: bool | None, keep: Sequence[Path]) -> None:
    """Check a destination before what it shall hold is made; see `new_folder`."""
    for path in keep:
        real = Path(os.path.realpath(path))
        if target == real or real in target.parents or target in real.parents:
            raise OutputError(
                f"{target} and {real}, which is read meanwhile, contain one another. "
                "Choose another folder."
            )
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file. Choose the name of a folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        way = "" if overwrite is None else ", or replace an earlier composition with --overwrite"
        raise OutputError(f"{target} is not empty. Choose another folder{way}.")
    contents = _contents(target)
    if contents is None:
        raise OutputError(
            f"{target} holds no {RECIPE_FILE} of ours that names its files, so it is not "
            "replaced. Choose another folder, or empty it yourself."
        )
    if strangers := _strangers(target, contents):
        them, were = ("it", "was") if len(strangers) == 1 else ("them", "were")
        raise OutputError(
            f"{target} holds {listed(strangers)}, which {were} not composed and would be "
            f"lost. Move {them} away, or choose another folder."
        )


def read_composed(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the recipe of a folder that prefreg composed, and the names of its other files.

    Raises:
        OutputError: It is none, or what its recipe names is missing, a link, or changed since.
    """
    recipe = _recipe(folder)
    if recipe is None or not isinstance(recipe.get("base"), dict) or "terms" not in recipe:
        raise OutputError(
            f"{folder} holds no composition of prefreg with its {RECIPE_FILE}. `prefreg compose` "
            "writes one."
        )
    names = sorted(set(recipe["contents"]))
    missing = [n for n in names if n not in _files(folder) or (folder / n).is_symlink()]
    if missing:
        raise OutputError(
            f"{folder} lacks {listed(missing)}, which its {RECIPE_FILE} names. Compose it again."
        )
    hashes = recipe.get("files")
    for name, digest in (hashes if isinstance(hashes, dict) else {}).items():
        if name in names and hash_file(folder / name) != digest:
            raise OutputError(f"{folder / name} was changed since it was composed. Compose again.")
    return recipe, names


def swap(partial: Path, target: Path) -> None:
    """Put a finished folder in the place of an earlier composition, or leave that as it was."""
    contents = _contents(target)
    if contents is None or _strangers(target, contents):
        raise OutputError(f"{target} has changed in the meantime. Compose again.")
    exchange(partial, target)
    shutil.rmtree(partial, ignore_errors=True)


def _small_files(plan: Plan, files: tuple[OutputFile, ...], dtype: str | None) -> dict[str, bytes]:
    checkpoint = plan.base.checkpoint
    small = {CONFIG_FILE: config_file(checkpoint, dtype)}
    for path in companions(checkpoint.path):
        small[path.as_posix()] = read_companion(checkpoint.path / path)
    index = index_file(files)
    if index is not None:
        small[INDEX_FILE] = index
    return small


def _hashes(folder: Path, files: tuple[OutputFile, ...], small: dict[str, bytes]) -> dict[str, str]:
    def read(file: OutputFile) -> str:
        return hash_file(folder / file.name)

    with ThreadPoolExecutor(THREADS) as pool:
        large = dict(zip((file.name for file in files), pool.map(read, files), strict=True))
    return large | {name: hash_bytes(data) for name, data in small.items()}


def _contents(folder: Path) -> set[str] | None:
    """Return the names of all files that prefreg put into a folder, if its recipe says so."""
    recipe = _recipe(folder)
    return None if recipe is None else {RECIPE_FILE, *recipe["contents"]}


def _recipe(folder: Path) -> dict[str, Any] | None:
    """Return the recipe of a folder, if it is one of ours that names the files beside it."""
    try:
        with open_regular(folder / RECIPE_FILE) as stream:
            recipe = parse_json(stream.read())
    except (OSError, ValueError):
        return None
    if not isinstance(recipe, dict) or not {"schema", "formula", "contents"} <= recipe.keys():
        return None
    contents = recipe["contents"]
    if not isinstance(contents, list) or not all(isinstance(name, str) for name in contents):
        return None
    return recipe


def _strangers(folder: Path, contents: set[str]) -> set[str]:
    """Return what lies in a folder beside its contents; a folder that has none of them as one."""
    ours = {parent for name in contents for parent in PurePosixPath(name).parents}
    found = set()
    for path in map(PurePosixPath, _files(folder) - contents):
        above = [parent for parent in path.parents if parent not in ours]
        found.add(f"{above[-1]}/" if above else str(path))
    return found


def _files(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, links to folders among them."""
    found = set()
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        found |= {(here / name).relative_to(folder).as_posix() for name in (*links, *files)}
    return {path for path in found if not any(Path(path).match(each) for each in _CLUTTER)}


def _make_parents(target: Path, made: list[Path]) -> None:
    for parent in reversed(target.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            made.append(parent)


def _remove_parents(made: Sequence[Path]) -> None:
    for parent in reversed(made):
        try:
            parent.rmdir()
        except OSError:
            return  # somebody else uses it by now


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputError(
            f"{target} needs {human_size(needed)}, and {target.parent} has {human_size(free)} "
            "free. Make room, or choose another disk."
        )


def _take_place(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite and target.exists() and any(target.iterdir()):
        swap(partial, target)
    else:
        # Onto an empty folder or none this is atomic, and refused by the system otherwise.
        partial.rename(target)


def _explain(target: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return f"The disk of {target} is full; nothing was left there. Make room and try again."
    if error.errno in _TAKEN:
        return f"Something else was put at {target} in the meantime; it was left alone. Try again."
    return f"{target} cannot be written: {error.strerror or error}. Choose another folder."
