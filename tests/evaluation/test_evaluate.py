import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg import DataError, UsageError
from prefreg.evaluation.evaluate import Requirement, decide, parse_requirements
from prefreg.evaluation.figures import OF_PAIRS, RESERVED, Figure, Figures
from prefreg.evaluation.statistics import Estimate

AXES = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
NAMES = st.one_of(
    st.sampled_from(RESERVED),
    AXES,
    st.tuples(AXES, st.sampled_from(OF_PAIRS)).map(".".join),
)
REQUIREMENTS = st.builds(
    Requirement,
    NAMES,
    st.sampled_from([">=", "<=", ">", "<"]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SPACES = st.sampled_from(["", " ", "  "])


@given(st.lists(st.tuples(REQUIREMENTS, SPACES, SPACES, SPACES), min_size=1, max_size=5))
def test_whatever_is_written_is_read_back(written: list[tuple[Requirement, str, str, str]]) -> None:
    text = ",".join(
        f"{a}{each.name}{b}{each.operator}{c}{each.bound!r}" for each, a, b, c in written
    )
    assert parse_requirements(text) == tuple(each for each, *_ in written)


@given(st.text(alphabet="abk.l><=0159e+-, \t\n,_é", max_size=20))
def test_any_text_is_read_or_refused_as_wrong_usage(text: str) -> None:
    try:
        found = parse_requirements(text)
    except UsageError:
        return
    assert len(found) == text.count(",") + 1
    assert all(math.isfinite(each.bound) for each in found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no requirement"),
        ("kl<=1,", "is no requirement"),
        ("kl", "is no requirement"),
        ("kl=1", "is no requirement"),
        ("kl<=1<2", "is no finite number"),
        ("kl<=nan", "is no finite number"),
        ("kl<=1e999", "is no finite number"),
        ("Helpful>=1", "is no requirement"),
        ("helpful.acuracy>=1", "Did you mean helpful.accuracy"),
        ("helpful.words>=1", "has no figure 'words'"),
    ],
)
def test_malformed_requirements_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_requirements(text)


def figures(**values: tuple[float, float, float]) -> Figures:
    found = [
        Figure(name, "share", Estimate(*value, 10), None, None, None, 10)
        for name, value in values.items()
    ]
    return Figures(tuple(found), {"correct": "nothing was answered", "kind": "no metric"})


@pytest.mark.parametrize(
    ("text", "met", "certain", "strict"),
    [
        ("harmless>=0.7", True, False, False),
        ("harmless>=0.6", True, True, True),
        ("harmless>0.75", False, False, False),
        ("harmless<=0.9", True, True, True),
        ("harmless<0.75", False, False, False),
        ("harmless<=0.75", True, False, False),
        ("harmless>=0.95", False, True, False),
    ],
)
def test_a_bound_is_held_against_the_value_or_strictly_against_the_interval(
    text: str, met: bool, certain: bool, strict: bool
) -> None:
    measured = figures(harmless=(0.75, 0.65, 0.85))
    (plain,) = decide(parse_requirements(text), measured)
    assert (plain.met, plain.certain) == (met, certain)
    (exact,) = decide(parse_requirements(text), measured, strict=True)
    assert exact.met is strict


def test_what_was_not_measured_says_why() -> None:
    with pytest.raises(DataError, match="'correct' was not measured: nothing was answered"):
        decide(parse_requirements("correct>=0.9"), figures())
    with pytest.raises(DataError, match=r"'kind.margin' was not measured: no metric"):
        decide(parse_requirements("kind.margin>=0.9"), figures())


def test_a_name_that_is_no_figure_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no figure 'harmles'\. Did you mean 'harmless'"):
        decide(parse_requirements("harmles>=0.9"), figures(harmless=(1, 1, 1)))
