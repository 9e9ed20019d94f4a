"""Settings as names of models."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import UsageError
from prefreg.serving.model_names import model_name, parse_setting, setting_in
from prefreg.terms import Term

axes = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
references = st.none() | st.integers(1, 10**6).map(str)
etas = st.floats(allow_nan=False, allow_infinity=False)
presets = st.builds(Term, axes, st.just(1.0), references, preset=st.just(True))
phases = st.none() | st.integers(0, 10**9 - 1)
terms = st.builds(Term, axes, etas, references, phases)
settings = st.lists(terms | presets, min_size=1, max_size=5)


def test_a_name_has_its_terms_behind_a_plus() -> None:
    terms = (Term("helpful", 1.0), Term("verbose", -0.3, "2"))
    assert model_name("smollm2", terms) == "smollm2+helpful:1,verbose@2:-0.3"
    assert parse_setting("helpful:1, verbose@2:-0.3") == terms
    assert parse_setting("helpful:+1e+0+verbose@2:-0.3+calm") == (
        *terms,
        Term("calm", 1.0, preset=True),
    )
    assert model_name("smollm2", ()) == "smollm2"


@given(base=st.text(min_size=1, max_size=20), terms=settings)
def test_a_name_is_read_as_it_was_written_whatever_the_base_is_called(
    base: str, terms: list[Term]
) -> None:
    behind = setting_in(model_name(base, terms), [base])
    assert behind is not None
    found = parse_setting(behind)
    assert found == tuple(terms)
    assert all(math.copysign(1, one.eta) == math.copysign(1, two.eta)
               for one, two in zip(found, terms, strict=True) if one.eta)  # fmt: skip


@given(st.text(max_size=60))
def test_any_other_text_is_refused_as_usage(text: str) -> None:
    with suppress(UsageError):
        assert all(math.isfinite(term.eta) for term in parse_setting(text))


def test_the_longest_base_is_meant() -> None:
    assert setting_in("a+b:1", ["a", "a+b:1"]) is None
    assert setting_in("a+b:1+c:2", ["a", "a+b:1"]) == "c:2"
    assert setting_in("org/model", ["org/model", "model"]) is None
    for other in ("a", "pockets", "", "pocket helpful:1"):
        with pytest.raises(LookupError):
            setting_in(other, ["pocket"])


@pytest.mark.parametrize("text", ["", ",", "helpful:1,", "helpful:nan", "helpful@x", "helpful:1:2"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(UsageError):
        parse_setting(text)
