"""Train and measure the vectors that ship and are not there yet, and write `registry.db`.

`--fresh` makes all of them anew. The same versions of the packages on the same machine give the
same vectors and figures; the dates are fixed, so that they give the same file too. The bases are
pocket, in minutes, and smollm2 (`make chat-model`), in an hour.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefreg.composition.resolve import CALIBRATION, RANGE, newest
from prefreg.evaluation.calibration import calibrate
from prefreg.evaluation.dial_range import find_range
from prefreg.evaluation.evaluation_request import Calibrating, EvaluationRequest, Reach
from prefreg.registry import Access, Store, VersionRecord
from prefreg.terms import Term
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

AXES = {
    "pocket": ("helpful", "harmless", "verbosity", "honesty", "politeness", "directness"),
    "smollm2": ("verbosity", "politeness", "harmless"),
}
RELEASED = datetime(2026, 11, 24, tzinfo=UTC)
WORLD = "pocket"
"""Its world is closed, and tells what every dial does exactly."""
ASKED = EvaluationRequest(base=WORLD)
UNIT = Calibrating(by="kl")
"""Every dial reaches a nat of KL on both sides; some axes' metrics apply to too few answers."""


class _Dated(Access):
    """A way to a registry in which everything happened on the day of the release."""

    def writing(self) -> Store:
        return Store.open(str(self.location), write=True, clock=lambda: RELEASED)


def records(access: Access) -> Sequence[VersionRecord]:
    """Return what a registry holds, if it is there."""
    if not access.is_present():
        return ()
    with access.reading() as store:
        return store.versions()


def main() -> None:
    """Build beside the destination and swap at the end, so that a failure changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "registry.db")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of what is there")
    arguments = parser.parse_args()
    part: Path = arguments.output.with_suffix(".part.db")
    part.unlink(missing_ok=True)
    note = partial(print, flush=True)
    access = _Dated(part)
    if arguments.output.exists() and not arguments.fresh:
        shutil.copyfile(arguments.output, part)
    there = {(each.base.name, each.axis) for each in records(access)}
    for base, axes in AXES.items():
        for axis in axes:
            if (base, axis) in there:
                continue
            note(f"training {axis} on {base} …")
            dtype = "bfloat16" if base == WORLD else "float32"  # factors are small as they are
            request = AxisRequest(axis, base=base, dtype=dtype, note="ships with prefreg")
            note(f"added {add_axis(access, request, note=note)}")
    for record in records(access):
        if record.base.name != WORLD:
            continue
        term = Term(record.axis, 1.0, str(record.number))
        if newest(record, RANGE) is None:
            note(f"range of {record}: {find_range(access, term, Reach(), ASKED)}")
        if newest(record, CALIBRATION) is None:
            (found,) = calibrate(access, [term], UNIT, ASKED)
            note(f"one unit of {record}: {found.positive.eta} and {found.negative.eta}")
    os.replace(part, arguments.output)


if __name__ == "__main__":
    main()
