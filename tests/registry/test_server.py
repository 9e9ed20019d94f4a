"""The same store on a database server: give a fresh PostgreSQL database in the environment."""

import os
import subprocess
from collections.abc import Callable

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import GcReport, Store, VersionRecord

Add = Callable[..., VersionRecord]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def url() -> str:
    """The URL of an empty database, which is filled."""
    if not (url := os.environ.get("PREFREG_TEST_SERVER")):
        pytest.skip("PREFREG_TEST_SERVER names no empty database")
    return url


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
