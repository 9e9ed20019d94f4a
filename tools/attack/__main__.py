"""Attack prefreg: fuzz its readers, kill and hinder its writers, and print what came of it.

    python tools/attack --seed 0 --cases 10000 --kills 1000
    python tools/attack --only templates --cases 600

Every case follows from the seed, the kind and its number. Whatever fails is kept in `out/attack`,
with what was said of it. Of kills, `refused` counts those before the end of what was killed.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cases import Found, run_cases, start
from readers import READERS
from writers import crowd_writers, hinder_writers, kill_writers

KEPT = Path("out", "attack")
KINDS = (*READERS, "writers", "kills")
HEAD = ("input", "cases", "refused", "accepted", "failed", "slowest", "memory of one")


def main() -> int:
    """Attack and tell; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10_000, help="Over all readers.")
    parser.add_argument("--only", metavar="KIND", action="append", choices=KINDS)
    parser.add_argument("--kills", type=int, default=1_000, help="Over all writers.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at a time.")
    options = parser.parse_args()
    began = time.perf_counter()
    start()
    wanted = options.only or KINDS
    kinds = [kind for kind in READERS if kind in wanted]
    shares = sum(READERS[kind].share for kind in kinds)
    with tempfile.TemporaryDirectory(prefix="prefreg-attack-") as folder:

        def run(kind: str) -> Found:
            count = max(1, options.cases * READERS[kind].share // shares)
            return run_cases(kind, options.seed, range(count), Path(folder), KEPT)

        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(run, kinds))
        if "writers" in wanted:
            found += [*hinder_writers(Path(folder)), crowd_writers(Path(folder))]
    if "kills" in wanted:
        found += kill_writers(options.kills, options.seed)
    failures = [failure for each in found for failure in each.failures]
    print_table(HEAD, [each.row() for each in found])
    print(f"\n{sum(each.cases for each in found)} cases in {time.perf_counter() - began:.0f} s.")
    if failures:
        print(f"{len(failures)} failed; their files are in {KEPT}:", *failures, sep="\n- ")
    return 1 if failures else 0


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table that is one in Markdown too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("| " + " | ".join(map(str.ljust, row, widths)) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
