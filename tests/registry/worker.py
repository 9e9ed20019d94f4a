"""What other processes do to a registry in the tests: `worker.py ROLE REGISTRY …`.

Roles say `ready` once everything is imported, and begin at the next line on stdin.
"""

import os
import sys
import tempfile
from pathlib import Path

from prefreg.config import blobs_setting
from prefreg.errors import PrefregError
from prefreg.registry import BaseIdentity, NewVersion, Store

BASE = BaseIdentity("pocket", None, None, "b" * 64, "t", "c", 870_000, "F32")
INLINE_LIMIT = 64


def new_version(axis: str) -> NewVersion:
    """Describe a version of an axis."""
    return NewVersion(axis, (), "dense", "F32", BASE)


def wait_for_start() -> None:
    """Meet the other processes."""
    print("ready", flush=True)
    sys.stdin.readline()


def add(registry: str, count: str, size: str) -> None:
    """Add versions of one axis, each with bytes of its own; say their numbers."""
    wait_for_start()
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder, "blob")
        for _ in range(int(count)):
            blob.write_bytes(os.urandom(int(size)))
            with Store.open(
                registry, write=True, inline_limit=INLINE_LIMIT, blobs_at=blobs_setting()
            ) as store:
                print(store.add(new_version("helpful"), blob).number, flush=True)


def create(registry: str) -> None:
    """Open a registry that may not exist yet."""
    wait_for_start()
    with Store.open(registry, write=True) as store:
        print(len(store.versions()), flush=True)


def collect(registry: str, count: str) -> None:
    """Collect garbage again and again."""
    wait_for_start()
    with Store.open(registry, write=True) as store:
        for _ in range(int(count)):
            store.gc()
    print("done", flush=True)


def crash_in_commit(registry: str) -> None:
    """Die while changed pages are in the database and the journal is hot."""
    import sqlite3

    connection = sqlite3.connect(registry, isolation_level=None)
    connection.execute("PRAGMA cache_size=1")
    connection.execute("PRAGMA cache_spill=1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE versions SET note = 'half a write'")
    connection.execute("UPDATE blobs SET data = zeroblob(200000)")
    os.kill(os.getpid(), 9)


ROLES = {role.__name__: role for role in (add, create, collect, crash_in_commit)}

if __name__ == "__main__":
    try:
        ROLES[sys.argv[1]](*sys.argv[2:])
    except PrefregError as error:
        print("error:", error, flush=True)
        sys.exit(1)
