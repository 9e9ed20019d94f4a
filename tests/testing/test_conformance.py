"""What the conformance kit finds in good and in broken axes."""

import itertools
import random
from dataclasses import replace
from typing import Any

from prefreg import Axis, PreferencePair, Row, SourceRequest
from prefreg.testing import AxisCheck, check_axis

GREETINGS = [
    ("a neighbour", "Good day to you, dear neighbour.", "Hey you there!"),
    ("a judge", "Good morning, your honour.", "Hey judge, what now?"),
    ("a guest", "Welcome, and good evening to you.", "Hey, come on in!"),
    ("a friend", "Good day to you, my dear friend.", "Hey, what now?"),
]


def load(request: SourceRequest) -> list[Row]:
    """Greet forty people, formally and casually."""
    draw = random.Random(request.seed)
    made = [
        {"prompt": f"Greet {whom} number {n}.", "formal": f"{formal}", "casual": f"{casual} {n}"}
        for n, (whom, formal, casual) in enumerate(itertools.islice(itertools.cycle(GREETINGS), 60))
    ]
    draw.shuffle(made)
    return made[: request.limit]


def label(row: Row) -> PreferencePair | None:
    return PreferencePair.from_texts(
        prompt=row["prompt"], chosen=row["formal"], rejected=row["casual"]
    )


FORMALITY = Axis(
    name="formality", summary="Formal wording.", sources={"built-in": load}, label=label
)


def check(axis: Axis = FORMALITY, **changes: Any) -> AxisCheck:
    return check_axis(replace(axis, **changes), train=False)


def statuses(report: AxisCheck) -> dict[str, str]:
    return {finding.check: finding.status for finding in report.findings}


def message(report: AxisCheck, name: str) -> str:
    (found,) = (finding for finding in report.findings if finding.check == name)
    return found.message


def test_a_sound_axis_passes_every_check() -> None:
    report = check()
    assert report.passed
    assert list(statuses(report)) == [
        "rows",
        "limit",
        "columns",
        "determinism",
        "ties",
        "texts",
        "encoding",
        "switch",
        "duplicates",
        "identical",
        "contradictions",
        "leaks",
        "length",
        "tokens",
    ]


def test_ten_steps_move_the_margin_both_ways() -> None:
    report = check_axis(FORMALITY)
    assert report.passed, str(report)
    assert "positive pole" in message(report, "smoke")
