"""Train the shipped vectors, measure them, and write `registry.db` anew.

`--base smollm2` trains those of the chat model (`make chat-model`, and about an hour of two cores)
and keeps the others; `--measure` keeps all vectors, and measures what has not been measured of
them. The same versions of the packages on the same machine give the same vectors and figures; the
dates are fixed, so that they give the same file too.
"""

import argparse
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefreg.composition.resolve import CALIBRATION, RANGE, newest
from prefreg.evaluation.calibration import calibrate
from prefreg.evaluation.dial_range import find_range
from prefreg.evaluation.evaluation_request import Calibrating, EvaluationRequest, Reach
from prefreg.registry import Access, Store
from prefreg.registry.transfer import copy_version
from prefreg.terms import Term
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

AXES = {
    "pocket": ("helpful", "harmless", "verbosity", "honesty", "politeness", "directness"),
    "smollm2": ("verbosity", "politeness", "harmless"),
}
RELEASED = datetime(2026, 11, 24, tzinfo=UTC)
Note = Callable[[str], None]
ASKED = EvaluationRequest(base="pocket")
UNIT = Calibrating(by="kl")
"""Every dial reaches a nat of KL on both sides; some axes' metrics apply to too few answers."""


class _Dated(Access):
    """A way to a registry in which everything happened on the day of the release."""

    def writing(self) -> Store:
        return Store.open(str(self.location), write=True, clock=lambda: RELEASED)


def build(shipped: Path, part: Path, trained: str, note: Note) -> None:
    """Write the vectors of every base to `part`: those of `trained` anew, others as shipped."""
    access = _Dated(part)
    for base, axes in AXES.items():
        if base == trained:
            for axis in axes:
                note(f"training {axis} on {base} …")
                note(f"added {add_axis(access, ask(axis, base), note=note)}")
            continue
        with Access(shipped).reading() as store:
            kept = [record for record in store.versions() if record.base.name == base]
        for record in kept:
            copy_version(Access(shipped), (record.axis, str(record.number)), part)


def ask(axis: str, base: str) -> AxisRequest:
    """Say how a vector that ships is trained: by the defaults; factors are small as they are."""
    dtype = "bfloat16" if base == "pocket" else "float32"
    return AxisRequest(axis, base=base, dtype=dtype, note="ships with prefreg")


def measure(access: Access, note: Note) -> None:
    """Find how far the dials of the bundled model go, and what one unit of each is."""
    with access.reading() as store:
        records = [record for record in store.versions() if record.base.name == "pocket"]
    for record in records:
        term = Term(record.axis, 1.0, str(record.number))
        if newest(record, RANGE) is None:
            note(f"range of {record}: {find_range(access, term, Reach(), ASKED)}")
        if newest(record, CALIBRATION) is None:
            (found,) = calibrate(access, [term], UNIT, ASKED)
            note(f"one unit of {record}: {found.positive.eta} and {found.negative.eta}")


def main() -> None:
    """Build beside the destination and swap at the end, so that a failure changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "registry.db")
    parser.add_argument("--base", choices=AXES, default="pocket", help="whose vectors are trained")
    parser.add_argument("--measure", action="store_true", help="keep the vectors that are there")
    arguments = parser.parse_args()
    part: Path = arguments.output.with_suffix(".part.db")
    part.unlink(missing_ok=True)
    note = partial(print, flush=True)
    if arguments.measure:
        shutil.copyfile(arguments.output, part)
    else:
        build(arguments.output, part, arguments.base, note)
    measure(_Dated(part), note)
    os.replace(part, arguments.output)


if __name__ == "__main__":
    main()
