"""Vectors in a bucket (moto's server, on loopback) and in a folder that a registry is told."""

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from prefreg.errors import RegistryError, UsageError, VectorError
from prefreg.files import ByteRanges
from prefreg.registry import GcReport, Store, VersionRecord, object_store, transfer
from prefreg.registry.places import read_store, remembered_store

pytestmark = pytest.mark.slow

Add = Callable[..., VersionRecord]
Start = Callable[..., "subprocess.Popen[str]"]
MEGABYTE = 1 << 20


@pytest.fixture
def team(path: Path, bucket: str) -> Iterator[Store]:
    """A registry whose vectors lie in the bucket."""
    with Store.open(path, write=True, blobs_at=bucket) as store:
        yield store


@pytest.fixture
def objects(team: Store) -> S3Store:
    """The part of the bucket that is the registry's own."""
    return S3Store.from_url(team.place.where, client_options={"allow_http": True})


def names(objects: S3Store) -> list[str]:
    return sorted(each["path"] for page in obstore.list(objects) for each in page)


def content(store: Store, record: VersionRecord) -> bytes:
    source = store.vector_source(record)
    assert isinstance(source, ByteRanges)
    with source.stream() as stream:
        return stream.read()


def test_a_registry_remembers_its_store(team: Store, path: Path, bucket: str, add: Add) -> None:
    record = add(team, data=b"small, and in the bucket all the same")
    assert not record.inline
    for told in (None, bucket, f"{bucket}/"):
        with Store.open(path, write=True, blobs_at=told) as again:
            assert content(again, record) == b"small, and in the bucket all the same"
            assert again.verify() == []
            assert again.place.where.startswith(f"{bucket}/")
    with (
        Store.open(path, write=True, blobs_at="s3://another-bucket") as other,
        pytest.raises(RegistryError, match=rf"keeps its vectors in {bucket}, not in s3://another"),
    ):
        other.gc()


def test_a_file_with_vectors_beside_it_takes_no_store(path: Path, bucket: str, add: Add) -> None:
    with Store.open(path, write=True, inline_limit=0) as store:
        add(store)
    with (
        Store.open(path, write=True, blobs_at=bucket) as store,
        pytest.raises(RegistryError, match=r"has vectors beside it already \(1\), so it takes no"),
    ):
        add(store, data=b"more")
    with Store.open(path, write=False, blobs_at=bucket) as store:
        assert store.verify() == []


def test_two_registries_may_share_a_store(tmp_path: Path, bucket: str, add: Add) -> None:
    first, second = (
        Store.open(tmp_path / name, write=True, blobs_at=bucket) for name in ("a.db", "b.db")
    )
    with first, second:
        record = add(first, data=b"the same")
        add(second, data=b"the same")
        second.remove("helpful", 1)
        assert second.gc(grace=0).files == 1
        assert content(first, record) == b"the same"
        assert first.gc(grace=0).files == 0


def test_equal_bytes_are_put_once(team: Store, objects: S3Store, add: Add) -> None:
    first = add(team, data=b"v" * 1000)
    before = obstore.head(objects, f"{first.sha256}.safetensors")
    assert add(team, data=b"v" * 1000).sha256 == first.sha256
    assert names(objects) == [f"{first.sha256}.safetensors"]
    assert obstore.head(objects, f"{first.sha256}.safetensors") == before


def test_what_somebody_else_put_under_the_name_is_replaced(
    team: Store, objects: S3Store, add: Add
) -> None:
    record = add(team, data=b"true bytes")
    team.remove("helpful", 1)
    obstore.put(objects, f"{record.sha256}.safetensors", b"bad bytes!")
    assert content(team, add(team, data=b"true bytes")) == b"true bytes"


def test_large_vectors_go_and_come_in_parts(
    team: Store, add: Add, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(object_store, "_AT_ONCE", MEGABYTE)
    data = os.urandom(30 * MEGABYTE + 7)
    record = add(team, data=data)
    source = team.vector_source(record, rehash=True)
    assert isinstance(source, ByteRanges)
    for offset, size in (
        (0, 8),
        (MEGABYTE // 4 - 3, 9),
        (4 * MEGABYTE - 3, 9),
        (17 * MEGABYTE, 6 * MEGABYTE),
        (3, 1),
    ):
        room = bytearray(size)
        source.read_into(offset, memoryview(room))
        assert room == data[offset : offset + size]
    assert transfer.back_up(team, tmp_path / "copy.db").files == 1


def test_a_backup_and_a_copy_are_whole_without_the_store(
    team: Store, add: Add, tmp_path: Path
) -> None:
    record = add(team, data=os.urandom(100_000))
    done = transfer.back_up(team, tmp_path / "copy.db")
    assert (done.versions, done.files) == (1, 1)
    with Store.open(tmp_path / "copy.db", write=True) as copy:
        with copy.database.reading() as session:
            assert remembered_store(session) is None
        assert isinstance(copy.vector_source(record), Path)
        assert copy.verify() == []
    with Store.open(tmp_path / "home.db", write=True) as home:
        assert home.take(record, team.vector_source(record)).record.inline
        assert home.verify() == []


def test_a_version_goes_from_one_store_to_another(
    team: Store, bucket: str, add: Add, tmp_path: Path
) -> None:
    record = add(team, data=os.urandom(100_000))
    with Store.open(tmp_path / "theirs.db", write=True, blobs_at=bucket) as theirs:
        there = theirs.take(record, team.vector_source(record))
        assert there.added
        assert content(theirs, there.record) == content(team, record)
        assert theirs.verify() == []


def test_collecting_leaves_what_is_young(team: Store, objects: S3Store, add: Add) -> None:
    kept = add(team, data=b"kept")
    gone = add(team, "harmless", b"gone")
    team.remove("harmless", 1)
    obstore.put(objects, "notes.txt", b"mine")
    assert team.gc() == GcReport(0, 0)
    assert f"{gone.sha256}.safetensors" in names(objects)
    assert team.gc(grace=0) == GcReport(1, 4)
    assert names(objects) == sorted([f"{kept.sha256}.safetensors", "notes.txt"])
    assert team.verify() == []


def test_what_is_collected_between_blob_and_row_is_put_again(
    team: Store, objects: S3Store, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = team.database.writing

    def late() -> object:
        obstore.delete(objects, names(objects))
        return writing()

    monkeypatch.setattr(team.database, "writing", late)
    record = add(team, data=b"collected meanwhile")
    assert content(team, record) == b"collected meanwhile"


@pytest.mark.parametrize("rehash", [True, False])
def test_a_damaged_object_is_found(team: Store, objects: S3Store, add: Add, rehash: bool) -> None:
    record = add(team, data=b"v" * 100)
    obstore.put(objects, f"{record.sha256}.safetensors", b"v" * 99 + b"w")
    with pytest.raises(VectorError, match=r"helpful@1 of .* of s3://.* do not match their hash"):
        team.vector_source(record, rehash=rehash)
    (problem,) = team.verify()
    assert problem.thing == "helpful@1"
    add(team, data=b"v" * 100)  # the same vector again repairs it
    assert team.verify() == []


def test_an_object_that_changes_while_it_is_read_is_refused(
    team: Store, objects: S3Store, add: Add
) -> None:
    record = add(team, data=b"v" * 100)
    source = team.vector_source(record)
    assert isinstance(source, ByteRanges)
    obstore.put(objects, f"{record.sha256}.safetensors", b"w" * 100)
    with pytest.raises(OSError, match="it was changed while it was read"):
        source.read_into(0, memoryview(bytearray(8)))


def test_a_lost_object_is_told_with_version_and_store(
    team: Store, objects: S3Store, add: Add
) -> None:
    record = add(team, data=b"v" * 100)
    source = team.vector_source(record)
    assert isinstance(source, ByteRanges)
    obstore.delete(objects, f"{record.sha256}.safetensors")
    with pytest.raises(VectorError, match=r"helpful@1 of .*the store has lost it: .* no s3://team"):
        team.vector_source(record)
    with pytest.raises(OSError, match="the store has lost it"):
        source.read_into(0, memoryview(bytearray(8)))
    assert [problem.thing for problem in team.verify()] == ["helpful@1"]


def test_an_absent_bucket_is_told_before_anything_is_written(
    path: Path, bucket: str, add: Add
) -> None:
    with (
        Store.open(path, write=True, blobs_at="s3://not-there/x") as store,
        pytest.raises(RegistryError, match=r"s3://not-there/x.*there is no such bucket: create it"),
    ):
        add(store)
    with Store.open(path, write=True, blobs_at=bucket) as store:  # nothing was remembered
        assert add(store).number == 1


class _Stubborn(BaseHTTPRequestHandler):
    """Refuses everything, or says nothing for a while."""

    silent = 0.0

    def _answer(self) -> None:
        time.sleep(self.silent)
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Stubborn]]:
    """A server in the place of the bucket's, from when its address is put in the environment."""
    handler = type("Handler", (_Stubborn,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def test_a_store_that_refuses_is_told(
    team: Store, path: Path, add: Add, stubborn, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add(team, data=b"v" * 100)
    monkeypatch.setenv("AWS_ENDPOINT_URL", stubborn.address)
    said = r"\(s3://team.*: the store refuses it \(403\): check AWS_ACCESS_KEY_ID"
    with Store.open(path, write=True) as store:
        with pytest.raises(RegistryError, match=rf"helpful@1 of .* cannot be read {said}"):
            store.vector_source(record)
        with pytest.raises(RegistryError, match=rf"cannot be stored {said}.*nothing was changed"):
            add(store, data=b"w" * 100)
        for step, done in ((store.verify, "verified"), (store.gc, "collected")):
            with pytest.raises(RegistryError, match=rf"cannot be {done} {said}"):
                step()
        assert [str(version) for version in store.versions()] == ["helpful@1"]


def test_a_store_that_says_nothing_is_told_in_time(
    team: Store, path: Path, add: Add, stubborn, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add(team, data=b"v" * 100)
    stubborn.silent = 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", stubborn.address)
    began = time.monotonic()
    with (
        Store.open(path, write=False, busy_timeout=0.3) as store,
        pytest.raises(RegistryError, match=r"helpful@1 .* does not answer in time: check AWS_END"),
    ):
        store.vector_source(record)
    assert time.monotonic() - began < 3


def test_a_store_that_is_not_there_is_told(
    team: Store, path: Path, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add(team, data=b"v" * 100)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        Store.open(path, write=False, busy_timeout=1) as store,
        pytest.raises(RegistryError, match=r"the store cannot be reached: check AWS_ENDPOINT_URL"),
    ):
        store.vector_source(record)


@pytest.mark.parametrize(
    "text",
    ["", "bucket", "s3://", "s3://UPPER/x", "s3://key:secret@bucket", "s3://bucket/../x", "file://",
     "file://host/x", "http://bucket/x", "s3://bucket?x=1", "s3://bucket/a\nb"],
)  # fmt: skip
def test_what_is_no_store_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is no store for vectors"):
        read_store(text)


@pytest.mark.parametrize(
    "url", ["file:///etc", "s3://bucket/x", "file:///a/../b/0123456789abcdef", "nonsense"]
)
def test_a_file_that_remembers_what_is_no_store_is_refused(path: Path, url: str) -> None:
    Store.open(path, write=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO settings VALUES ('blobs', ?)", [url])
    connection.close()
    with (
        Store.open(path, write=True) as store,
        pytest.raises(RegistryError, match="which is no store for its vectors"),
    ):
        store.gc()


def test_a_folder_is_a_store(path: Path, tmp_path: Path, add: Add) -> None:
    (tmp_path / "mounted here").mkdir()
    url = f"file://{tmp_path}/mounted%20here"
    with Store.open(path, write=True, blobs_at=url) as store:
        record = add(store, data=b"v" * 100)
        source = store.vector_source(record)
        assert isinstance(source, Path)
        assert source.is_relative_to(tmp_path / "mounted here")
        assert source.read_bytes() == b"v" * 100
        store.remove("helpful", 1)
        assert store.gc().files == 1
    with (
        Store.open(tmp_path / "new.db", write=True, blobs_at=f"file://{tmp_path}/absent") as store,
        pytest.raises(RegistryError, match=r"absent: No such file or directory"),
    ):
        add(store)


def test_processes_that_add_and_collect_at_once_lose_nothing(
    path: Path, bucket: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_BLOBS", bucket)
    processes = [start("add", path, 5, size) for size in (40, 300_000, 2_000_000)]
    processes.append(start("collect", path, 20))
    outputs = [process.communicate("go\n", timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    numbers = sorted(int(word) for output in outputs[:3] for word in output[1:])
    assert numbers == list(range(1, 16))
    with Store.open(path, write=False) as store:
        assert [record.number for record in store.versions()] == numbers
        assert store.verify() == []
