"""Train the shipped vectors on the bundled model, measure them, and write `registry.db` anew.

`--measure` keeps the vectors that are there, and measures what has not been measured of them. The
same versions of the packages on the same machine give the same vectors and figures; the dates are
fixed, so that they give the same file too.
"""

import argparse
import os
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefreg.composition.resolve import CALIBRATION, RANGE, newest
from prefreg.evaluation.calibration import calibrate
from prefreg.evaluation.dial_range import find_range
from prefreg.evaluation.evaluation_request import Calibrating, EvaluationRequest, Reach
from prefreg.registry import Access, Store
from prefreg.terms import Term
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

AXES = ("helpful", "harmless", "verbosity", "honesty", "politeness", "directness")
RELEASED = datetime(2026, 11, 24, tzinfo=UTC)
ASKED = EvaluationRequest(base="pocket")
UNIT = Calibrating(by="kl")
"""Every dial reaches a nat of KL on both sides; some axes' metrics apply to too few answers."""


class _Dated(Access):
    """A way to a registry in which everything happened on the day of the release."""

    def writing(self) -> Store:
        return Store.open(str(self.location), write=True, clock=lambda: RELEASED)


def main() -> None:
    """Build beside the destination and swap at the end, so that a failure changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "registry.db")
    parser.add_argument("--measure", action="store_true", help="keep the vectors that are there")
    arguments = parser.parse_args()
    part: Path = arguments.output.with_suffix(".part.db")
    part.unlink(missing_ok=True)
    note = partial(print, flush=True)
    access = _Dated(part)
    if arguments.measure:
        shutil.copyfile(arguments.output, part)
    else:
        for axis in AXES:
            note(f"training {axis} …")
            request = AxisRequest(axis, base="pocket", dtype="bfloat16", note="ships with prefreg")
            note(f"added {add_axis(access, request)}")
    with access.reading() as store:
        records = store.versions()
    for record in records:
        term = Term(record.axis, 1.0, str(record.number))
        if newest(record, RANGE) is None:
            note(f"range of {record}: {find_range(access, term, Reach(), ASKED)}")
        if newest(record, CALIBRATION) is None:
            (found,) = calibrate(access, [term], UNIT, ASKED)
            note(f"one unit of {record}: {found.positive.eta} and {found.negative.eta}")
    os.replace(part, arguments.output)


if __name__ == "__main__":
    main()
