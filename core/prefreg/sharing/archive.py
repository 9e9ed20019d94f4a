"""Zip files of stored members that say one thing only, and the strict reading of strangers' ones.

Nothing is compressed, so that no file unpacks to more than it has. Names lead nowhere: a member is
read by its name, and whoever writes files for members chooses the place.
"""

import hashlib
import re
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from prefreg.errors import BundleError, unreadable
from prefreg.files import open_regular

_MOST_MEMBERS = 20_000
_LONGEST_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_][\w.@+-]*(/[A-Za-z0-9_][\w.@+-]*)*", re.ASCII)
_BEGINS = b"PK\x03\x04"
_CHUNK = 1 << 20
_BROKEN = (
    BadZipFile, EOFError, struct.error, ValueError, NotImplementedError, RuntimeError, KeyError,
    OverflowError, TypeError,
)  # fmt: skip
"""What `zipfile` raises at files that are none of its own."""


def is_member_name(name: str) -> bool:
    """Whether a member may have this name: plain words with slashes between, none hidden."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def write_archive(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write members in their order; equal members give equal bytes."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, content in members.items():
            assert is_member_name(name), name
            info = ZipInfo(name)  # whose time is always that of 1980
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            if isinstance(content, bytes):
                archive.writestr(info, content)
                continue
            info.file_size = content.stat().st_size
            with open_regular(content) as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, _CHUNK)


class Archive:
    """A file of members that was opened and looked through; nothing of it was believed."""

    def __init__(self, archive: ZipFile, place: str) -> None:
        """Use `open`."""
        self._archive, self.place = archive, place
        self.sizes = {info.filename: info.file_size for info in archive.infolist()}
        """The bytes of each member by its name, in their order."""

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open a file for the length of a `with` block.

        Raises:
            BundleError: It cannot be read, is no such file, or holds what none of ours has.
        """
        try:
            stream = open_regular(path)
        except FileNotFoundError:
            raise BundleError(f"There is no file {path}.") from None
        except (OSError, ValueError) as error:
            raise unreadable(path, error, BundleError) from error
        with stream, _opened(stream, path) as archive:
            _check(archive, path, stream.seek(0, 2))
            yield cls(archive, str(path))

    def read(self, name: str, most: int) -> bytes:
        """Return the bytes of a small member."""
        if self.sizes[name] > most:
            raise BundleError(f"{name} of {self.place} is larger than any of prefreg.")
        with self.stream(name) as stream:
            return stream.read()

    def hash(self, name: str) -> str:
        """Return the sha256 of a member, in hexadecimal."""
        with self.stream(name) as stream:
            digest = hashlib.sha256()
            while part := stream.read(_CHUNK):
                digest.update(part)
            return digest.hexdigest()

    def extract(self, name: str, target: Path) -> None:
        """Write the bytes of a member to a new file, whose name the caller has chosen."""
        with self.stream(name) as stream, target.open("xb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member to read it."""
        try:
            with self._archive.open(name) as stream:
                yield stream
        except _BROKEN as error:
            raise changed(name, self.place) from error


def changed(name: str, place: str) -> BundleError:
    """Say which member is not what it was."""
    return BundleError(
        f"{name} of {place} was changed or damaged, so nothing was stored. Have it sent again."
    )


@contextmanager
def _opened(stream: BinaryIO, path: Path) -> Iterator[ZipFile]:
    begins = stream.read(len(_BEGINS))
    stream.seek(0)
    try:
        archive = ZipFile(stream)
    except _BROKEN as error:
        what = "is cut short or damaged" if begins == _BEGINS else "is no bundle"
        raise BundleError(f"{path} {what}. `prefreg bundle` writes one.") from error
    with archive:
        yield archive


def _check(archive: ZipFile, path: Path, size: int) -> None:
    """Refuse whatever `write_archive` would not have written."""
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS or sum(info.file_size for info in infos) > size:
        raise BundleError(f"{path} says that it holds more than it has, so nothing of it was read.")
    seen: set[str] = set()
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not is_member_name(info.filename):
            why = "names a file as no file of prefreg is named"
        elif info.filename.lower() in seen:  # some systems take A for a
            why = "holds two files of the name"
        elif kind not in (0, stat.S_IFREG):
            why = "holds something other than a plain file,"
        elif info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
            why = "holds a compressed file,"
        elif info.flag_bits or not 0 <= info.header_offset < size:
            why = "holds an encrypted or unfinished file,"
        else:
            seen.add(info.filename.lower())
            continue
        raise BundleError(f"{path} {why} ({info.filename!a}), so nothing of it was read.")
