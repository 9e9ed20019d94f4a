"""Terms: what parses, what does not, and that text and value agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg import Term, UsageError, parse_term
from prefreg.terms import as_terms, brief_eta, parse_reference


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("helpful:1", Term("helpful", 1.0)),
        ("harmless:0.5", Term("harmless", 0.5)),
        ("verbose:-0.3", Term("verbose", -0.3)),
        ("a:+.5", Term("a", 0.5)),
        ("a:1.", Term("a", 1.0)),
        ("a:-2E-3", Term("a", -0.002)),
        ("long-name_2:0", Term("long-name_2", 0.0)),
        ("helpful@12:1", Term("helpful", 1.0, "12")),
        ("helpful@stable:1", Term("helpful", 1.0, "stable")),
        ("helpful@v1.2-rc_1:1", Term("helpful", 1.0, "v1.2-rc_1")),
        ("calm", Term("calm", 1.0, preset=True)),
        ("calm@2", Term("calm", 1.0, "2", preset=True)),
        ("helpful:1[answer]", Term("helpful", 1.0, since=0)),
        ("helpful@2:-.5[20:]", Term("helpful", -0.5, "2", since=20)),
        ("a:0[0:]", Term("a", 0.0, since=0)),
    ],
)
def test_parses(text: str, term: Term) -> None:
    assert parse_term(text) == term


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "calm@",
        "calm@0",
        "calm@stable",
        "calm@1@2",
        "Calm",
        "calm ",
        "helpful:",
        ":1",
        "helpful:one",
        "helpful:nan",
        "helpful:inf",
        "helpful:-Infinity",
        "helpful:1e999",
        "helpful:1:2",
        "helpful:1_0",
        "helpful: 1",
        "helpful:0x10",
        "helpful:1e",
        "helpful:.",
        "helpful:\u0661",  # a digit, but not one of ours
        "Helpful:1",
        "2helpful:1",
        "helpful@:1",
        "helpful@a b:1",
        "helpful@1@2:1",
        "helpful\n:1",
        "helpful:1[]",
        "helpful:1[20]",
        "helpful:1[:20]",
        "helpful:1[-1:]",
        "helpful:1[prompt]",
        "helpful:1[answer][answer]",
        "helpful:1 [answer]",
        "helpful[answer]:1",
        "helpful:1[answer]\n",
        "helpful:1[1000000000:]",
        "[answer]",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_term(text)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
references = st.none() | st.from_regex(r"[0-9]{1,6}|[a-z][a-z0-9.-]{0,6}", fullmatch=True)
etas = st.floats(allow_nan=False, allow_infinity=False)


@given(names, st.none() | st.integers(1, 99999).map(str))
def test_text_of_a_preset_reads_back(name: str, number: str | None) -> None:
    term = Term(name, 1.0, number, preset=True)
    assert parse_term(str(term)) == term


@given(names, references, etas, st.none() | st.integers(0, 10**9 - 1))
def test_text_of_a_term_reads_back(
    axis: str, reference: str | None, eta: float, since: int | None
) -> None:
    term = Term(axis, eta, reference, since)
    again = parse_term(str(term))
    assert again == term
    name = f"{axis}@{reference}" if reference else axis
    assert as_terms({name + term.phase: eta}) == (term,)
    assert math.copysign(1, again.eta) == math.copysign(1, eta) or eta == 0


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        assert math.isfinite(parse_term(text).eta)
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


def test_terms_from_mappings_and_keywords_agree() -> None:
    assert as_terms({"helpful@2": 1, "harmless": 0.5}) == as_terms(["helpful@2:1", "harmless:.5"])


def test_a_mapping_refuses_what_is_not_finite() -> None:
    with pytest.raises(UsageError, match="not finite"):
        as_terms({"helpful": float("nan")})


def test_a_reference_without_a_version_is_the_newest() -> None:
    assert parse_reference("helpful") == ("helpful", None)


@pytest.mark.parametrize(
    ("eta", "text"),
    [
        (1.0, "1"),
        (-0.5, "-0.5"),
        (0.4719304647332248, "0.4719"),
        (1e6, "1000000"),
        (-2e-9, "-2e-09"),
    ],
)
def test_a_long_coefficient_is_shortened_for_people(eta: float, text: str) -> None:
    assert brief_eta(eta) == text
