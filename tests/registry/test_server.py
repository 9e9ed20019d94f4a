"""The same store on a PostgreSQL server."""

import os
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy import create_engine, make_url, text

from prefreg.errors import NotStoredError, RegistryError
from prefreg.registry import Access, GcReport, Store, VersionRecord, blobs, transfer
from prefreg.registry.listing import Query, parse_metric
from servers import free_port

pytestmark = pytest.mark.slow

Add = Callable[..., VersionRecord]
Start = Callable[..., "subprocess.Popen[str]"]


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


@pytest.mark.file
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


def _refused(url: str, *, write: bool = False) -> str:
    with pytest.raises(RegistryError) as caught, Store.open(url, write=write) as store:
        store.versions()
    said = str(caught.value)
    assert "\n" not in said
    assert unquote(str(make_url(url).password)) not in said
    assert str(make_url(url).password) not in said
    return said


@pytest.mark.parametrize("write", [True, False])
def test_a_server_that_cannot_be_reached_is_told_in_one_line(url: str, write: bool) -> None:
    good = make_url(url)
    changed = {
        'password authentication failed for user "prefreg"': good.set(password="wrong-word"),
        'password authentication failed for user "who"': good.set(username="who"),
        'database "absent" does not exist': good.set(database="absent"),
        "Connection refused": good.set(port=free_port()),
        "failed to resolve host": good.set(host="no.such.host.invalid"),
    }
    for told, bad in changed.items():
        said = _refused(bad.render_as_string(hide_password=False), write=write)
        assert f"cannot be reached: {told}" in said
        assert said.endswith("Check host, port, database, user and password.")


def test_a_url_without_a_driver_means_the_one_that_is_an_extra(url: str, add: Add) -> None:
    with Store.open(url.replace("postgresql+psycopg", "postgresql"), write=True) as store:
        assert add(store).number == 1
        assert "***" in store.location


def test_a_server_is_present_once_it_has_tables(url: str) -> None:
    access = Access(url)
    assert not access.is_present()
    access.check()  # before hours of training
    assert access.is_present()
    with access.reading() as store:
        assert store.versions() == []


def test_the_database_of_something_else_is_not_a_registry(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE versions (id integer)"))
    engine.dispose()
    assert "is a database, but not a prefreg registry" in _refused(url, write=True)


def test_a_writer_that_does_not_finish_is_told_after_the_timeout(url: str, add: Add) -> None:
    with Store.open(url, write=True) as first, Store.open(url, write=True, busy_timeout=0.2) as two:
        with first.database.writing():
            assert two.versions() == []  # readers do not wait
            with pytest.raises(RegistryError, match="is in use by another process that does not"):
                add(two)
        assert add(two).number == 1


def test_a_server_that_goes_away_in_the_middle_leaves_nothing_half(url: str, add: Add) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    away = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'prefreg' AND pid <> pg_backend_pid()"
    )
    with Store.open(url, write=True) as store, engine.connect() as admin:
        add(store)

        def change() -> None:
            with store.database.writing() as session:
                session.execute(text("UPDATE versions SET note = 'half'"))
                admin.execute(away)
                session.execute(text("UPDATE versions SET note = 'half a change'"))

        with pytest.raises(RegistryError, match=r"went away .* wholly or not at all: look before"):
            change()
        assert [record.note for record in store.versions()] == [None]
        admin.execute(away)  # a connection that was lost while nobody used it is made anew
        assert add(store).number == 2
    engine.dispose()


def test_what_a_user_may_not_is_told(url: str, add: Add) -> None:
    with Store.open(url, write=True) as store:
        add(store)
    engine = create_engine(url)
    user = f"reader_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {user} LOGIN PASSWORD 'r'"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"))
    reader = make_url(url).set(username=user, password="r").render_as_string(hide_password=False)
    with Store.open(reader, write=True) as store:
        assert [str(version) for version in store.versions()] == ["helpful@1"]
        with pytest.raises(RegistryError, match=r"refuses that: permission denied for table"):
            add(store)
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {user}"))
        connection.execute(text(f"DROP ROLE {user}"))
    engine.dispose()


def test_a_statement_that_takes_longer_than_the_server_allows_is_told(url: str) -> None:
    short = f"{url}?options=-c%20statement_timeout%3D50"
    with (
        Store.open(url, write=True) as _,
        Store.open(short, write=False) as store,
        pytest.raises(RegistryError, match=r"allows no more time .*statement timeout.*; nothing"),
        store.database.reading() as session,
    ):
        session.execute(text("SELECT pg_sleep(2)"))


@pytest.mark.parametrize("number", ["2147483648", "99999999999", "9" * 18])
def test_a_number_beyond_all_numbers_is_no_version(url: str, add: Add, number: str) -> None:
    with Store.open(url, write=True) as store:
        add(store)
        with pytest.raises(NotStoredError, match=rf"Version {number} of axis 'helpful' does not"):
            store.resolve("helpful", number)


def test_rows_on_a_server_and_vectors_in_a_bucket(
    url: str, bucket: str, start: Start, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_BLOBS", bucket)
    processes = [start("add", url, 5, size) for size in (40, 5000, 300_000)]
    processes.append(start("collect", url, 10))
    outputs = [process.communicate("go\n", timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    with Store.open(url, write=True) as store:
        assert [record.number for record in store.versions()] == list(range(1, 16))
        assert store.verify() == []
        store.remove("helpful", 1)
        assert store.gc(grace=0).files == 1
        done = transfer.back_up(store, tmp_path / "copy.db")
        assert (done.versions, done.files) == (14, 14)
        assert store.disk_use().files == 14
    with Store.open(tmp_path / "copy.db", write=False) as copy:
        assert copy.verify() == []
        assert copy.database.path == tmp_path / "copy.db"


def test_a_vector_that_is_too_large_for_a_row_needs_a_store(
    url: str, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_LARGEST_ROW", 1000)
    with (
        Store.open(url, write=True) as store,
        pytest.raises(RegistryError, match=r"1001 B is too large for a row .* `blobs=`"),
    ):
        add(store, data=b"x" * 1001)
