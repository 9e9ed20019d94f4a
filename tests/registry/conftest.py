"""Registries and versions for the tests; the bytes are arbitrary, the store never reads them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import prefreg.registry
from prefreg.registry import BaseIdentity, NewVersion, Store, VersionRecord

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


@pytest.fixture
def store(path: Path, empty: Path) -> Iterator[Store]:
    """An empty registry, open to write, that keeps at most 64 bytes inline."""
    shutil.copy(empty, path)
    with Store.open(path, write=True, inline_limit=64) as opened:
        yield opened


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
