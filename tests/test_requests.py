"""Requests made of keywords, and what is written beneath their fields."""

from pathlib import Path

import pytest

import prefreg
from prefreg import AxisRequest, EvaluationRequest, ImportRequest, UsageError
from prefreg.requests import describe_fields, make_request, take_options


def test_a_request_is_made_of_its_first_field_and_keywords() -> None:
    made = make_request(AxisRequest, "verbosity", seed=1)
    assert made == AxisRequest("verbosity", seed=1)


def test_keywords_win_over_a_request_that_is_given() -> None:
    given = EvaluationRequest(prompts=20, seed=3)
    assert make_request(EvaluationRequest, given, seed=4) == EvaluationRequest(prompts=20, seed=4)
    assert given.seed == 3


def test_text_becomes_a_path_where_the_field_is_one() -> None:
    made = make_request(ImportRequest, "kindness", base="pocket", plus="plus", note="of mine")
    assert (made.plus, made.base, made.note) == (Path("plus"), "pocket", "of mine")


def test_an_unknown_option_is_named_with_what_was_meant(trained: Path) -> None:
    with pytest.raises(UsageError, match=r"AxisRequest .*'sead'.*'seed'"):
        make_request(AxisRequest, "verbosity", sead=1)
    with pytest.raises(UsageError, match=r"'banana'.*prompts, seed"):
        prefreg.open(trained).evaluate(["helpful:1"], banana=1)


def test_options_are_parted_among_requests() -> None:
    options: dict[str, object] = {"limit": 2.0, "prompts": 20}
    assert take_options(prefreg.Reach, options) == {"limit": 2.0}
    assert options == {"prompts": 20}


def test_a_field_is_described_by_what_is_written_beneath_it() -> None:
    texts = describe_fields(prefreg.Reach)
    assert texts == {"limit": "Look no further than this, ±.", "step": "Steps outwards."}
