import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from prefreg.errors import RegistryError, VectorError
from prefreg.registry import GcReport, Store, VersionRecord

Add = Callable[..., VersionRecord]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where external vectors lie."""
    return tmp_path / "registry.vectors"


def _edit(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def test_a_flipped_bit_inside_the_database_is_found(path: Path, store: Store, add: Add) -> None:
    good, bad = add(store, data=b"good"), add(store, "harmless", b"bad0")
    add(store, "honest", b"bad0")
    _edit(path, "UPDATE blobs SET data = ? WHERE sha256 = ?", b"bad1", bad.sha256)
    (problem,) = store.verify()
    assert problem.thing == "harmless@1, honest@1"
    assert str(problem).startswith("harmless@1, honest@1: its bytes in the registry do not match")
    with pytest.raises(VectorError, match=r"harmless@1 of .* do not match their hash"):
        store.vector_source(bad)
    assert store.vector_source(good) == b"good"


def test_a_flipped_bit_in_a_file_is_found(store: Store, add: Add, folder: Path) -> None:
    record = add(store, data=b"v" * 100)
    file = folder / f"{record.sha256}.safetensors"
    file.write_bytes(b"v" * 99 + b"w")
    (problem,) = store.verify()
    assert (problem.thing, problem.what) == (
        "helpful@1",
        f"the bytes of {file} do not match their hash",
    )


def test_a_lost_file_is_found(store: Store, add: Add, folder: Path) -> None:
    record = add(store, data=b"v" * 100)
    (folder / f"{record.sha256}.safetensors").unlink()
    (problem,) = store.verify()
    assert "is missing" in problem.what
    with pytest.raises(VectorError, match=r"helpful@1 of .* is missing"):
        store.vector_source(record)


def test_a_row_without_bytes_is_found(path: Path, store: Store, add: Add) -> None:
    record = add(store)
    _edit(path, "UPDATE blobs SET data = NULL")
    assert [problem.what for problem in store.verify()] == ["its bytes are not in the registry"]
    with pytest.raises(VectorError, match="its bytes are not in the registry"):
        store.vector_source(record)


def test_a_lost_row_is_found(path: Path, store: Store, add: Add) -> None:
    add(store)
    _edit(path, "DELETE FROM blobs")
    broken, unreadable = store.verify()
    assert broken.what == "row 1 of table versions refers to a missing row of blobs"
    assert "helpful@1 has lost the row of its bytes" in unreadable.what
    with pytest.raises(RegistryError, match="helpful@1 has lost the row of its bytes"):
        store.versions()


@pytest.mark.parametrize(("table", "lost"), [("axes", "axis"), ("bases", "base")])
def test_a_lost_axis_or_base_is_found(
    path: Path, store: Store, add: Add, table: str, lost: str
) -> None:
    add(store)
    _edit(path, f"DELETE FROM {table}")
    broken, unreadable = store.verify()
    assert broken.what == f"row 1 of table versions refers to a missing row of {table}"
    assert f"@1 has lost the row of its {lost}." in unreadable.what


def test_a_damaged_document_is_found(path: Path, store: Store, add: Add) -> None:
    add(store)
    _edit(path, "UPDATE versions SET metadata = '{'")
    (problem,) = store.verify()
    assert "a damaged JSON document" in problem.what


@pytest.mark.parametrize(
    ("cell", "value", "what"),
    [
        ("versions.created", "0000-00-00 00:00:00", "moment"),
        ("bases.created", "", "moment"),
        ("versions.metadata", b"\xff", "JSON document"),
        ("versions.kind", b"\xff", "text"),
        ("versions.number", "x", "number"),
        ("bases.parameters", b"", "number"),
    ],
)
def test_a_cell_of_another_type_is_found(
    path: Path, store: Store, add: Add, cell: str, value: object, what: str
) -> None:
    add(store)
    table, _, column = cell.partition(".")
    _edit(path, f"UPDATE {table} SET {column} = ?", value)
    (problem,) = store.verify()
    assert f"a damaged {what}" in problem.what


def test_a_row_without_what_all_have_is_told(path: Path, store: Store, add: Add) -> None:
    add(store)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql=replace(sql, 'NOT NULL', '')")
    connection.close()
    _edit(path, "UPDATE axes SET last_number = NULL")
    with pytest.raises(RegistryError, match=r"a damaged row of axes .'without last_number'"):
        add(store)


def test_damage_to_the_structure_is_found(path: Path, store: Store, add: Add) -> None:
    for _ in range(40):
        add(store)
    _edit(path, "PRAGMA writable_schema=ON")
    connection = sqlite3.connect(path)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'ix_versions_sha256'"
    ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 3)
        file.write(b"\x00\x01")  # the index now claims to hold one entry
    assert any("ix_versions_sha256" in problem.what for problem in store.verify())


def test_unreferenced_files_are_collected_and_others_left_alone(
    store: Store, add: Add, folder: Path
) -> None:
    kept = add(store, data=b"k" * 100)
    add(store, "harmless", b"g" * 200)
    store.remove("harmless", 1)
    stranger = folder / f"{hashlib.sha256(b'').hexdigest()}.safetensors"
    stranger.write_bytes(b"s" * 30)
    (folder / ".0123456789abcdef.part").write_bytes(b"p" * 7)
    (folder / "notes.txt").write_text("mine")
    report = store.gc()
    assert report.files == 3
    assert report.bytes >= 237
    assert {path.name for path in folder.iterdir()} == {f"{kept.sha256}.safetensors", "notes.txt"}
    assert store.gc() == GcReport(0, 0)
    assert store.verify() == []


def test_a_part_file_in_use_is_not_collected(store: Store, add: Add, folder: Path) -> None:
    add(store, data=b"k" * 100)
    part = folder / ".0123456789abcdef.part"
    with part.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.gc() == GcReport(0, 0)
        assert part.exists()
    assert store.gc().files == 1


def test_collecting_gives_the_space_of_removed_inline_vectors_back(path: Path, add: Add) -> None:
    with Store.open(path, write=True) as store:
        add(store, data=os.urandom(300_000))
        add(store)
        full = path.stat().st_size
        store.remove("helpful", 1)
        report = store.gc()
        assert report.files == 0
        assert report.bytes > 290_000
        assert path.stat().st_size == full - report.bytes
        assert store.verify() == []


def test_collecting_in_a_fresh_registry_finds_nothing(store: Store) -> None:
    assert store.gc() == GcReport(0, 0)


def test_collecting_needs_a_store_open_to_write(path: Path, store: Store) -> None:
    with (
        Store.open(path, write=False) as reader,
        pytest.raises(RegistryError, match="opened for reading only"),
    ):
        reader.gc()
