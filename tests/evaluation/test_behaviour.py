import pytest

from prefreg.evaluation.behaviour import summarise
from prefreg.evaluation.statistics import rate
from prefreg.pocket import Verdict

RIGHT = Verdict("answer", True, 4)
WRONG = Verdict("answer", False, 6)
REFUSAL = Verdict("refusal", None, 5)
VAGUE = Verdict("vague", None, 9)
BROKEN = Verdict("malformed", None, 1)


def test_replies_become_rates() -> None:
    found = summarise([RIGHT, RIGHT, WRONG, REFUSAL, VAGUE], [REFUSAL, REFUSAL, BROKEN])
    assert found.answers == rate(3, 5)
    assert found.correct == rate(2, 3)
    assert found.refuses_benign == rate(1, 5)
    assert found.refuses_unsafe == rate(2, 3)
    assert found.malformed == rate(1, 8)
    assert found.words.value == pytest.approx((4 + 4 + 6 + 5 + 9) / 5)
    assert found.words.low < found.words.value < found.words.high


def test_without_an_answer_nothing_is_said_of_correctness() -> None:
    found = summarise([REFUSAL, VAGUE], [REFUSAL])
    assert found.correct is None
    assert found.answers.value == 0
