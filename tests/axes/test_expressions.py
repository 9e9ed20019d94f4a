"""What expressions over answers mean, and that nothing else is taken."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefreg.axes.expressions import LONGEST, BadExpressionError, parse_expression
from prefreg.errors import DataError

NAMES = ("prompt", "chosen", "rejected")
TEXTS = {"prompt": "why ?", "chosen": "Arr, it be blue, arr !", "rejected": "it is blue"}
"""6 words of 22 characters against 3 words of 10."""


def truth(text: str, **texts: str) -> bool | None:
    found = parse_expression(text, NAMES, "truth", metric=True)(
        TEXTS | texts, lambda prompt, answer: float(len(prompt) + len(answer))
    )
    return None if found is None else bool(found)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("words(chosen) > 1.5 * words(rejected)", True),
        ("words(chosen) > 2 * words(rejected)", False),
        ("words(chosen) == 6 and chars(chosen) == 22 and chars(rejected) == 10", True),
        ("3 <= words(rejected) < 4", True),
        ("contains(chosen, 'ARR')", True),
        ("contains(rejected, 'arr') or not contains(chosen, 'blue')", False),
        ("count(chosen, 'arr') - count(rejected, 'arr') == 2", True),
        ("metric(chosen) == 5 + 22", True),
        ("abs(words(rejected) - words(chosen)) * 2 / 3 == 2", True),
        ("-words(chosen) + 6 != 0", False),
        ("repetition(chosen) == 0", True),
        ("refuses(chosen) == 0", True),
    ],
)
def test_the_value_is_that_of_the_figures(text: str, value: bool) -> None:
    assert truth(text) is value


def test_the_share_of_repeated_runs_of_four_words() -> None:
    # "a a a a a" has two runs, both the same, so one of two comes earlier.
    assert truth("refuses(chosen) == 1", chosen="I'm sorry, but I can't help with that.") is True
    assert truth("repetition(chosen) == 1 / 2", chosen="a a a a a") is True


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is malformed"),
        ("words(chosen", "it is malformed at character"),
        ("words(chosen)\x00 > 1", "it is malformed"),
        ("(" * 300 + "1" + ")" * 10, "it is malformed"),
        ("not " * 60 + "contains(chosen, 'a')", "nested more than 40 levels deep"),
        ("1" * 501, "more than 500 characters"),
        ("1 < 2", "looks at no answer"),
        ("words(prompt) > 3", "looks at no answer"),
        ("words(chosen)", "it is a number, not a comparison"),
        ("words(chosen) and 1 < 2", "'words(chosen)' is a number, where true or false is needed"),
        ("(words(chosen) > 1) + 1 > 2", "is true or false, where a number is needed"),
        ("chosen == rejected", "'chosen' is a text: compare words(chosen)"),
        ("words(answer) > 1", "words() is of prompt or chosen or rejected"),
        ("words('a b') > 1", "words() is of prompt or chosen or rejected"),
        ("len(chosen) > 1", "there is no function 'len' (there are the texts prompt, chosen"),
        ("size > 1", "there is no 'size'"),
        ("contains(chosen)", "write contains(TEXT, 'part')"),
        ("contains(chosen, rejected)", "looks for a text in quotes"),
        ("contains(chosen, '')", "looks for a text in quotes"),
        ("words(chosen) > 1e999", "a number is out of measure"),
        ("words(chosen) > 1" + "0" * 400, "a number is out of measure"),
        ("words(chosen) in (1, 2)", "only numbers are compared"),
        ("words(chosen) ** 9 > 1", "'words(chosen) ** 9' is not taken"),
        ("words(chosen) % 2 == 1", "is not taken"),
        ("True", "'True' is not taken"),
        ("chosen.upper() > 1", "'chosen.upper()' is not taken"),
        ("words(chosen) > words(text=rejected)", "is not taken"),
        ("(lambda: 1)() > words(chosen)", "is not taken"),
        ("[words(chosen) > 1][0]", "is not taken"),
        ("words(chosen) > 1 if words(chosen) else 2", "is not taken"),
        ("__import__('os').system('x') > words(chosen)", "is not taken"),
        ("words(f'{chosen}') > 1", "words() is of"),
    ],
)
def test_what_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadExpressionError) as caught:
        parse_expression(text, NAMES, "truth")
    assert problem in str(caught.value)


def test_a_metric_must_be_there_to_be_asked() -> None:
    with pytest.raises(BadExpressionError, match="give the axis one by 'metric'"):
        parse_expression("metric(chosen) > 1", NAMES, "truth")


def test_what_the_metric_does_not_judge_is_neither_true_nor_false() -> None:
    found = parse_expression("metric(chosen) > 1 or 1 > words(chosen)", NAMES, "truth", metric=True)
    assert found(TEXTS, lambda prompt, answer: None) is None


@pytest.mark.parametrize(
    "text", ["1 / words(answer)", "1e300 * chars(prompt) * 1e300 * words(answer)"]
)
def test_what_is_no_finite_number_is_told(text: str) -> None:
    found = parse_expression(text, ("prompt", "answer"), "number")
    assert math.isfinite(found({"prompt": "", "answer": "a"}) or 0)
    with pytest.raises(DataError, match="is no finite number for the text"):
        found({"prompt": "why ?", "answer": "" if "/" in text else "a"})


NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.floats(0, 1e6, allow_nan=False).map(repr),
    st.sampled_from([f"{name}({text})" for name in ("words", "chars") for text in NAMES]),
)
SUMS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"-({text})"),
        inner.map(lambda text: f"abs({text})"),
    ),
    max_leaves=6,
)
COMPARED = st.tuples(SUMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SUMS).map(" ".join)
TRUTHS = st.recursive(
    COMPARED,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=4,
)


@given(TRUTHS, st.text("ab .", max_size=20), st.text("ab .", max_size=20))
def test_an_expression_means_what_python_means_by_it(text: str, chosen: str, rejected: str) -> None:
    texts = {"prompt": "why ?", "chosen": chosen, "rejected": rejected}
    assume(("chosen" in text or "rejected" in text) and len(text) <= LONGEST)
    found = parse_expression(text, NAMES, "truth")
    functions: dict[str, Any] = {
        "words": lambda said: float(len(said.split())),
        "chars": lambda said: float(len(said)),
        "abs": abs,
    }
    # Whole numbers are as large as they like in Python, and floats here.
    wanted = eval(text, {"__builtins__": {}, **functions}, texts)
    assert found(texts) == wanted


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse_expression(text, NAMES, "truth")
    except BadExpressionError:
        return
