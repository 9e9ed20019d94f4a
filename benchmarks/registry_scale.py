"""How long a registry of ten thousand versions takes to answer.

    python benchmarks/registry_scale.py --versions 10000

Two registries are built: one with twenty axes on three bases, one with a single axis. Every version
has metadata as long as that of a shipped one, an alias of its axis, two tags and two measurements,
and every second one an alias event. Told for each question is what it takes in the database alone
(its statements are run again by the driver, and every row fetched) and in the whole call with the
records that it returns. Processor time counts, the least of seven: SQLite works in this process, on
cached pages, and what other work does to the clock is no property of a registry.
"""

import argparse
import hashlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert

from prefreg.config import starter_registry
from prefreg.registry import Store
from prefreg.registry.listing import Query, parse_metric
from prefreg.registry.schema import (
    AliasEventRow,
    AxisAliasRow,
    AxisRow,
    BaseRow,
    BlobRow,
    MeasurementRow,
    TagRow,
    VersionRow,
)

REPEATS = 7
BAR = 0.1
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that an answer took."""

    processor: float
    clock: float


def shipped_metadata() -> Any:
    """Return the metadata of a shipped version, of which nearly all of a registry is."""
    starter = starter_registry()
    assert starter is not None
    with Store.open(starter, write=False) as store:
        return store.versions()[0].metadata


def build(path: Path, versions: int, axes: int, bases: int) -> None:
    """Write a registry of many versions in one transaction."""
    metadata = shipped_metadata()
    with (
        Store.open(path, write=True) as store,
        store.database.writing() as session,
    ):
        session.execute(insert(BaseRow), [_base(number) for number in range(1, bases + 1)])
        session.execute(
            insert(AxisRow),
            [
                {"id": axis, "name": f"axis-{axis:02}", "last_number": versions // axes}
                for axis in range(1, axes + 1)
            ],
        )
        for version in range(1, versions + 1):
            axis, number = (version - 1) % axes + 1, (version - 1) // axes + 1
            data = version.to_bytes(2048, "big")
            sha256 = hashlib.sha256(data).hexdigest()
            created = START + timedelta(minutes=version)
            of_version = {"version_id": version}
            base = number % bases + 1
            session.execute(insert(BlobRow), [{"sha256": sha256, "size": len(data), "data": data}])
            session.execute(
                insert(VersionRow),
                [
                    {
                        "id": version,
                        "axis_id": axis,
                        "number": number,
                        "kind": "dense",
                        "dtype": "F32",
                        "sha256": sha256,
                        "base_id": base,
                        "base_name": f"org/base-{base}",
                        "note": f"run {version}",
                        "document": metadata,
                        "created": created,
                    }
                ],
            )
            session.execute(
                insert(AxisAliasRow),
                [of_version | {"position": 0, "name": f"alias-{axis:02}"}],
            )
            session.execute(
                insert(TagRow),
                [of_version | {"name": "all"}, of_version | {"name": f"tag-{version % 50}"}],
            )
            session.execute(
                insert(MeasurementRow),
                [
                    of_version
                    | {"kind": kind, "value": {"m": version}, "protocol": "p", "created": created}
                    for kind in ("score", "range")
                ],
            )
            if number % 2:
                session.execute(
                    insert(AliasEventRow),
                    [
                        {
                            "axis_id": axis,
                            "base_id": base,
                            "alias": "stable",
                            "number": number,
                            "action": "moved",
                            "created": created,
                        }
                    ],
                )


def _base(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "weights": hashlib.sha256(str(number).encode()).hexdigest(),
        "name": f"org/base-{number}",
        "parameters": 870_000,
        "dtype": "F32",
        "created": START,
        "used": number,
    }


def questions(store: Store) -> dict[str, Callable[[], object]]:
    """Return what is asked, by the command that asks it."""
    last = store.summaries()[-1]
    axis, number, base = last.axis, str(last.number), last.base.weights
    moment = START + timedelta(days=3)
    return {
        "vectors": store.summaries,
        "vectors AXIS": lambda: store.summaries(axis),
        "show AXIS@V": lambda: store.resolve(axis, number),
        "resolve AXIS": lambda: store.resolve(axis, base=base),
        "resolve AXIS@alias": lambda: store.resolve(axis, "stable", base=base),
        "resolve ALIAS-OF-AXIS@V": lambda: store.resolve(last.axis_aliases[0], number),
        "resolve AXIS@alias --at": lambda: store.resolve(axis, "stable", base=base, at=moment),
        "resolve AXIS --at": lambda: store.resolve(axis, base=base, at=moment),
        "search --tag": lambda: store.search(Query(tags=("tag-7",))),
        "search TEXT": lambda: store.search(Query("run 77")),
        "search --tag --metric": lambda: store.search(
            Query(tags=("tag-7",), metrics=(parse_metric("score.m>5000"),))
        ),
        "bases": store.bases,
        "count of every axis": store.count,
    }


def measure(store: Store, path: Path, ask: Callable[[], object]) -> tuple[Times, Times]:
    """Take the times of one question, in the database and in all."""
    with recorded(store) as statements:
        ask()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:

        def run_again() -> None:
            for statement, parameters in statements:
                connection.execute(statement, parameters).fetchall()

        return least(run_again), least(ask)


def least(work: Callable[[], object]) -> Times:
    """Return the least times of several runs."""
    taken = []
    for _ in range(REPEATS):
        processor, clock = time.process_time(), time.perf_counter()
        work()
        taken.append((time.process_time() - processor, time.perf_counter() - clock))
    return Times(min(each[0] for each in taken), min(each[1] for each in taken))


@contextmanager
def recorded(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """Note the statements that are executed."""
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append((statement, parameters))

    event.listen(store.database.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(store.database.engine, "before_cursor_execute", note)


def main() -> int:
    """Build, ask and tell; 3 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    arguments = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory(prefix="prefreg-scale-") as folder:
        for axes, bases in ((20, 3), (1, 1)):
            path = Path(folder) / f"{axes}.db"
            build(path, arguments.versions, axes, bases)
            size = path.stat().st_size / 1024**2
            one = len(json.dumps(shipped_metadata())) / 1024
            print(
                f"\n{arguments.versions} versions of {axes} axes on {bases} bases, {size:.0f} MiB"
            )
            print(f"({one:.1f} KiB of metadata each):\n")
            print("| question | database, ms | on the clock | whole call, ms |\n|---|---|---|---|")
            with Store.open(path, write=False) as store:
                for name, ask in questions(store).items():
                    inside, call = measure(store, path, ask)
                    cells = (inside.processor, inside.clock, call.processor)
                    print(f"| {name} | " + " | ".join(f"{1e3 * cell:.1f}" for cell in cells) + " |")
                    missed += [name] if inside.processor > BAR else []
    if missed:
        print(f"\nOver {1e3 * BAR:.0f} ms in the database: {', '.join(missed)}.")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
