"""Full and read-only places, made with small file systems where the tests may mount them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import Store, VersionRecord

Add = Callable[..., VersionRecord]
MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "prefreg-test", str(disk)],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("no permission to mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)


def test_a_read_only_place_can_be_read_and_is_told_to_writers(small_disk: Path, add: Add) -> None:
    path = small_disk / "registry.db"
    with Store.open(path, write=True, inline_limit=64) as store:
        add(store, data=b"inline")
        add(store, data=b"external" * 20)
        _make_read_only(small_disk)
        with pytest.raises(RegistryError, match=r"cannot be (stored|written)"):
            add(store, data=b"more")
        with pytest.raises(RegistryError, match=r"cannot be stored .*Read-only file system"):
            add(store, data=b"more" * 20)
    with Store.open(path, write=False) as store:
        assert store.verify() == []
        assert [len(_bytes_of(store, record)) for record in store.versions()] == [6, 160]
    with pytest.raises(RegistryError, match=r"registry.db cannot be written: .* is read-only"):
        Store.open(path, write=True)
    with pytest.raises(RegistryError, match=r"new.db cannot be written"):
        Store.open(small_disk / "new.db", write=True)


def test_an_interrupted_write_in_a_read_only_place_is_told(
    small_disk: Path, add: Add, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    path = small_disk / "registry.db"
    with Store.open(path, write=True) as store:
        for _ in range(4):
            add(store, data=os.urandom(10_000))
    start("crash_in_commit", path).wait()
    _make_read_only(small_disk)
    with pytest.raises(RegistryError, match=r"was interrupted, .* Copy it, with its -journal file"):
        Store.open(path, write=False)


def test_a_full_disk_loses_nothing_inside_the_database(small_disk: Path, add: Add) -> None:
    path = small_disk / "registry.db"
    with Store.open(path, write=True) as store:
        with pytest.raises(RegistryError, match=r"no space left for the registry .*registry.db"):
            _fill(store, add)
        kept = len(store.versions())
        assert 2 <= kept < 10
        assert [record.number for record in store.versions()] == list(range(1, kept + 1))
        assert store.verify() == []
        store.remove("helpful", 1)
        assert add(store, data=os.urandom(MEGABYTE // 4)).number == kept + 1
        assert store.verify() == []


def test_a_full_disk_loses_nothing_beside_the_database(small_disk: Path, add: Add) -> None:
    path = small_disk / "registry.db"
    with Store.open(path, write=True, inline_limit=64) as store:
        add(store, data=os.urandom(MEGABYTE))
        with pytest.raises(RegistryError, match=r"cannot be stored .*No space left on device"):
            add(store, data=os.urandom(MEGABYTE))
        assert len(list((small_disk / "registry.vectors").iterdir())) == 1
        assert [record.number for record in store.versions()] == [1]
        assert store.verify() == []


def test_creating_on_a_full_disk_is_told(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (2 * MEGABYTE))
    with pytest.raises(RegistryError, match="no space left"):
        Store.open(small_disk / "registry.db", write=True)


def _bytes_of(store: Store, record: VersionRecord) -> bytes:
    source = store.vector_source(record)
    return source.read_bytes() if isinstance(source, Path) else source


def _fill(store: Store, add: Add) -> None:
    for _ in range(10):
        add(store, data=os.urandom(MEGABYTE // 3))
