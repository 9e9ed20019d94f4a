"""Attack prefreg: fuzz its readers, kill and hinder its writers, and print what came of it.

    python tools/attack --seed 0 --cases 10000 --kills 1000
    python tools/attack --only templates --cases 600

Every case follows from the seed, the kind and its number; so does the moment of a kill, as a share
of the time that is measured first. Whatever fails is kept in `out/attack`, with what was said of
it. Of kills, `refused` counts those before the end of what was killed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # for its servers, and registries of older schemas

from cases import Found, run_cases  # noqa: E402
from forks import FORK, load, processor_seconds  # noqa: E402
from readers import READERS  # noqa: E402
from writers import OPERATIONS, House, crowd_writers, hinder_writers, kill_writers  # noqa: E402

import servers  # noqa: E402

KEPT = Path("out", "attack")
KINDS = (*READERS, "writers", "kills")
HEAD = ("input", "cases", "refused", "accepted", "failed", "slowest", "memory of one")
Job = Callable[[], list[Found]]


def main() -> int:
    """Attack and tell; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10_000, help="Over all readers.")
    parser.add_argument("--only", metavar="KIND", action="append", choices=KINDS)
    parser.add_argument("--kills", type=int, default=1_000, help="Over all writers.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at a time.")
    parser.add_argument("--server", metavar="URL", help="Kill there alone, not on one of its own.")
    parser.add_argument("--blobs", metavar="URL", help="A store for the vectors of who is killed.")
    options = parser.parse_args()
    began = time.perf_counter()
    load()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefreg-attack-")))
        folder.chmod(0o755)  # others may look into a folder that they may not write
        jobs = plan(options, folder, stack)
        with ProcessPoolExecutor(options.jobs, mp_context=FORK) as pool:
            found = [each for batch in pool.map(_run, jobs) for each in batch]
    failures = [failure for each in found for failure in each.failures]
    print_table(HEAD, [each.row() for each in found])
    killed = [each for each in found if each.kills]
    if killed:
        print("\nHow long each writer takes, and how many kills came before its end:\n")
        names = [each.name.removeprefix("kills on ") for each in killed]
        rows = [(name, *(each.kills.get(name, "") for each in killed)) for name in OPERATIONS]
        print_table(("writer", *names), rows)
    total = sum(each.outcomes.total() for each in found)
    print(
        f"\n{total} cases of seed {options.seed} in {time.perf_counter() - began:.0f} s, "
        f"{processor_seconds():.0f} s of the processor."
    )
    if failures:
        print(f"{len(failures)} failed; their files are in {KEPT}:", *failures, sep="\n- ")
    return 1 if failures else 0


def plan(options: argparse.Namespace, folder: Path, stack: ExitStack) -> list[Job]:
    """Return what is to be done, the longest first; a server runs until the stack is left."""
    wanted = options.only or KINDS
    jobs: list[Job] = []
    if "kills" in wanted:
        places = _places(options, folder, stack)
        for number, (title, house) in enumerate(places.items()):
            kills = len(range(number, options.kills, len(places)))
            jobs.append(partial(_list, kill_writers, title, house, kills, options.seed))
    if "writers" in wanted:
        jobs += [partial(_list, hinder_writers, folder), partial(_list, crowd_writers, folder)]
    kinds = [kind for kind in READERS if kind in wanted]
    shares = sum(READERS[kind].share for kind in kinds)
    for kind in sorted(kinds, key=lambda kind: READERS[kind].share):  # few cases are long ones
        cases = range(max(1, options.cases * READERS[kind].share // shares))
        jobs.append(partial(_list, run_cases, kind, options.seed, cases, folder, KEPT))
    return jobs


def _places(options: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, House]:
    """Return where writers are killed: files and a server, each with and without a store."""
    if options.server or options.blobs:
        return {"kills there": House(folder / "named" / "house", options.server, options.blobs)}
    found: dict[str, str | None] = {"SQLite": None}
    if servers.find_postgres():
        found["PostgreSQL"] = stack.enter_context(servers.private_postgres())
    else:
        print(servers.NOT_TESTED, file=sys.stderr)
    places = {}
    for name, server in found.items():
        plain, apart = (folder / f"{name}{each}".lower() / "house" for each in ("", "_store"))
        places[f"kills on {name}"] = House(plain, server)
        places[f"kills on {name}, store"] = House(apart, server, f"file://{apart}/store")
    return places


def _run(job: Job) -> list[Found]:
    found = job()
    for each in found:
        print(f"{each.name}: {each.outcomes.total()}", file=sys.stderr, flush=True)
    return found


def _list(work: Callable[..., Found | Iterable[Found]], *arguments: object) -> list[Found]:
    found = work(*arguments)
    return [found] if isinstance(found, Found) else list(found)


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table that is one in Markdown too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("| " + " | ".join(map(str.ljust, row, widths)) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
