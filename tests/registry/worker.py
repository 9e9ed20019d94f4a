"""What other processes do to a registry in the tests: `worker.py ROLE REGISTRY …`.

Roles say `ready` once everything is imported, and begin at the next line on stdin.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

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
            with Store.open(registry, write=True, inline_limit=INLINE_LIMIT) as store:
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


def change_at_random(registry: str, seed: str) -> None:
    """Add, remove and name versions until killed; say what is about to happen and what did."""
    dice = random.Random(seed)
    present: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(registry, write=True, inline_limit=INLINE_LIMIT) as store,
    ):
        blob = Path(folder, "blob")
        while True:
            if len(present) < 3 or dice.random() < 0.6:
                # Twelve contents, so that versions share bytes and external files come back.
                content = dice.randrange(12)
                blob.write_bytes(bytes([content]) * (40 if content % 2 else 60_000))
                print("add 0", flush=True)
                number = store.add(new_version("helpful"), blob).number
                present.append(number)
                print("added", number, flush=True)
            else:
                number = present.pop(dice.randrange(len(present)))
                print("remove", number, flush=True)
                store.remove("helpful", number, force=True)
                print("removed", number, flush=True)
            if dice.random() < 0.1:
                store.gc()


def breed(registry: str) -> None:
    """For each seed on stdin fork a child that changes the registry, and say its id.

    The forks spare the tests the start of an interpreter per kill.
    """
    print("ready", flush=True)
    for seed in sys.stdin:
        child = os.fork()
        if child == 0:
            change_at_random(registry, seed)
        print("child", child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


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


ROLES = {role.__name__: role for role in (add, create, collect, breed, crash_in_commit)}

if __name__ == "__main__":
    try:
        ROLES[sys.argv[1]](*sys.argv[2:])
    except PrefregError as error:
        print("error:", error, flush=True)
        sys.exit(1)
