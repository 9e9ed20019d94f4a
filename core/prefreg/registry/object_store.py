"""Vectors as objects in a bucket: put exactly once, and read by ranges ahead of who asks.

It needs the extra `store`, which is imported when a registry with a store is used.
"""

import errno
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Literal

from prefreg.errors import RegistryError, VectorError, one_line
from prefreg.files import ByteRanges, hash_bytes
from prefreg.registry.blobs import FILE_NAME, Place, StagedBlob, State, recorded
from prefreg.registry.schema import BlobRow

if TYPE_CHECKING:
    from obstore.store import S3Store

_AT_ONCE = 32 << 20
"""The bytes of the largest object that one request puts, which is also held in memory."""
_PART = 8 << 20
_PARTS_AT_ONCE = 4
_WINDOW = 8 << 20
"""What a request reads: large enough that its answer takes longer than its way."""
_FIRST = 256 << 10
"""What the first one reads: the header, which nothing can be done without."""
_AHEAD = 3
_KEPT = _AHEAD + 3
_PATIENCE = 10
"""A request that puts may take so many times as long as one that reads may be silent."""
_RETRIES = 3

_NO_BUCKET = "there is no such bucket: create it first"
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+)")

Known = Callable[[str], BlobRow | None]


class ObjectStore(Place):
    """Objects below a prefix of a bucket; credentials and endpoint are those of the AWS tools."""

    advice = "Try again once that is put right."

    def __init__(self, url: str, known: Known, *, timeout: float) -> None:
        """Name the prefix as `s3://BUCKET/PREFIX`.

        `known` finds the row of a hash, and `timeout` is how many seconds the store may be silent.
        """
        self.where = url
        self._known = known
        self._timeout = timeout
        self._reads = _connect(url, timeout)

    @cached_property
    def _writes(self) -> "S3Store":
        return _connect(self.where, self._timeout * _PATIENCE)

    def stage(self, file: BinaryIO, size: int) -> Iterator[StagedBlob]:
        """Put the object, unless it is there: blob first, then the row."""
        sha256 = _hash(file)

        def put() -> State:
            return self._put(sha256, size, file)

        def settle() -> State:
            # A collector may have taken what no row had for long.
            return put() if self._state(sha256) != state else state

        state = put()
        yield StagedBlob(sha256, size, None, settle)

    def has(self, row: BlobRow) -> bool:
        """Compare size and e-tag with those recorded."""
        return _same(self._state(row.sha256), recorded(row))

    def source(self, row: BlobRow, *, rehash: bool) -> ByteRanges:
        """Return what reads the object; it is trusted while size and e-tag are those recorded."""
        found = self._state(row.sha256)
        if found is None:
            self._require_bucket()
            raise VectorError(f"the store has lost it: there is no {self._url(row.sha256)}")
        ranges = self._ranges(row.sha256, found)
        if found[0] != row.size or (
            (rehash or not _same(found, recorded(row))) and not _matches(ranges, row.sha256)
        ):
            raise VectorError(f"the bytes of {ranges} do not match their hash")
        return ranges

    def check(self) -> None:
        """Put a byte and delete it again."""
        import obstore

        with _telling(self.where):
            obstore.put(self._writes, "check", b"0")
            obstore.delete(self._writes, "check")

    def held(self, grace: float) -> dict[str, int]:
        """Return the objects that are older than `grace` s: younger ones may get their row yet."""
        import obstore

        oldest = time.time() - grace
        with _telling(self.where):
            found = [each for page in obstore.list(self._reads) for each in page]
        return {
            each["path"]: each["size"]
            for each in found
            if FILE_NAME.fullmatch(each["path"]) and each["last_modified"].timestamp() <= oldest
        }

    def remove(self, held: Mapping[str, int]) -> tuple[int, int]:
        """Delete the objects."""
        import obstore

        with _telling(self.where):
            if held:
                obstore.delete(self._writes, list(held))
        return len(held), sum(held.values())

    def _put(self, sha256: str, size: int, file: BinaryIO) -> State:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        name = f"{sha256}.safetensors"
        found = self._state(sha256)
        if found is not None and self._is_sound(sha256, size, found):
            return found
        file.seek(0)
        with _telling(self.where):
            if size > _AT_ONCE:
                # In parts, which no store creates only where there is none: two who put the same
                # name at once put the same bytes.
                obstore.put(
                    self._writes, name, _checked(file, sha256),
                    use_multipart=True, chunk_size=_PART, max_concurrency=_PARTS_AT_ONCE,
                )  # fmt: skip
            else:
                mode: Literal["create", "overwrite"] = "overwrite" if found else "create"
                data = file.read()
                _require(hash_bytes(data) == sha256)
                try:
                    obstore.put(self._writes, name, data, mode=mode, use_multipart=False)
                except AlreadyExistsError:  # by another writer meanwhile: is it the same?
                    return self._put(sha256, size, file)
        found = self._state(sha256)
        if found is None:
            raise RegistryError(f"{self.where} does not show what was put there. Try again.")
        return found

    def _is_sound(self, sha256: str, size: int, found: State) -> bool:
        """Whether an object that is there is what its name says, not what somebody put there."""
        row = self._known(sha256)
        if row is not None and _same(found, recorded(row)):
            return True
        return found[0] == size and _matches(self._ranges(sha256, found), sha256)

    def _state(self, sha256: str) -> State | None:
        import obstore

        try:
            with _telling(self.where):
                found = obstore.head(self._reads, f"{sha256}.safetensors")
        except FileNotFoundError:
            return None
        changed = int(found["last_modified"].timestamp() * 1e9)
        return found["size"], changed, found["e_tag"] or ""

    def _ranges(self, sha256: str, found: State) -> "StoredObject":
        size, _, e_tag = found
        return StoredObject(self._reads, self._url(sha256), f"{sha256}.safetensors", size, e_tag)

    def _url(self, sha256: str) -> str:
        return f"{self.where}/{sha256}.safetensors"

    def _require_bucket(self) -> None:
        import obstore

        with _telling(self.where):
            next(iter(obstore.list(self._reads, chunk_size=1)), None)


class StoredObject(ByteRanges):
    """An object that is read by ranges, of which the next are on their way already.

    All reads are of the content that was there when it was opened; another one is refused.
    """

    memory = _KEPT * _WINDOW

    def __init__(self, store: "S3Store", url: str, name: str, size: int, e_tag: str) -> None:
        """Use `ObjectStore.source`."""
        self.size = size
        self._store = store
        self._url = url
        self._name = name
        self._e_tag = e_tag
        self._windows: OrderedDict[int, Future[memoryview]] = OrderedDict()
        self._lock = Lock()

    def __str__(self) -> str:
        return self._url

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`."""
        done = 0
        while done < len(view):
            number = _number(offset + done)
            first = offset + done - _start(number)
            part = self._window(number)[first : first + len(view) - done]
            if not part:
                raise OSError(errno.EIO, f"it ends at byte {offset + done}", self._url)
            view[done : done + len(part)] = part
            done += len(part)

    def _window(self, number: int) -> memoryview:
        with self._lock:
            # Whoever jumps gets one window: the next may not be wanted.
            follows = not number or number - 1 in self._windows or number in self._windows
            last = min(number + (_AHEAD if follows else 0), _number(self.size - 1))
            for each in range(number, last + 1):  # what is wanted now is asked for first
                if each not in self._windows:
                    self._windows[each] = _fetchers().submit(self._fetch, each)
            for each in range(last, number - 1, -1):
                self._windows.move_to_end(each)
            while len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
            window = self._windows[number]
        try:
            return window.result()
        except OSError:
            with self._lock:  # another read may have more luck
                self._windows.pop(number, None)
            raise

    def _fetch(self, number: int) -> memoryview:
        import obstore

        start, stop = _start(number), min(_start(number + 1), self.size)
        with _telling(self._url):
            found = obstore.get(
                self._store,
                self._name,
                options={"range": (start, stop), "if_match": self._e_tag or None},
            )
            return memoryview(found.bytes())


def _number(offset: int) -> int:
    """Return the window that an offset lies in."""
    return 0 if offset < _FIRST else 1 + (offset - _FIRST) // _WINDOW


def _start(number: int) -> int:
    """Return where a window begins."""
    return _FIRST + (number - 1) * _WINDOW if number else 0


def _hash(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # as io has it


def _matches(ranges: ByteRanges, sha256: str) -> bool:
    return _hash(ranges.stream()) == sha256


def _same(found: State | None, known: State) -> bool:
    """Whether two states are of the same content: an e-tag follows from it, a time does not."""
    return found is not None and (found[0], found[2]) == (known[0], known[2])


def _checked(file: BinaryIO, sha256: str) -> Iterator[bytes]:
    """Read a file in parts; at the end, which is before it appears, it must be what was hashed."""
    digest = hashlib.sha256()
    while chunk := file.read(_PART):
        digest.update(chunk)
        yield chunk
    _require(digest.hexdigest() == sha256)


def _require(same: bool) -> None:
    if not same:
        raise OSError(errno.EIO, "the file was changed while it was read")


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2 * _AHEAD, "prefreg-store")


def _connect(url: str, timeout: float) -> "S3Store":
    try:
        import obstore.store
    except ImportError as error:
        raise RegistryError(
            f"The vectors lie in {url}, and what reads it is not installed: "
            "pip install 'prefreg[store]'."
        ) from error
    seconds = timedelta(seconds=timeout)
    try:
        return obstore.store.S3Store.from_url(
            url,
            client_options={"allow_http": True, "read_timeout": seconds, "timeout": 20 * seconds},
            retry_config={"max_retries": _RETRIES, "retry_timeout": seconds},
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise RegistryError(f"{url} is no store ({one_line(str(error))}).") from error


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """Turn what the store says into an `OSError` of one line."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        lost = _NO_BUCKET if "NoSuchBucket" in str(error) else "the store has lost it"
        raise OSError(errno.ENOENT, lost, where) from error
    except exceptions.AlreadyExistsError:
        raise
    except exceptions.BaseError as error:
        raise OSError(errno.EIO, _explain(error), where) from error


def _explain(error: Exception) -> str:
    """Say in one line what a store has against a request."""
    said = str(error)
    found = _CODE.search(said) or _STATUS.search(said)
    code = found[1] if found else type(error).__name__
    status = _STATUS.search(said)
    if code == "NoSuchBucket":
        return _NO_BUCKET
    if status and status[1] == "412":
        return "it was changed while it was read"
    if status and status[1] in ("401", "403"):
        return f"the store refuses it ({code}): check AWS_ACCESS_KEY_ID and what it may do"
    if "169.254.169.254" in said:  # where a machine of the cloud would find them
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if "kind: Timeout" in said or "TimedOut" in said:
        return "the store does not answer in time: check AWS_ENDPOINT_URL and the network"
    if "kind: Connect" in said:
        return "the store cannot be reached: check AWS_ENDPOINT_URL and the network"
    return f"the store failed ({code}): {one_line(said.partition('Debug source')[0])}"
