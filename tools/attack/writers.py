"""Writers that are killed, hindered and crowded, and what must be there afterwards.

Each writes in a house: registries with all that is written out of them. Whatever happens to it,
every part of the house must be as it was before or as it is when nothing happens.
"""

import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, product
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from cases import Found
from forks import Fork, be_quiet, in_fork
from readers import CONTENTS, small_base, small_registry
from sqlalchemy import NullPool, create_engine, make_url, text

import prefreg
from older import write_older
from prefreg import PrefregError
from prefreg.checkpoints import resolve_base
from prefreg.errors import RegistryError
from prefreg.files import hash_bytes, remove_abandoned
from prefreg.registry import NewVersion, Store, blobs

WRITERS = 64
_NOBODY = 65_534
_INLINE_LIMIT = 64
"""So low that some vectors lie beside the registry: what the API adds lies within."""
_MEASURED = 3
_MOMENT = re.compile(r'"\d{4}-\d\d-\d\dT[^"]*"')
_IN_USE = "SELECT count(*) FROM pg_stat_activity WHERE datname = :name"

Facts = dict[str, str | None]
"""What each part of a house holds, without moments; None where it is not there."""


@dataclass(frozen=True, slots=True)
class House:
    """A folder with registries, the first of which may lie on a server, and its vectors apart."""

    folder: Path
    server: str | None = None
    blobs: str | None = None
    """A store for the vectors of the first registry."""

    @property
    def main(self) -> str | Path:
        """The registry that is changed, copied from and backed up."""
        return self._place("main")

    @property
    def registries(self) -> dict[str, str | Path]:
        """Every registry that may be there; `old` has the first schema."""
        files = {name: self.folder / f"{name}.db" for name in ("other", "backup", "new")}
        return {"main": self.main, "old": self._place("old"), **files}

    @property
    def registry(self) -> prefreg.Registry:
        """The first registry, as users have it."""
        return prefreg.open(self.main, starter=False)

    @property
    def golden(self) -> Path:
        """Where the files lie that it begins with, and the base beside them."""
        return self.folder.with_name("golden")

    def _place(self, name: str) -> str | Path:
        if self.server is None:
            return self.folder / f"{name}.db"
        url = make_url(self.server).set(database=self._database(name))
        return url.render_as_string(hide_password=False)

    def _database(self, name: str) -> str:
        return f"prefreg_attack_{self.folder.parent.name}_{name}"

    def build(self) -> None:
        """Make what it begins with."""
        (self.folder / "store").mkdir(parents=True)
        self.golden.mkdir()
        for name in ("main", "old"):
            self._on_server(f"CREATE DATABASE {self._database(name)}")
        made = self.golden / "made"
        made.mkdir()
        (self.golden / "temporary").mkdir()
        (self.golden / "temporary").chmod(0o777)
        base = resolve_base(str(small_base(self.golden)))
        small_registry(made / "strange.db", base, made, seed=1)
        strange = prefreg.open(made / "strange.db", starter=False)
        strange.bundle(
            ["harmless", "helpful@1", "verbosity"], self.folder / "strange.zip", with_base=True
        )
        small_registry(
            self.main, base, self.folder, inline_limit=_INLINE_LIMIT, blobs_at=self.blobs
        )
        write_older(self.registries["old"], "0001")
        registry = self.registry
        registry.copy("verbosity", 1, self.folder / "other.db")
        registry.remove("verbosity", 1)
        registry.backup(self.folder / "backup.db")
        registry.compose("harmless:1", self.folder / "composed")
        registry.bundle(["harmless"], self.folder / "bundle.zip")
        shutil.copytree(self.folder, self.golden / "files")
        for name in ("main", "old"):
            of = self._database(name)
            self._on_server(f"CREATE DATABASE {of}_golden TEMPLATE {of}")

    def renew(self) -> None:
        """Bring it to what it begins with."""
        for path in self.folder.iterdir() if self.folder.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.golden / "files", self.folder, dirs_exist_ok=True)
        for name in ("main", "old"):
            of = self._database(name)
            self._on_server(f"DROP DATABASE IF EXISTS {of} WITH (FORCE)")
            self._on_server(f"CREATE DATABASE {of} TEMPLATE {of}_golden")
        if self.blobs and self.blobs.startswith("s3:"):
            with Store.open(self.main, write=True) as store:
                for name in CONTENTS:
                    with blobs.stage(self.folder / name, store.place):
                        pass

    def settle(self) -> None:
        """Wait until the server has seen that whoever was killed is gone."""
        while self.server and self._on_server(_IN_USE, name=self._database("main")):
            time.sleep(0.005)

    def demolish(self) -> None:
        """Take away what it has on the server."""
        for of in (self._database("main"), self._database("old")):
            self._on_server(f"DROP DATABASE IF EXISTS {of} WITH (FORCE)")
            self._on_server(f"DROP DATABASE IF EXISTS {of}_golden WITH (FORCE)")

    def _on_server(self, statement: str, **values: str) -> Any:
        if self.server is not None:
            engine = create_engine(self.server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
            with engine.connect() as connection:
                found = connection.execute(text(statement), values)
                return found.scalar() if found.returns_rows else None


def _add(house: House) -> None:
    with Store.open(house.main, write=True, inline_limit=_INLINE_LIMIT) as store:
        base = store.resolve("helpful", "1").base
        store.add(
            NewVersion("helpful", ("helpful-0",), "dense", "F32", base), house.folder / "dense"
        )


def _pull(house: House) -> None:
    with prefreg.open(house.folder / "other.db", starter=False).access.reading() as other:
        record = other.resolve("verbosity", "1")
    with Store.open(house.main, write=True) as store:
        store.take(record, house.folder / "dense-too", renumber=True)


def _study(house: House) -> None:
    with Store.open(house.main, write=True) as store:
        store.measure("helpful", 1, "study", {"study": "s", "key": "k", "trials": []}, "p")


OPERATIONS: dict[str, Callable[[House], object]] = {
    "add": _add,
    "pull": _pull,
    "study": _study,
    "rm": lambda house: house.registry.remove("harmless", 1),
    "gc": lambda house: house.registry.gc(grace=0),
    "alias": lambda house: house.registry.alias("helpful", 2, "stable"),
    "unalias": lambda house: house.registry.unalias("helpful", "stable"),
    "tag": lambda house: house.registry.tag("helpful", 1, "better"),
    "rename": lambda house: house.registry.rename("honesty", "truth"),
    "preset": lambda house: house.registry.save_preset("calm", ["helpful@2:1"]),
    "unpreset": lambda house: house.registry.remove_preset("calm"),
    "copy": lambda house: house.registry.copy("helpful", 1, house.folder / "new.db"),
    "copy to another": lambda house: house.registry.copy("helpful", 2, house.folder / "other.db"),
    "backup": lambda house: house.registry.backup(house.folder / "backup.db", overwrite=True),
    "upgrade": lambda house: Store.open(house.registries["old"], write=True).close(),
    "bundle": lambda house: house.registry.bundle(
        ["helpful", "honesty"], house.folder / "bundle.zip", with_base=True, overwrite=True
    ),
    "unbundle": lambda house: house.registry.unbundle(
        house.folder / "strange.zip", base_to=house.folder / "model", renumber=True
    ),
    "compose": lambda house: house.registry.compose(
        ["helpful@1:1", "honesty:-0.5"], house.folder / "composed", overwrite=True
    ),
    "adapter": lambda house: house.registry.export(
        "helpful@2", form="adapter", output=house.folder / "adapter"
    ),
    "report": lambda house: house.registry.report(house.folder / "site"),
}
IN_STEPS = ("unbundle",)
"""Writers that store one thing after another, each whole, and go on when called again."""
_OUTPUTS = ("bundle.zip", "model", "composed", "adapter", "site")


def look(house: House, known: Mapping[str, str | None]) -> Facts:
    """Say what every part of a house holds; registries must pass `verify`.

    What files hold whose bytes were looked at before is `known`, by their hash.
    """
    house.settle()
    found: Facts = {}
    for name, place in house.registries.items():
        if isinstance(place, Path) and (of := _bytes_of(house, name)) in known:
            found[name] = known[of]
            continue
        found[name] = None
        if isinstance(place, str) or place.exists():
            try:
                found[name] = _hold(place)
            except RegistryError as error:
                if "is empty" not in str(error):  # which is as if it were not there
                    raise
    for name in _OUTPUTS:
        found[name] = "\n".join(_hashes(house.folder / name)) or None
    return found


def _bytes_of(house: House, name: str) -> str:
    parts = (house.folder / f"{name}{ending}" for ending in (".db", ".db-journal", ".vectors"))
    if name == "main" and house.blobs:
        parts = chain(parts, [house.folder / "store"])
    return hash_bytes("\n".join([name, *chain.from_iterable(map(_hashes, parts))]).encode())


def _hashes(path: Path) -> list[str]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        f"{each.relative_to(path)} {hash_bytes(each.read_bytes())}"
        for each in files
        if each.is_file()
    ]


def _hold(place: str | Path) -> str | None:
    with Store.open(place, write=False) as store:
        assert store.verify() == [], (store.location, store.verify())
        held = [
            sorted(store.database.lacks),
            [each.to_json() for each in store.versions()],
            [each.to_json() for each in store.presets()],
            [each.to_json() for axis in store.axes() for each in store.alias_history(axis)],
        ]
        # One that was made, and nothing more, is as if it were not there.
        return _MOMENT.sub('"then"', json.dumps(held)) if any(held) else None


@dataclass(frozen=True, slots=True)
class Known:
    """What an operation does to a house when nothing happens to it."""

    before: Facts
    after: Facts
    seconds: float
    by_bytes: Mapping[str, str | None]
    """What the registries hold before, by the hash of their files."""


Beginning = tuple[Facts, dict[str, str | None]]


def begin(house: House) -> Beginning:
    """Build a house, in which this process keeps what it keeps anywhere, and look at it."""
    in_fork(house.build)
    tempfile.tempdir = str(house.golden / "temporary")
    for name in ("PREFREG_CACHE", "PREFREG_CONFIG"):
        os.environ[name] = str(house.golden / "cache")

    def first() -> Beginning:
        house.renew()
        found = look(house, {})
        files = (name for name, place in house.registries.items() if isinstance(place, Path))
        return found, {_bytes_of(house, name): found[name] for name in files}

    beginning: Beginning = in_fork(first)
    return beginning


def learn(house: House, name: str, beginning: Beginning) -> Known:
    """Do an operation some times, and see that it does the same each time."""
    before, by_bytes = beginning

    def once() -> tuple[Facts, float]:
        house.renew()
        began = time.perf_counter()
        OPERATIONS[name](house)
        taken = time.perf_counter() - began
        return look(house, by_bytes), taken

    tries = [in_fork(once) for _ in range(_MEASURED)]
    after = tries[0][0]
    assert all(each == after for each, _ in tries), f"{name} does not do the same"
    return Known(before, after, statistics.median(taken for _, taken in tries), by_bytes)


def check(house: House, name: str, known: Known, finished: bool, *, again: bool) -> None:
    """Require that each part is as before or as it shall be, and that nothing else is left.

    What was not done can then be done, which is tried where it is to be tried `again`, and always
    where a kill may leave some of the steps.
    """
    found = look(house, known.by_bytes)
    for part, held in found.items():
        wanted = [known.after[part]] + ([] if finished else [known.before[part]])
        between = name in IN_STEPS and not finished
        assert held in wanted or between, f"{name}: {part} holds {held}, not one of {wanted}"
    _tidy(house, known)
    if not finished and (name in IN_STEPS or (again and found == known.before)):
        OPERATIONS[name](house)
        found = look(house, known.by_bytes)
        assert found == known.after, f"{name}, done again: {found}, not {known.after}"


def _tidy(house: House, known: Known | None = None) -> None:
    """Collect, and see that nothing is left that no version needs."""
    for name, place in house.registries.items():
        if isinstance(place, Path):
            untouched = known is not None and _bytes_of(house, name) in known.by_bytes
            if not place.exists() or place.stat().st_size == 0 or (untouched and name != "main"):
                continue
        elif name == "old":  # collecting would upgrade it
            continue
        prefreg.open(place, starter=False).gc(grace=0)
        with Store.open(place, write=True) as store:
            needed = {f"{v.sha256}.safetensors" for v in store.summaries() if not v.inline}
            held = set(store.place.held(0))
        assert held == needed, (store.location, held ^ needed)
    if house.server:  # whose registry has no folder: the next output beside it does this
        remove_abandoned(house.folder)
    left = [path.name for path in house.folder.rglob(".*") if not path.name.endswith("-lock")]
    left += os.listdir(house.golden / "temporary")
    assert left == [], f"left {left}"


def kill_writers(title: str, house: House, kills: int, seed: int) -> Found:
    """Kill every operation at moments drawn evenly from the time that it takes."""
    found, dice = Found(title), Random(f"{seed} {title}")
    beginning = begin(house)
    try:
        for number, name in enumerate(dice.sample(list(OPERATIONS), len(OPERATIONS))):
            hits, share = 0, len(range(number, kills, len(OPERATIONS)))
            if not share:
                continue
            try:
                known = learn(house, name, beginning)
            except AssertionError as error:
                found.take(f"failed: {error}", f"{title}: {name}")
                found.kills[name] = "failed"
                continue
            for kill in range(share):
                where = f"{title}: {name}, kill {kill} of seed {seed}"
                try:
                    finished = _kill(house, name, after=dice.uniform(0, known.seconds))
                    hits += not finished
                    in_fork(partial(check, house, name, known, finished, again=kill % 4 == 0))
                    found.take("accepted" if finished else "refused", where)
                except AssertionError as error:
                    found.take(f"failed: {error}", where)
            found.kills[name] = f"{1000 * known.seconds:.0f} ms, {hits} of {share}"
    finally:
        in_fork(house.demolish)
    return found


def _kill(house: House, name: str, *, after: float) -> bool:
    """Kill an operation so many seconds after it began; return whether it had ended."""

    def work(says: Connection) -> None:
        be_quiet()
        try:
            house.renew()
            says.send("ready")
            OPERATIONS[name](house)
            says.send("done")
        except BaseException:
            says.send(traceback.format_exc())

    fork = Fork(work)
    try:
        assert (ready := fork.hear()) == "ready", ready
        time.sleep(after)
    finally:
        said = fork.kill()
    assert said in (None, "done"), said
    return said is not None


def hinder_writers(place: Path) -> Iterator[Found]:
    """Try every operation under every hindrance."""
    house = House(place / "hindered" / "house")
    beginning = begin(house)
    canary = house.golden / "canary"
    canary.write_text("untouched")
    known = {name: learn(house, name, beginning) for name in OPERATIONS}
    for kind, ways in _hindrances(house).items():
        found = Found(kind)
        for (name, way), number in zip(product(OPERATIONS, ways), count()):
            with way() as hinder:
                try:
                    what = in_fork(partial(_operate, house, name, hinder))
                    in_fork(partial(_unhindered, house, name, known[name], what))
                except AssertionError as error:
                    what = f"failed: {error}"
            if canary.read_text() != "untouched":
                what = "failed: changed a file outside"
            found.take(what, f"{name} with {kind}, way {number % len(ways)}")
        yield found


def _operate(house: House, name: str, hinder: "Hinder") -> str:
    try:
        hinder()
        OPERATIONS[name](house)
        return "accepted"
    except PrefregError as error:
        return "refused" if "\n" not in str(error).strip() else f"failed: many lines: {error}"


def _unhindered(house: House, name: str, known: Known, what: str) -> None:
    house.folder.chmod(0o755)
    (house.folder / "filling").unlink(missing_ok=True)
    before, after = dict(known.before), dict(known.after)
    for path in house.folder.iterdir():
        if path.is_symlink():
            assert os.readlink(path).endswith("canary"), f"{path} is another link"
            path.unlink()
            part = path.stem if path.suffix == ".db" else path.name
            if after[part] == before[part]:
                after[part] = None
            before[part] = None
        elif path.suffix == ".db":
            path.chmod(0o644)
    expected = replace(known, before=before, after=after)
    check(house, name, expected, what == "accepted", again=True)


Hinder = Callable[[], object]
Way = Callable[[], AbstractContextManager[Hinder]]


def _hindrances(house: House) -> dict[str, list[Way]]:
    """Return ways to hinder: each renews the house, and yields what the process does to itself."""

    def plainly(hinder: Callable[[int], object], value: int) -> Way:
        @contextmanager
        def way() -> Iterator[Hinder]:
            in_fork(house.renew)
            yield partial(hinder, value)

        return way

    found: dict[str, list[Way]] = {
        "files cut short": [plainly(_limit_files, size) for size in (0, 600, 20_000, 100_000)],
        "no file handles": [plainly(_limit_handles, more) for more in (0, 2, 4, 8)],
        "links for files": [partial(_linked, house)],
    }
    if os.getuid() == 0:  # else one cannot become another, nor mount
        found["read-only folder"] = [partial(_read_only, house)]
        tried = house.golden / "tried"
        tried.mkdir()
        if _mount(tried):
            _unmount(tried)
            found["full disk"] = [partial(_full, house, free=free) for free in (0, 16, 64, 400)]
    return found


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _limit_handles(more: int) -> None:
    last, most = os.open(os.devnull, os.O_RDONLY), max(map(int, os.listdir("/dev/fd")))
    while last < most:  # in the gaps, too, handles would be free
        last = os.dup(last)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + more, last + 1 + more))


@contextmanager
def _linked(house: House) -> Iterator[Hinder]:
    """Put links to a file outside where things are written."""
    in_fork(house.renew)
    for name in ("new.db", "backup.db", *_OUTPUTS):
        path = house.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(house.golden / "canary")
    yield lambda: None


def _become_nobody() -> None:
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


@contextmanager
def _read_only(house: House) -> Iterator[Hinder]:
    in_fork(house.renew)
    for path in (house.folder, *house.folder.iterdir()):
        path.chmod(path.stat().st_mode & 0o555)
    yield _become_nobody


@contextmanager
def _full(house: House, *, free: int) -> Iterator[Hinder]:
    """Fill a disk of 16 MiB but for some KiB."""
    assert _mount(house.folder)
    try:
        in_fork(house.renew)
        with (house.folder / "filling").open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(house.folder).free - (free << 10))))
        yield lambda: None
    finally:
        _unmount(house.folder)


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "none", folder]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def crowd_writers(place: Path) -> Found:
    """Let 64 processes add a version to one registry, all at once."""
    found, house = Found(f"{WRITERS} writers at once"), House(place / "crowded" / "house")
    begin(house)
    before = in_fork(partial(_count, house))
    gate, opens = os.pipe()

    def add(says: Connection) -> None:
        be_quiet()
        os.close(opens)
        os.read(gate, 1)  # until it is opened for all
        try:
            says.send(_operate(house, "add", lambda: None))
        except BaseException:
            says.send(f"failed: {traceback.format_exc()}")

    crowd = [Fork(add) for _ in range(WRITERS)]
    os.close(opens)
    for number, fork in enumerate(crowd):
        try:
            what = str(fork.hear())
        except (EOFError, TimeoutError) as error:
            what = f"failed: {error!r}"
        fork.kill()
        found.take(what, f"writer {number}")
    os.close(gate)
    there = in_fork(partial(_count, house)) - before
    if there != found.outcomes["accepted"]:
        found.take(f"failed: {there} versions are there", "the registry")
    return found


def _count(house: House) -> int:
    assert house.registry.verify() == []
    _tidy(house)
    return len(house.registry.vectors())
