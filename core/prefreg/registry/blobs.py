"""The bytes of vectors, addressed by their sha256, and the places where they lie.

Small ones are rows of the database. The others lie in one `Place`: in the database too, in a
folder, or in an object store.
"""

import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.orm import Session

from prefreg.errors import RegistryError, VectorError
from prefreg.files import ByteRanges, Source, hash_bytes, hash_file, human_size, sync
from prefreg.registry.schema import BlobRow

FILE_NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
_PART_NAME = re.compile(r"\.[0-9a-f]{16}\.part")
_CHUNK = 1 << 20
_LARGEST_ROW = 256 << 20
"""A server takes a row of 1 GB, but twice or more of it in the memory of both sides."""

State = tuple[int, int, str]
"""Size, time of the last change in ns, and which file it is: what says that bytes are the same."""


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """Bytes that were read and hashed but belong to no row yet."""

    sha256: str
    size: int
    data: bytes | None
    """The bytes that go into the row; None where they lie in the place."""
    settle: Callable[[], State] | None = None
    """Makes sure, under the write lock, that the place has them."""


class Place(ABC):
    """Where the bytes lie that are too large for a row.

    Every method raises OSError, with file name and reason, where the place cannot be reached.
    """

    where: str
    """As messages call it."""
    advice = "Check the path and the free space."
    """What to do where nothing can be put there."""

    @abstractmethod
    def stage(self, file: BinaryIO, size: int) -> "Iterator[StagedBlob]":
        """Read and hash a file to the end, and bring it so far that a row may refer to it.

        A generator that yields once, for a `with` block.
        """

    @abstractmethod
    def has(self, row: BlobRow) -> bool:
        """Judge by the state of the bytes alone: hashing would hold the write lock too long."""

    @abstractmethod
    def source(self, row: BlobRow, *, rehash: bool) -> Source:
        """Return what reads the bytes of a row, which were hashed unless their state is known.

        Raises:
            VectorError: They are gone, or damaged.
        """

    def check(self) -> None:  # noqa: B027 - most places need none
        """Make sure, before work begins, that bytes can be put here."""

    def held(self, grace: float) -> dict[str, int]:
        """Return the names and sizes of what rows may refer to, but for what is younger, in s."""
        return {}

    def remove(self, held: Mapping[str, int]) -> tuple[int, int]:
        """Remove what no row refers to, under the write lock; return their number and bytes."""
        return 0, 0


class InRows(Place):
    """In the database: all that a server has where no store is named."""

    where = "the database"

    def stage(self, file: BinaryIO, size: int) -> Iterator[StagedBlob]:
        """Read the file."""
        if size > _LARGEST_ROW:
            raise RegistryError(
                f"A vector of {human_size(size)} is too large for a row of a database server. "
                "Name an object store for it with --blobs; nothing was changed."
            )
        yield stage_row(file)

    def has(self, row: BlobRow) -> bool:
        """Nothing lies outside of rows."""
        return False

    def source(self, row: BlobRow, *, rehash: bool) -> Source:
        """Nothing lies outside of rows."""
        raise VectorError("its bytes are not in the registry")


class Folder(Place):
    """Files in a folder, made when there is the first; the folder beside it must exist."""

    def __init__(self, path: Path, inline_limit: int) -> None:
        """Files of at most `inline_limit` bytes go into rows all the same."""
        self.path = path
        self.where = str(path)
        self._inline_limit = inline_limit

    def file(self, sha256: str) -> Path:
        """Return where a vector lies."""
        return self.path / f"{sha256}.safetensors"

    def stage(self, file: BinaryIO, size: int) -> Iterator[StagedBlob]:
        """Copy the file beside its destination.

        The part file is locked while it is in use, which tells it from one that a killed process
        left behind.
        """
        if size <= self._inline_limit:
            yield stage_row(file)
            return
        with self._part() as (part, copy):
            sha256, size = _copy_and_hash(file, copy)

            def settle() -> State:
                os.replace(part, self.file(sha256))
                sync(self.path)
                return _state(self.file(sha256))

            yield StagedBlob(sha256, size, None, settle)

    def has(self, row: BlobRow) -> bool:
        """Compare size, time and inode with those recorded."""
        try:
            return _state(self.file(row.sha256)) == recorded(row)
        except OSError:
            return False

    def source(self, row: BlobRow, *, rehash: bool) -> Source:
        """Return the path; a file is trusted while size, time and inode are those recorded."""
        path = self.file(row.sha256)
        try:
            known = not rehash and _state(path) == recorded(row)
            if not known and hash_file(path) != row.sha256:
                raise VectorError(f"the bytes of {path} do not match their hash")
        except FileNotFoundError as error:
            raise VectorError(f"its file {path} is missing") from error
        except OSError as error:
            raise VectorError(f"its file {path} cannot be read ({error.strerror})") from error
        return path

    def check(self) -> None:
        """Make sure that files can be written."""
        place = self.path if self.path.exists() else self.path.parent
        code = errno.EACCES if place.is_dir() else errno.ENOENT
        if code == errno.ENOENT or not os.access(place, os.W_OK):
            raise OSError(code, os.strerror(code), str(place))

    def held(self, grace: float) -> dict[str, int]:
        """Return vectors and parts of any age: whoever adds holds a lock on either."""
        found = {}
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if FILE_NAME.fullmatch(path.name) or _PART_NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # finished or collected meanwhile
                    found[path.name] = path.lstat().st_size
        return found

    def remove(self, held: Mapping[str, int]) -> tuple[int, int]:
        """Delete the files; a part that a process writes stays."""
        gone = [size for name, size in sorted(held.items()) if _is_removed(self.path / name)]
        return len(gone), sum(gone)

    def fetch(self, source: Source, sha256: str) -> State:
        """Copy a vector here unless it is here already, and return its state."""
        path = self.file(sha256)
        if path.exists() and hash_file(path) == sha256:
            return _state(path)
        with _reader(source) as (file, _), self._part() as (part, copy):
            digest, _ = _copy_and_hash(file, copy)
            if digest != sha256:
                raise RegistryError(
                    f"The bytes of {path.name} do not match their hash. `prefreg verify` says more."
                )
            os.replace(part, path)
        sync(self.path)
        return _state(path)

    @contextmanager
    def _part(self) -> Iterator[tuple[Path, BinaryIO]]:
        if not self.path.is_dir():
            self.path.mkdir(exist_ok=True)
            sync(self.path.parent)
        while True:
            part = self.path / f".{secrets.token_hex(8)}.part"
            with part.open("xb") as copy:
                fcntl.flock(copy, fcntl.LOCK_EX)
                if os.fstat(copy.fileno()).st_nlink == 0:
                    continue  # collected between its creation and its lock
                try:
                    yield part, copy
                finally:
                    part.unlink(missing_ok=True)
                return


def blob_folder(database: Path) -> Path:
    """Return the folder of a database's external vectors.

    Two databases never share one: `foo.db` has `foo.vectors`, any other name `<name>-vectors`.
    """
    stem = database.name.removesuffix(".db")
    return database.with_name(
        f"{stem}.vectors" if stem and stem != database.name else f"{database.name}-vectors"
    )


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Say what cannot be done where a place cannot be reached, and why."""
    try:
        yield
    except OSError as error:
        raise RegistryError(f"{what} ({error.filename}: {error.strerror}).") from error


@contextmanager
def stage(source: Source, place: Place) -> Iterator[StagedBlob]:
    """Read and hash bytes, and bring them to their place if they are too large to go inline."""
    try:
        with _reader(source) as (file, size):
            yield from place.stage(file, size)
    except OSError as error:
        name = "to be copied" if isinstance(source, bytes) else str(source)
        where = error.filename or place.where
        raise RegistryError(
            f"The vector {name} cannot be stored ({where}: {error.strerror}); "
            f"nothing was changed. {place.advice}"
        ) from error


def store(session: Session, staged: StagedBlob, place: Place) -> BlobRow:
    """Bind staged bytes to their row, under the write lock; equal bytes are kept once.

    Bytes that were lost or damaged since are replaced by the new copy.
    """
    row = session.get(BlobRow, staged.sha256)
    if row is not None and _is_intact(row, place):
        return row
    if row is None:
        row = BlobRow(sha256=staged.sha256, size=staged.size)
        session.add(row)
    row.data = staged.data
    row.mtime_ns, row.inode = None, None
    if staged.settle is not None:
        _, row.mtime_ns, row.inode = staged.settle()
    return row


def read_source(row: BlobRow, place: Place, *, rehash: bool) -> Source:
    """Return what reads the bytes of a row, once they are known to be what was added."""
    if row.data is not None:
        if hash_bytes(row.data) != row.sha256:
            raise VectorError("its bytes in the registry do not match their hash")
        return row.data
    if row.mtime_ns is None:
        raise VectorError("its bytes are not in the registry")
    return place.source(row, rehash=rehash)


def recorded(row: BlobRow) -> State:
    """Return the state in which the bytes of a row were when they were hashed."""
    return row.size, row.mtime_ns or 0, row.inode or ""


def stage_row(file: BinaryIO) -> StagedBlob:
    """Read bytes that go into a row."""
    data = file.read()
    return StagedBlob(hash_bytes(data), len(data), data)


def _is_intact(row: BlobRow, place: Place) -> bool:
    if row.data is not None:
        return hash_bytes(row.data) == row.sha256
    return row.mtime_ns is not None and place.has(row)


@contextmanager
def _reader(source: Source) -> Iterator[tuple[BinaryIO, int]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
    elif isinstance(source, ByteRanges):
        yield source.stream(), source.size
    else:
        with source.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size


def _is_removed(path: Path) -> bool:
    """Delete a file; return whether it was there and, if it is a part, nobody's."""
    try:
        if _PART_NAME.fullmatch(path.name) is None:
            path.unlink()
            return True
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False  # in use, or finished or collected meanwhile
    return True


def _copy_and_hash(source: BinaryIO, copy: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        copy.write(chunk)
        size += len(chunk)
    copy.flush()
    os.fsync(copy.fileno())
    return digest.hexdigest(), size


def _state(path: Path) -> State:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, str(status.st_ino)
