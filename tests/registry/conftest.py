"""Registries and versions for the tests; the bytes are arbitrary, the store never reads them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

import prefreg.registry
from prefreg.registry import BaseIdentity, NewVersion, Store, VersionRecord
from servers import new_database

Add = Callable[..., VersionRecord]
Run = Callable[..., "subprocess.Popen[str]"]


def _base(name: str = "pocket", **changes: Any) -> BaseIdentity:
    values: dict[str, Any] = {
        "revision": None,
        "path": None,
        "weights": hashlib.sha256(name.encode()).hexdigest(),
        "tokenizer": "t0",
        "template": "c0",
        "parameters": 870_000,
        "dtype": "F32",
    }
    return BaseIdentity(name=name, **(values | changes))


@pytest.fixture
def base() -> Callable[..., BaseIdentity]:
    """Make the identity of a base; its weights follow from its name."""
    return _base


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the registry lies."""
    return tmp_path / "registry.db"


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry without a version, to be copied: making one takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    Store.open(path, write=True).close()
    return path


@pytest.fixture(scope="session")
def empty_database(server: str) -> Iterator[str]:
    """The name of a registry on the server without a version, to be copied."""
    with new_database(server) as database:
        Store.open(database, write=True).close()
        yield str(make_url(database).database)


HOMES = ["file", *(["server"] if os.environ.get("PREFREG_TEST_ALL_ON_SERVER") else [])]


@pytest.fixture(params=HOMES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty registry, open to write, that keeps at most 64 bytes inline."""
    with ExitStack() as stack:
        if request.param == "file":
            place: str | Path = tmp_path / "registry.db"
            shutil.copy(request.getfixturevalue("empty"), place)
        else:
            of_file = request.node.get_closest_marker("file")
            if of_file or {"path", "folder"} & set(request.fixturenames):
                pytest.skip("it is about a file")
            server, template = map(request.getfixturevalue, ("server", "empty_database"))
            place = stack.enter_context(new_database(server, template))
        yield stack.enter_context(Store.open(place, write=True, inline_limit=64))


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Add a version: `add(store, axis, data, base=…, aliases=…, …)`."""

    def add_version(
        store: Store,
        axis: str = "helpful",
        data: bytes = b"vector",
        *,
        base: BaseIdentity | None = None,
        aliases: tuple[str, ...] = (),
        **others: Any,
    ) -> VersionRecord:
        blob = tmp_path / "input.safetensors"
        blob.write_bytes(data)
        new = NewVersion(axis, aliases, "dense", "F32", base or _base(), **others)
        return store.add(new, blob)

    return add_version


@pytest.fixture
def start() -> Iterator[Run]:
    """Start `worker.py` with arguments, as a process of its own."""
    worker = Path(__file__).with_name("worker.py")
    source = str(Path(prefreg.registry.__file__).parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(worker), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
