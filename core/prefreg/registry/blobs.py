"""The bytes of vectors, addressed by their sha256: inline rows, or files beside the database."""

import fcntl
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.orm import Session

from prefreg.errors import RegistryError, VectorError
from prefreg.files import hash_bytes, hash_file, sync
from prefreg.registry.schema import BlobRow

_FILE_NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
_PART_NAME = re.compile(r"\.[0-9a-f]{16}\.part")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """Bytes that were read and hashed but belong to no row yet."""

    sha256: str
    size: int
    data: bytes | None
    """The bytes that go inline; None where they lie in a part file."""
    part: Path | None


def blob_folder(database: Path) -> Path:
    """Return the folder of a database's external vectors.

    Two databases never share one: `foo.db` has `foo.vectors`, any other name `<name>-vectors`.
    """
    stem = database.name.removesuffix(".db")
    return database.with_name(
        f"{stem}.vectors" if stem and stem != database.name else f"{database.name}-vectors"
    )


def file_of(folder: Path, sha256: str) -> Path:
    """Return where an external vector lies."""
    return folder / f"{sha256}.safetensors"


@contextmanager
def stage(source: Path | bytes, folder: Path | None, inline_limit: int) -> Iterator[StagedBlob]:
    """Read and hash a file; copy it beside its destination if it is too large to go inline.

    Without a folder, as on a database server, everything goes inline. The part file is locked
    while it is in use, which tells it from one that a killed process left behind.
    """
    try:
        with _reader(source) as (file, size):
            if folder is None or size <= inline_limit:
                data = file.read()
                yield StagedBlob(hash_bytes(data), len(data), data, None)
                return
            with _part_file(folder) as (part, copy):
                digest, size = _copy_and_hash(file, copy)
                yield StagedBlob(digest, size, None, part)
    except OSError as error:
        name = str(source) if isinstance(source, Path) else "to be copied"
        place = error.filename or folder or name
        raise RegistryError(
            f"The vector {name} cannot be stored ({place}: {error.strerror}); "
            "nothing was changed. Check the path and the free space."
        ) from error


def store(session: Session, staged: StagedBlob, folder: Path | None) -> BlobRow:
    """Bind staged bytes to their row, under the write lock; equal bytes are kept once.

    Bytes that were lost or damaged since are replaced by the new copy.
    """
    row = session.get(BlobRow, staged.sha256)
    if row is not None and _is_intact(row, folder):
        return row
    if row is None:
        row = BlobRow(sha256=staged.sha256, size=staged.size)
        session.add(row)
    row.data = staged.data
    row.mtime_ns, row.inode = None, None
    if staged.part is not None and folder is not None:
        path = file_of(folder, staged.sha256)
        os.replace(staged.part, path)
        sync(folder)
        _, row.mtime_ns, row.inode = _state(path)
    return row


def read_source(row: BlobRow, folder: Path | None, *, rehash: bool) -> bytes | Path:
    """Return inline bytes, or the path of a file that is still what was added.

    A file is trusted while size, mtime and inode are those recorded, unless `rehash` is set.
    """
    if row.data is not None:
        if hash_bytes(row.data) != row.sha256:
            raise VectorError("its bytes in the registry do not match their hash")
        return row.data
    path = _external_path(row, folder)
    try:
        known = not rehash and _state(path) == (row.size, row.mtime_ns, row.inode)
        if not known and hash_file(path) != row.sha256:
            raise VectorError(f"the bytes of {path} do not match their hash")
    except FileNotFoundError as error:
        raise VectorError(f"its file {path} is missing") from error
    except OSError as error:
        raise VectorError(f"its file {path} cannot be read ({error.strerror})") from error
    return path


def remove_unreferenced(folder: Path, kept: frozenset[str]) -> tuple[int, int]:
    """Delete files without a row and parts without a process, under the write lock.

    Returns their number and bytes; other files in the folder are left alone.
    """
    files = freed = 0
    try:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            size = _remove_if_unreferenced(path, kept)
            if size is not None:
                files, freed = files + 1, freed + size
    except OSError as error:
        raise RegistryError(
            f"{error.filename} cannot be deleted ({error.strerror}). Check the permissions."
        ) from error
    return files, freed


def _remove_if_unreferenced(path: Path, kept: frozenset[str]) -> int | None:
    named = _FILE_NAME.fullmatch(path.name)
    if named is None:
        return _remove_stale_part(path) if _PART_NAME.fullmatch(path.name) else None
    if named[1] in kept:
        return None
    size = path.lstat().st_size
    path.unlink()
    return size


@contextmanager
def _reader(source: Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    with source.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def copy_file(source: Path, folder: Path, sha256: str) -> tuple[int, int, str]:
    """Copy a vector's file into a folder unless it is there; return its size, mtime and inode."""
    path = file_of(folder, sha256)
    if path.exists() and hash_file(path) == sha256:
        return _state(path)
    with source.open("rb") as file, _part_file(folder) as (part, copy):
        digest, _ = _copy_and_hash(file, copy)
        if digest != sha256:
            raise RegistryError(
                f"The bytes of {source} do not match their hash. `prefreg verify` says more."
            )
        os.replace(part, path)
    sync(folder)
    return _state(path)


@contextmanager
def _part_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
    while True:
        part = folder / f".{secrets.token_hex(8)}.part"
        with part.open("xb") as copy:
            fcntl.flock(copy, fcntl.LOCK_EX)
            if os.fstat(copy.fileno()).st_nlink == 0:
                continue  # collected between its creation and its lock
            try:
                yield part, copy
            finally:
                part.unlink(missing_ok=True)
            return


def _remove_stale_part(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(file.fileno()).st_size
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return None  # in use, or finished meanwhile
    return size


def _copy_and_hash(source: BinaryIO, copy: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        copy.write(chunk)
        size += len(chunk)
    copy.flush()
    os.fsync(copy.fileno())
    return digest.hexdigest(), size


def _state(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, str(status.st_ino)


def _external_path(row: BlobRow, folder: Path | None) -> Path:
    if folder is None or row.mtime_ns is None:
        raise VectorError("its bytes are not in the registry")
    return file_of(folder, row.sha256)


def _is_intact(row: BlobRow, folder: Path | None) -> bool:
    """Judge a file by its state alone: hashing gigabytes would hold the write lock too long."""
    if row.data is not None:
        return hash_bytes(row.data) == row.sha256
    try:
        return _state(_external_path(row, folder)) == (row.size, row.mtime_ns, row.inode)
    except (OSError, VectorError):
        return False
