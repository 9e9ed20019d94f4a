"""Files that appear whole or not at all, with hashes, locks, and sizes as people read them."""

import ctypes
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

_LEFT = re.compile(
    r"(\.(?P<name>.+)\.|prefreg-)(?P<place>[0-9a-f]{8})-(?P<pid>[0-9a-f]+)-(?P<start>[0-9a-f]+)"
    r"-[0-9a-f]{8}(\.(?P<ending>partial|old)(-journal)?)?"
)
_MARK = re.compile(r"\.(?P<name>.+)\.prefreg-lock")
_FOREIGN_SECONDS = 7 * 24 * 3600
"""Whether a process of another machine or boot lives is not known: its files are left so long."""


class ByteRanges(ABC):
    """Bytes that lie elsewhere and are read a range at a time; safe from several threads."""

    size: int
    memory: int
    """The bytes that it holds at most of what was read."""

    @abstractmethod
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`.

        Raises:
            OSError: They cannot be read; its `strerror` says why.
        """

    def stream(self) -> BinaryIO:
        """Read all from the front."""
        return cast(BinaryIO, BufferedReader(_RangeStream(self), 1 << 20))


class _RangeStream(io.RawIOBase):
    def __init__(self, ranges: ByteRanges) -> None:
        self._ranges = ranges
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._ranges.size}
        self._place = begin[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._ranges.size - self._place)
        if count:
            self._ranges.read_into(self._place, memoryview(buffer)[:count])
        self._place += count
        return count


Source = bytes | Path | ByteRanges
"""Where bytes are read from: themselves, a file, or elsewhere."""


def at_hand(source: Source) -> bytes | Path:
    """Return a source whose bytes are here: ranges of a store are read into memory."""
    return source.stream().read() if isinstance(source, ByteRanges) else source


def hash_bytes(data: bytes) -> str:
    """Return the sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read its bytes, unless it is a folder, a device or a pipe.

    Raises:
        OSError: It is one of these, or cannot be opened.
        ValueError: Its name has a zero in it.
    """
    return open(descriptor_of(path), "rb")


def descriptor_of(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of a file to read, under the rules of `open_regular`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return descriptor


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the name of a file beside `path`, which takes its place when all went well.

    No two writers are given the same name. With `durable` content and name are on the disk when
    this ends; whoever fails leaves nothing behind.
    """
    partial = beside(path)
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
        if durable:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Write a file, or replace it, whole or not at all; text in UTF-8."""
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def beside(path: Path, ending: str = "partial") -> Path:
    """Name a hidden file or folder beside `path` that says which process it belongs to."""
    # A name may have 255 bytes, of which the owner takes up to 60.
    name = path.name.encode()[:180].decode(errors="ignore")
    return path.with_name(f".{name}.{_owner()}.{ending}")


def mark_beside(path: Path) -> Path:
    """Name the hidden file that is locked, by `try_lock`, while `path` is written."""
    return path.with_name(f".{path.name}.prefreg-lock")


@contextmanager
def work_folder() -> Iterator[Path]:
    """Yield an empty folder for the length of a `with` block; those of dead processes go too."""
    place = Path(tempfile.gettempdir())
    remove_abandoned(place)
    folder = place / f"prefreg-{_owner()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, in files and bytes."""

    files: int = 0
    bytes: int = 0


def remove_abandoned(folder: Path, name: str | None = None) -> Removed:
    """Remove what dead processes left in a folder: half-written files, locks, copies put aside.

    With `name`, only what stands for that name. A copy that was put aside for a new one that
    never came takes its old place again.
    """
    files = size = 0
    try:
        entries = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return Removed()
    for entry in entries:
        found = _LEFT.fullmatch(entry) or _MARK.fullmatch(entry)
        if found is None or (name is not None and found["name"] != name):
            continue
        path = folder / entry
        if found.re is _MARK:
            _remove_mark(path)
            continue
        with suppress(OSError):
            if not _is_abandoned(found, path):
                continue
            if found["ending"] == "old" and not (folder / found["name"]).exists():
                path.rename(folder / found["name"])
                continue
            if path.is_dir() and not path.is_symlink():
                inside = [each for each in path.rglob("*") if each.is_file()]
                files, size = (
                    files + len(inside),
                    size + sum(each.stat().st_size for each in inside),
                )
                shutil.rmtree(path, ignore_errors=True)
            else:
                files, size = files + 1, size + path.lstat().st_size
                path.unlink()
    return Removed(files, size)


def exchange(first: Path, second: Path) -> None:
    """Let two files or folders of one file system change places in one step.

    Where the system has no such step, in three renames: `remove_abandoned` puts right what a kill
    between them leaves.

    Raises:
        OSError: One of them is missing, or cannot be renamed.
    """
    if _exchange_at_once(first, second):
        return
    aside = beside(second, "old")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except BaseException:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def _exchange_at_once(first: Path, second: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        failed = library.renameat2(here, names[0], here, names[1], swap)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(names[0], names[1], 2)  # RENAME_SWAP
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False  # this kernel or file system has no such step
    raise OSError(code, os.strerror(code), str(second))


def _owner() -> str:
    pid = os.getpid()
    return f"{_place()}-{pid:x}-{_start(pid) or 0:x}-{secrets.token_hex(4)}"


@functools.cache
def _place() -> str:
    """Name this boot of this machine, with its own numbering of processes."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hash_bytes("\n".join(known).encode())[:8]


def _start(pid: int) -> int | None:
    """Return when a process began, in a unit of the system; None where it is not known."""
    try:
        about = Path(f"/proc/{pid}/stat").read_bytes()
        return int(about.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_abandoned(found: re.Match[str], path: Path) -> bool:
    if found["place"] != _place():
        return path.lstat().st_mtime < time.time() - _FOREIGN_SECONDS
    pid, start = int(found["pid"], 16), int(found["start"], 16)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return start != 0 and _start(pid) not in (start, None)


def _remove_mark(path: Path) -> None:
    with suppress(OSError):
        lock = try_lock(path)
        if lock is not None:
            path.unlink()
            os.close(lock)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Lock the file `path`, which is created; return its descriptor, or None while it is taken.

    Closing the descriptor, or the end of the process, gives the lock back. A holder may remove
    the file before it does so.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file in the meantime.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def human_size(size: int) -> str:
    """Write bytes with a binary unit."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
