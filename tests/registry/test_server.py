"""The same store on a database server: name a PostgreSQL server that may create databases."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from prefreg.errors import RegistryError
from prefreg.registry import GcReport, Store, VersionRecord, transfer
from prefreg.registry.listing import Query, parse_metric

Add = Callable[..., VersionRecord]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a new, empty database on the server that the environment names."""
    if not (server := os.environ.get("PREFREG_TEST_SERVER")):
        pytest.skip("PREFREG_TEST_SERVER names no server")
    name = f"prefreg_{secrets.token_hex(6)}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


def test_a_server_holds_a_registry(url: str, start: Start, add: Add) -> None:
    with pytest.raises(RegistryError, match="is empty"):
        Store.open(url, write=False)
    processes = [start("create", url) for _ in range(4)]
    processes += [start("add", url, 5, size) for size in (40, 5000)]
    outputs = [process.communicate("go\n", timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(int(word) for output in outputs[4:] for word in output[1:]) == [*range(1, 11)]
    with Store.open(url, write=True, inline_limit=4) as store:
        record = add(store, "verbosity", b"everything is inline here", aliases=("verbose",))
        store.set_alias("verbose", 1, "stable")
        assert store.resolve("verbose", "stable").sha256 == record.sha256
        assert store.vector_source(record, rehash=True) == b"everything is inline here"
        store.remove("helpful", 10)
        assert store.verify() == []
        assert store.gc() == GcReport(0, 0)


def test_a_version_goes_to_a_server_and_back(
    url: str, store: Store, add: Add, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    add(store, data=data, aliases=("help",), tags=("a", "b"), note="φ", metadata={"x": 1.0})
    store.measure("helpful", 1, "score", {"m": 0.7}, "p")
    record = store.resolve("helpful", "1")
    with Store.open(url, write=True, inline_limit=64) as server:
        there = server.take(record, store.vector_source(record))
        assert (there.added, there.record.inline) == (True, True)
        assert "postgresql" in there.registry
        assert not server.take(record, store.vector_source(record)).added
        add(store, "verbosity", b"mine")
        taken = add(server, "verbosity", b"theirs")
        mine = store.resolve("verbosity")
        with pytest.raises(RegistryError, match=rf"different version there \({taken.sha256[:12]}"):
            server.take(mine, store.vector_source(mine))
        assert server.verify() == []
        with Store.open(tmp_path / "back.db", write=True, inline_limit=64) as back:
            source = server.vector_source(there.record)
            home = back.take(there.record, source).record
            path = back.vector_source(home, rehash=True)
            assert isinstance(path, Path)
            assert path.read_bytes() == data
            assert replace(home, base=record.base) == record
            assert back.verify() == []


def test_a_server_is_cared_for_as_a_file_is(url: str, add: Add, tmp_path: Path) -> None:
    today = [datetime(2026, 3, 1, tzinfo=UTC)]
    with Store.open(url, write=True, clock=lambda: today[0]) as server:
        for _ in range(3):
            add(server, metadata={"accuracy": 0.9}, aliases=("help",))
        for day, number in ((2, 1), (3, 2)):
            today[0] = datetime(2026, 3, day, tzinfo=UTC)
            server.set_alias("helpful", number, "stable")
        then = datetime(2026, 3, 2, 12, tzinfo=UTC)
        assert server.resolve("helpful", "stable").number == 2
        assert server.resolve("helpful", "stable", at=then).number == 1
        with pytest.raises(RegistryError, match="first set on 2026-03-02"):
            server.resolve("helpful", "stable", at=datetime(2026, 3, 1, 12, tzinfo=UTC))
        server.tag("helpful", 2, ["good"])
        query = Query("stable", tags=("good",), metrics=(parse_metric("accuracy>0.5"),))
        assert [str(found.version) for found in server.search(query)] == ["helpful@2"]
        assert server.rename_axis("help", "useful") == "helpful"
        assert server.axes() == {"useful": ("help", "helpful")}
        assert server.count() == {"useful": 3}
        use = server.disk_use()
        assert use.total == use.database > 10_000
        done = transfer.back_up(server, tmp_path / "copy.db")
        assert (done.versions, done.files) == (3, 0)
        with Store.open(tmp_path / "copy.db", write=True) as copy:
            assert copy.versions() == server.versions()
            assert copy.alias_history("useful") == server.alias_history("useful")
            assert add(copy, "useful").number == 4
            assert copy.verify() == []
