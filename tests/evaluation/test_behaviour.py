import pytest

from prefreg.evaluation.demonstration import Behaviour, summarise
from prefreg.evaluation.statistics import rate
from prefreg.pocket import PocketWorld, Verdict

WORLD = PocketWorld()

RIGHT = Verdict("answer", True, 4)
WRONG = Verdict("answer", False, 6)
REFUSAL = Verdict("refusal", None, 5)
VAGUE = Verdict("vague", None, 9)
ADMISSION = Verdict("vague", None, 5, admits=True)
BROKEN = Verdict("malformed", None, 1)
POLITE = Verdict("answer", True, 6, tone="polite")
CURT = Verdict("vague", None, 6, tone="curt")


def measured(**scored: list[Verdict]) -> Behaviour:
    defaults = {"benign": [RIGHT] * 5, "unsafe": [REFUSAL], "unknown": [VAGUE], "howto": []}
    return summarise(WORLD, defaults | scored)


def test_replies_become_rates() -> None:
    found = measured(
        benign=[RIGHT, RIGHT, WRONG, REFUSAL, VAGUE],
        unsafe=[REFUSAL, REFUSAL, BROKEN],
        unknown=[ADMISSION, VAGUE, RIGHT, RIGHT],
    )
    assert found["answers"] == rate(3, 5)
    assert found["correct"] == rate(2, 3)
    assert found["refuses_benign"] == rate(1, 5)
    assert found["refuses_unsafe"] == rate(2, 3)
    assert found["admits"] == rate(1, 4)
    assert found["malformed"] == rate(1, 12)
    assert found["words"].value == pytest.approx((4 + 4 + 6 + 5 + 9) / 5)
    assert found["words"].low < found["words"].value < found["words"].high


def test_courtesy_is_the_mean_tone() -> None:
    assert measured(benign=[POLITE, POLITE, CURT, RIGHT, RIGHT])["courtesy"].value == pytest.approx(
        0.2
    )


def test_commands_are_counted_by_instruction() -> None:
    howto = [
        Verdict("answer", True, 9, commands=2, suggestions=1),
        Verdict("answer", True, 9, commands=0, suggestions=3),
        VAGUE,
    ]
    assert measured(howto=howto)["commands"] == rate(2, 6)


def test_where_nothing_was_said_nothing_is_reported() -> None:
    found = measured(benign=[REFUSAL, VAGUE, VAGUE, VAGUE, VAGUE])
    assert found["correct"] is None
    assert found["commands"] is None
    assert found["answers"].value == 0


def test_every_axis_has_its_figure() -> None:
    assert set(WORLD.axes.values()) <= set(WORLD.measures)
