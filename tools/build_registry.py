"""Train the shipped vectors on the bundled model and write `registry.db` anew.

The same versions of the packages on the same machine give the same vectors; the dates are
fixed, so that they give the same file too.
"""

import argparse
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefreg.registry import Access, Store
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

AXES = ("helpful", "harmless", "verbosity", "honesty", "politeness", "directness")
RELEASED = datetime(2026, 11, 24, tzinfo=UTC)


class _Dated(Access):
    """A way to a registry in which everything happened on the day of the release."""

    def writing(self) -> Store:
        return Store.open(str(self.location), write=True, clock=lambda: RELEASED)


def main() -> None:
    """Build beside the destination and swap at the end, so that a failure changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "registry.db")
    arguments = parser.parse_args()
    part: Path = arguments.output.with_suffix(".part.db")
    part.unlink(missing_ok=True)
    note = partial(print, flush=True)
    for axis in AXES:
        note(f"training {axis} …")
        request = AxisRequest(axis, base="pocket", dtype="bfloat16", note="ships with prefreg")
        note(f"added {add_axis(_Dated(part), request)}")
    os.replace(part, arguments.output)


if __name__ == "__main__":
    main()
