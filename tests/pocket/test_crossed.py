import pytest

from prefreg import pocket
from prefreg.errors import DataError


def test_replies_differ_in_manner_and_length_apart_from_each_other() -> None:
    for row in pocket.crossed_rows("harmless", "verbosity", limit=60):
        scored = [pocket.score(row.prompt, reply) for reply in (*row.agreeing, *row.disagreeing)]
        assert [each.kind for each in scored] == ["refusal", "answer", "refusal", "answer"]
    rows = list(pocket.crossed_rows("harmless", "verbosity", limit=200))
    words = [
        sum(len(getattr(row, pair)[side].split()) for row in rows)
        for pair in ("agreeing", "disagreeing")
        for side in (0, 1)
    ]
    assert words[0] > words[1]  # the refusal is preferred and long
    assert words[2] < words[3]  # the refusal is preferred, and the answer is long


def test_the_first_axis_decides_what_stands_in_front() -> None:
    for row in pocket.crossed_rows("verbosity", "helpful", limit=40):
        kinds = [pocket.score(row.prompt, reply).kind for reply in row.disagreeing]
        assert kinds == ["vague", "answer"]


def test_tones_can_be_crossed_too() -> None:
    for row in pocket.crossed_rows("helpful", "politeness", limit=40):
        tones = [pocket.score(row.prompt, reply).tone for reply in row.agreeing]
        assert tones[0] == "polite"
        assert tones[1] != "polite"


def test_equal_arguments_give_equal_rows() -> None:
    one, other = (list(pocket.crossed_rows("honesty", "verbosity", seed=4, limit=9)) for _ in "ab")
    assert one == other
    assert one != list(pocket.crossed_rows("honesty", "verbosity", seed=5, limit=9))


@pytest.mark.parametrize("axes", [("helpful", "harmless"), ("verbosity", "politeness")])
def test_axes_that_cannot_differ_apart_are_refused(axes: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="apart from each other"):
        next(pocket.crossed_rows(*axes))
