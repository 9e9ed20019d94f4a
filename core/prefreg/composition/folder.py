"""A folder that appears whole or not at all."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefreg.errors import OutputError

RECIPE_FILE = "prefreg.json"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)


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

    Raises:
        OutputError: The destination is taken, or cannot be written.
    """
    target = Path(os.path.realpath(destination))
    made: list[Path] = []
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            require_usable(target, overwrite=overwrite, keep=keep)
            _make_parents(target, made)
            _require_space(target, needed)
            partial.mkdir()
            yield partial
            if durable:
                _sync(partial)
            _take_place(partial, target, overwrite=bool(overwrite))
            if durable:
                _sync(target.parent)
        except OSError as error:
            raise OutputError(_explain(target, error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_parents(made)
        raise


def write_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a new file, and with `durable` bring it to the disk.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("xb") as stream:
        stream.write(data)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def require_usable(target: Path, *, overwrite: bool | None, keep: Sequence[Path]) -> None:
    """Check a destination before what it shall hold is made; see `new_folder`.

    Raises:
        OutputError: It is taken.
    """
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
    if not _is_ours(target):
        raise OutputError(
            f"{target} holds no {RECIPE_FILE} of ours, so it is not replaced. "
            "Choose another folder, or empty it yourself."
        )


def _is_ours(folder: Path) -> bool:
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(recipe, dict) and "schema" in recipe and "formula" in recipe


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
            f"{target} needs {_size(needed)}, and {target.parent} has {_size(free)} free. "
            "Make room, or choose another disk."
        )


def _take_place(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite and target.exists() and any(target.iterdir()):
        swap(partial, target)
    else:
        # Onto an empty folder or none this is atomic, and refused by the system otherwise.
        partial.rename(target)


def swap(partial: Path, target: Path) -> None:
    """Put a finished folder in the place of an earlier composition, or leave that as it was.

    Raises:
        OutputError: What is there is no composition any more.
        OSError: A folder cannot be renamed.
    """
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    if not _is_ours(target):
        raise OutputError(f"{target} has changed in the meantime. Compose again.")
    try:
        target.rename(old)
        partial.rename(target)
    finally:
        if old.exists():
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)  # the new one is in place already
            else:
                old.rename(target)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(target: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return f"The disk of {target} is full; nothing was left there. Make room and try again."
    if error.errno in _TAKEN:
        return f"Something else was put at {target} in the meantime; it was left alone. Try again."
    return f"{target} cannot be written: {error.strerror or error}. Choose another folder."


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
