"""Kill processes at random moments while they change a registry, and see what is left.

    python benchmarks/registry_kills.py --kills 500
    python benchmarks/registry_kills.py --kills 500 --registry postgresql+psycopg://… --blobs s3://…

The registry that is changed is a file, or the empty one that is named. Each kill is a SIGKILL to a
process that adds, removes, collects, copies, backs up or migrates, at a moment drawn evenly from
the time that it takes. Afterwards every registry must pass `verify`, what was reported as done
must be done, what was not begun must not be there, and no half of anything may remain once the
registry was collected.
"""

import argparse
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from prefreg.registry import BaseIdentity, NewVersion, Store, VersionRecord, transfer
from prefreg.registry.database import REVISIONS

INLINE_LIMIT = 64
BASE = BaseIdentity("pocket", None, None, "b" * 64, "t", "c", 870_000, "F32")
CONTENTS = 12


@dataclass(frozen=True, slots=True)
class House:
    """The registries of the benchmark, in a folder of their own."""

    folder: Path
    named: str | None = None

    @property
    def main(self) -> str | Path:
        """The registry that is changed, copied from and backed up."""
        return self.named or self.folder / "main.db"

    @property
    def other(self) -> Path:
        """The registry that is copied to."""
        return self.folder / "other.db"

    @property
    def backup(self) -> Path:
        """The backup."""
        return self.folder / "safe" / "backup.db"

    @property
    def old(self) -> Path:
        """The registry of the first schema that is migrated."""
        return self.folder / "old.db"

    def bytes_of(self, content: int) -> bytes:
        """Return one of twelve contents: versions share bytes, and files come back."""
        return bytes([content]) * (40 if content % 2 else 200_000)


# Started from a process that has used neither database nor store: their threads are not forked.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["prefreg.registry.transfer", "alembic.command", "sqlite3"])

Operation = Callable[[House, random.Random], None]


def add(house: House, dice: random.Random) -> None:
    """Add a version."""
    blob = house.folder / "blob"
    blob.write_bytes(house.bytes_of(dice.randrange(CONTENTS)))
    with open_store(house.main) as store:
        store.add(NewVersion("helpful", ("help",), "dense", "F32", BASE, tags=("t",)), blob)


def rm(house: House, dice: random.Random) -> None:
    """Remove a version."""
    with open_store(house.main) as store:
        store.remove("helpful", dice.choice(store.summaries()).number, force=True)


def gc(house: House, dice: random.Random) -> None:
    """Collect what was removed before."""
    with open_store(house.main) as store:
        store.gc()


def copy(house: House, dice: random.Random) -> None:
    """Copy a version to another registry."""
    with open_store(house.main) as store, open_store(house.other) as other:
        record = dice.choice(store.versions())
        other.take(record, store.vector_source(record), renumber=True)


def backup(house: House, dice: random.Random) -> None:
    """Replace the backup."""
    with Store.open(house.main, write=False) as store:
        transfer.back_up(store, house.backup, overwrite=True)


def migrate(house: House, dice: random.Random) -> None:
    """Bring a registry of the first schema to the newest."""
    Store.open(house.old, write=True).close()


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation for operation in (add, rm, gc, copy, backup, migrate)
}


def open_store(place: str | Path) -> Store:
    """Open a registry to write, with a low limit, so that vectors lie beside it too."""
    return Store.open(place, write=True, inline_limit=INLINE_LIMIT)


def prepare(house: House, name: str, dice: random.Random) -> None:
    """Make sure that there is something to do."""
    with open_store(house.main) as store:
        while len(store.summaries()) < 6:
            add(house, dice)
        if name == "gc":
            store.remove("helpful", store.summaries()[0].number, force=True)
        elif name == "backup" and not house.backup.exists():
            house.backup.parent.mkdir(exist_ok=True)
            transfer.back_up(store, house.backup)
    if name == "migrate":
        write_old(house)
    elif name == "copy":
        with open_store(house.other) as other:
            for version in other.summaries()[2:]:  # else all would be copied before long
                other.remove("helpful", version.number)


def write_old(house: House) -> None:
    """Write a registry of the first schema: the newest one without what came later."""
    with Store.open(house.main, write=False) as store:
        transfer.back_up(store, house.old, overwrite=house.old.exists())
    with closing(sqlite3.connect(house.old)) as connection:
        connection.executescript(
            "DROP INDEX ix_versions_created; DROP INDEX ix_blobs_size; DROP TABLE tags; "
            "DROP TABLE presets; DROP TABLE settings; "
            f"UPDATE alembic_version SET version_num = '{REVISIONS[0]}'"
        )


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the registries of the house hold."""

    main: tuple[VersionRecord, ...]
    other: tuple[VersionRecord, ...]
    backup: tuple[VersionRecord, ...]
    old: tuple[VersionRecord, ...]


def look(house: House) -> State:
    """Read every registry that is there.

    Raises:
        AssertionError: One does not pass `verify`.
    """
    found = {}
    for name in ("main", "other", "backup", "old"):
        place = getattr(house, name)
        found[name] = _read(place) if isinstance(place, str) or place.exists() else ()
    return State(**found)


def _read(place: str | Path) -> tuple[VersionRecord, ...]:
    with Store.open(place, write=False) as store:
        assert store.verify() == [], (store.location, store.verify())
        return tuple(store.versions())


def kill_one(house: House, name: str, seed: int, usual: float) -> bool:
    """Do one operation in a process, kill it at a moment; return whether it came to its end."""
    dice = random.Random(seed)
    prepare(house, name, dice)
    before = look(house)
    finished = _run(house, name, dice, after=dice.uniform(0, usual))
    _check(house, name, before, finished)
    return finished


def _run(house: House, name: str, dice: random.Random, after: float | None = None) -> bool:
    said, says = _PROCESSES.Pipe(duplex=False)
    child = _PROCESSES.Process(target=_work, args=(house, name, dice, says))
    child.start()
    says.close()
    with said:
        assert said.recv() == "ready"
        if after is not None:
            time.sleep(after)
            child.kill()
        child.join()
        try:
            outcome = said.recv() if said.poll() else ""
        except EOFError:  # killed before it said anything, or in the middle of it
            outcome = ""
    assert outcome in ("", "done"), outcome
    return bool(outcome)


def _work(house: House, name: str, dice: random.Random, says: Connection) -> None:
    says.send("ready")
    try:
        OPERATIONS[name](house, dice)
        says.send("done")
    except BaseException as error:
        says.send(f"{name}: {error!r}")


def _check(house: House, name: str, before: State, finished: bool) -> None:
    after = look(house)
    changed = {
        part
        for part in ("main", "other", "backup", "old")
        if _keys(getattr(before, part)) != _keys(getattr(after, part))
    }
    allowed = {"add": "main", "rm": "main", "copy": "other", "backup": "backup"}.get(name)
    assert changed <= {allowed}, (name, changed)
    if name == "add":
        assert _is_one_more(before.main, after.main, finished)
    elif name == "rm":
        assert _is_one_more(after.main, before.main, finished)
    elif name == "copy":
        assert _is_one_more(before.other, after.other, finished=False)
        assert not finished or {r.sha256 for r in after.other} & {r.sha256 for r in after.main}
    elif name == "backup":
        complete = _keys(after.backup) == _keys(before.main)
        assert complete or (not finished and _keys(after.backup) == _keys(before.backup))
    elif name == "migrate":
        _check_migration(house, before, finished)
    _check_tidiness(house)


def _keys(records: Sequence[VersionRecord]) -> list[tuple[str, str, object]]:
    return [(str(record), record.sha256, record.created) for record in records]


def _is_one_more(
    fewer: Sequence[VersionRecord], more: Sequence[VersionRecord], finished: bool
) -> bool:
    left, right = set(_keys(fewer)), set(_keys(more))
    return left <= right and len(right - left) in ({1} if finished else {0, 1})


def _check_migration(house: House, before: State, finished: bool) -> None:
    with closing(sqlite3.connect(house.old)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    newest = revision == REVISIONS[-1]
    assert newest or (revision == REVISIONS[0] and not finished), revision
    assert ("tags" in tables) == ("ix_blobs_size" in tables) == newest
    migrate(house, random.Random())
    assert _keys(_read(house.old)) == _keys(before.old)


def _check_tidiness(house: House) -> None:
    """Collect, and see that nothing is left that no version needs."""
    for place in (house.main, house.other, house.backup):
        if isinstance(place, Path) and not place.exists():
            continue
        with open_store(place) as store:
            for _ in range(3):  # what a process sent before it died may arrive after
                store.gc(grace=0)
                needed = {f"{v.sha256}.safetensors" for v in store.summaries() if not v.inline}
                present = set(store.place.held(0))
                if present == needed:
                    break
            assert present == needed, (store.location, present ^ needed)


def usual_times(house: House, repeats: int = 3) -> dict[str, float]:
    """Measure how long each operation takes at least when nobody kills it."""
    times: dict[str, float] = {}
    for name in OPERATIONS:
        taken = []
        for seed in range(repeats):
            dice = random.Random(seed)
            prepare(house, name, dice)
            started = time.perf_counter()
            assert _run(house, name, dice)
            taken.append(time.perf_counter() - started)
        times[name] = min(taken)
    return times


@contextmanager
def new_house(named: str | None = None, blobs: str | None = None) -> Iterator[House]:
    """Make the registries in a temporary folder, but for one that is named."""
    with tempfile.TemporaryDirectory(prefix="prefreg-kills-") as folder:
        house = House(Path(folder), named)
        with Store.open(house.main, write=True, blobs_at=blobs) as store:
            assert not store.summaries(), "Name an empty registry."
            assert store.verify() == []  # remembers its store
        Store.open(house.other, write=True).close()
        yield house


def main() -> None:
    """Kill and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--registry", metavar="URL")
    parser.add_argument("--blobs", metavar="URL")
    arguments = parser.parse_args()
    started = time.perf_counter()
    kills, late = Counter[str](), Counter[str]()
    with new_house(arguments.registry, arguments.blobs) as house:
        usual = usual_times(house)
        names = list(OPERATIONS)
        for kill in range(arguments.kills):
            name = names[kill % len(names)]
            kills[name] += 1
            late[name] += kill_one(house, name, arguments.seed + kill, usual[name])
    print("| operation | usual time | kills | of these after its end |\n|---|---|---|---|")
    for name, count in kills.items():
        print(f"| {name} | {1000 * usual[name]:.0f} ms | {count} | {late[name]} |")
    seconds = time.perf_counter() - started
    print(f"\n{sum(kills.values())} kills in {seconds:.0f} s: verify passed each time.")


if __name__ == "__main__":
    sys.exit(main())
