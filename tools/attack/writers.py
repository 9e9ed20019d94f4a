"""Writers that are killed, hindered and crowded, and what must be there afterwards."""

import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

from cases import PATIENCE, Found

import prefreg
from prefreg import PrefregError
from prefreg.composition.output import read_composed
from prefreg.config import starter_registry
from prefreg.registry import NewVersion, Store, VersionRecord

ROOT = Path(__file__).parents[2]
WRITERS = 64
_NOBODY = 65_534
_PROCESSES = multiprocessing.get_context("forkserver")


def _add(house: Path) -> None:
    with Store.open(house / "r.db", write=True) as store:
        base = store.resolve("helpful", "1").base
        store.add(NewVersion("helpful", (), "dense", "F32", base), house / "vector")


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "add": _add,
    "rm": lambda house: prefreg.open(house / "r.db").remove("verbosity", 1, force=True),
    "gc": lambda house: prefreg.open(house / "r.db").gc(grace=0),
    "alias": lambda house: prefreg.open(house / "r.db").alias("helpful", 1, "stable"),
    "preset": lambda house: prefreg.open(house / "r.db").save_preset("calm", ["helpful@1:1"]),
    "copy": lambda house: prefreg.open(house / "r.db").copy("helpful", 1, house / "other.db"),
    "backup": lambda house: prefreg.open(house / "r.db").backup(house / "backup.db"),
    "bundle": lambda house: prefreg.open(house / "r.db").bundle(["helpful"], house / "b.zip"),
    "unbundle": lambda house: prefreg.open(house / "r.db").unbundle(house / "strange.zip"),
    "compose": lambda house: prefreg.open(house / "r.db").compose("helpful:1", house / "composed"),
    "export": lambda house: prefreg.open(house / "r.db").export(
        "helpful", form="adapter", output=house / "adapter", max_rank=1
    ),
    "report": lambda house: prefreg.open(house / "r.db").report(house / "site"),
}
_LOADED_LATE = (
    "encodings.cp437",
    "encodings.unicode_escape",
    "alembic.command", "prefreg.composition.adapter", "prefreg.composition.compose",
    "prefreg.composition.export", "prefreg.sharing.bill", "prefreg.sharing.bundles",
    "prefreg.sharing.report",
)  # fmt: skip
_REMOVED = {"rm": {"verbosity@1"}}


def new_house(house: Path) -> None:
    """Fill a folder with a registry, a vector to be added to it, and a bundle of another one."""
    made = house.parent / "made"
    if not made.exists():
        made.mkdir()
        shutil.copyfile(starter_registry(), made / "r.db")
        with Store.open(starter_registry(), write=False) as store:
            source = store.vector_source(store.resolve("honesty", "1"))
        assert isinstance(source, bytes)
        (made / "vector").write_bytes(source)
        prefreg.open(starter_registry()).bundle(["politeness"], made / "strange.zip")
    shutil.copytree(made, house, dirs_exist_ok=True)


def check_house(house: Path, name: str, before: list[VersionRecord]) -> None:
    """Require that nothing was lost, and that what was made is whole or not there."""
    registry = prefreg.open(house / "r.db")
    assert registry.verify() == [], registry.verify()
    lost = {str(each) for each in before} - {str(each) for each in registry.vectors()}
    assert lost <= _REMOVED.get(name, set()), f"lost {lost}"
    registry.gc(grace=0)
    if (house / "composed").exists():
        read_composed(house / "composed")
    for made in (house / "other.db", house / "backup.db"):
        if made.exists() and made.stat().st_size:  # a registry of which nothing was written is none
            assert prefreg.open(made).verify() == [], made
    if (house / "b.zip").exists():
        prefreg.open(house / "taken.db").unbundle(house / "b.zip")
    left = [path.name for path in house.rglob(".*") if not path.name.endswith(".prefreg-lock")]
    assert left == [], f"left {left}"


def hinder_writers(place: Path) -> Iterator[Found]:
    """Try every operation under every hindrance."""
    (place / "canary").write_text("untouched")
    place.chmod(0o755)  # others may look into a folder that they may not write
    for kind, ways in _hindrances(place).items():
        found = Found(kind)
        for number, (name, way) in enumerate(product(OPERATIONS, ways)):
            house = place / f"house-{number}"
            with way(house) as hinder:
                before = prefreg.open(house / "r.db").vectors()
                what = _in_process(partial(_operate, name, house, hinder))
                try:
                    _unhinder(house)
                    check_house(house, name, before)
                    assert (place / "canary").read_text() == "untouched", "changed a file outside"
                except Exception as error:
                    what = f"failed: {error!r} after {what}"
            shutil.rmtree(house, ignore_errors=True)
            found.take(what, f"{name} with {kind}, way {number % len(ways)}")
        yield found


Hinder = Callable[[], object]
Way = Callable[[Path], AbstractContextManager[Hinder]]


def _hindrances(place: Path) -> dict[str, list[Way]]:
    """Return ways to hinder: each fills a house, and yields what the process does to itself."""
    found: dict[str, list[Way]] = {
        "files cut short": [_plainly(_limit_files, size) for size in (0, 600, 20_000, 1_000_000)],
        "no file handles": [_plainly(_limit_handles, more) for more in (0, 2, 4, 8)],
        "links for files": [_linked],
    }
    if os.getuid() == 0:  # else one cannot become another, nor mount
        found["read-only folder"] = [_read_only]
        if _mount(place / "tried"):
            _unmount(place / "tried")
            found["full disk"] = [partial(_full, free=free) for free in (0, 64, 900, 3_000)]
    return found


def _plainly(hinder: Callable[[int], object], value: int) -> Way:
    @contextmanager
    def way(house: Path) -> Iterator[Hinder]:
        new_house(house)
        yield partial(hinder, value)

    return way


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _limit_handles(more: int) -> None:
    most = max(map(int, os.listdir("/dev/fd"))) + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _linked(house: Path) -> Iterator[Hinder]:
    """Put links to a file outside where things are written."""
    new_house(house)
    for name in ("other.db", "backup.db", "b.zip", "composed", "adapter", "site"):
        (house / name).symlink_to(house.parent / "canary")
    yield print


def _become_nobody() -> None:
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


@contextmanager
def _read_only(house: Path) -> Iterator[Hinder]:
    new_house(house)
    for path in (house, *house.iterdir()):
        path.chmod(path.stat().st_mode & 0o555)
    yield _become_nobody


@contextmanager
def _full(house: Path, *, free: int) -> Iterator[Hinder]:
    """Fill a disk of 64 MiB but for some KiB."""
    assert _mount(house)
    try:
        new_house(house)
        with (house / "filling").open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(house).free - (free << 10))))
        yield print
    finally:
        _unmount(house)


def _mount(folder: Path) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def _unhinder(house: Path) -> None:
    house.chmod(0o755)
    (house / "filling").unlink(missing_ok=True)
    for path in house.iterdir():
        if path.is_symlink():
            assert os.readlink(path).endswith("canary"), f"{path} is another link"
            path.unlink()


def crowd_writers(place: Path) -> Found:
    """Let 64 processes add a version to one registry, all at once."""
    found, house = Found(f"{WRITERS} writers at once"), place / "crowded"
    new_house(house)
    before = prefreg.open(house / "r.db").vectors()
    with ThreadPoolExecutor(WRITERS) as pool:
        add = partial(_operate, "add", house, print)
        for number, what in enumerate(pool.map(_in_process, [add] * WRITERS)):
            found.take(what, f"writer {number}")
    check_house(house, "add", before)
    there = len(prefreg.open(house / "r.db").vectors()) - len(before)
    if there != found.outcomes["accepted"]:
        found.take(f"failed: {there} versions are there", "the registry")
    return found


def kill_writers(kills: int, seed: int) -> Iterator[Found]:
    """Kill what changes a registry at random moments, in a file and on PostgreSQL if it is here."""
    sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests")]
    import registry_kills

    import servers

    with ExitStack() as opened:
        places: dict[str, str | None] = {"SQLite": None}
        if servers.find_postgres():
            places["PostgreSQL"] = opened.enter_context(servers.private_postgres())
        for name, url in places.items():
            found = Found(f"kills on {name}")
            with registry_kills.new_house(url) as house:
                usual = registry_kills.usual_times(house)
                for kill in range(kills // len(places)):
                    operation = [*usual][kill % len(usual)]
                    try:
                        done = registry_kills.kill_one(
                            house, operation, seed + kill, usual[operation]
                        )
                        what = "accepted" if done else "refused"
                    except AssertionError as error:
                        what = f"failed: {error}"
                    found.take(what, f"{operation}, kill {kill} of seed {seed}")
            yield found


def _operate(name: str, house: Path, hinder: Hinder, says: Connection) -> None:
    for module in _LOADED_LATE:  # by then the interpreter may have no handle to load it with
        importlib.import_module(module)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        hinder()
        OPERATIONS[name](house)
        what = "accepted"
    except PrefregError as error:
        what = "refused" if "\n" not in str(error).strip() else f"failed: many lines: {error}"
    except BaseException:
        what = f"failed: {traceback.format_exc()}"
    says.send(what)


def _in_process(task: Callable[[Connection], None]) -> str:
    receives, sends = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=task, args=(sends,))
    process.start()
    sends.close()
    try:
        what = receives.recv() if receives.poll(PATIENCE) else f"failed: nothing in {PATIENCE} s"
    except EOFError:
        process.join()
        what = f"failed: the process ended: exit {process.exitcode}"
    process.kill()
    process.join()
    return str(what)
