import json
import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import PrefregError
from prefreg.wording import (
    LONGEST_MESSAGE,
    escape,
    escape_json,
    escape_styled,
    hide_password,
    is_unicode,
    percent,
    presentable,
)


@given(st.text(max_size=3000))
def test_whatever_is_shown_is_bounded_and_obeyed_by_no_terminal(text: str) -> None:
    shown = presentable(text)
    shown.encode("utf-8")
    kept = {character for character in shown if unicodedata.category(character) == "Cc"}
    assert kept <= {"\t", "\n"}
    assert len(shown) <= 6 * (LONGEST_MESSAGE + 40)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=100))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    if "://" not in text:
        assert presentable(text) == text


def test_controls_and_directions_are_written_as_escapes() -> None:
    assert presentable("a\x1b[31m\u202eb\udcff") == r"a\x1b[31m\u202eb\udcff"


def test_the_middle_of_a_long_word_is_left_out() -> None:
    shown = presentable("before " + "a" * 100_000 + "z after")
    assert shown.startswith("before aaa")
    assert shown.endswith("z after")
    assert len(shown) < 450


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:SECRET@h:5/db", "postgresql://u:***@h:5/db"),
        ("postgresql+psycopg://u:SE/CRET@[::1/db", "postgresql+psycopg://u:***@[::1/db"),
        ("see mysql://u:p@h and a://u:q@b.", "see mysql://u:***@h and a://u:***@b."),
        ("https://example.org:80/a@b", "https://example.org:80/a@b"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("/tmp/mysql:/u:p@h/db", "/tmp/mysql:/u:***@h/db"),
    ],
)
def test_passwords_of_urls_are_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@given(st.text())
def test_json_that_is_shown_has_the_same_content(text: str) -> None:
    shown = escape_json(json.dumps([text], ensure_ascii=False, indent=2))
    assert json.loads(shown) == [text]
    assert escape(shown) == shown


def test_styles_are_kept_and_nothing_else_is_obeyed() -> None:
    styled = click.style("met", fg="green") + click.style("bold", bold=True)
    assert escape_styled(styled) == styled
    assert escape_styled("\x1b[8mhidden\x1b[2J") == r"\x1b[8mhidden\x1b[2J"


def test_every_error_is_presentable() -> None:
    assert str(PrefregError("\x1b[2Jpostgresql://u:SECRET@h")) == r"\x1b[2Jpostgresql://u:***@h"


def test_bytes_that_were_no_text_are_known() -> None:
    assert is_unicode("é😀")
    assert not is_unicode("a\udcff")


def test_shares_are_written_in_percent() -> None:
    assert [percent(share) for share in (0.506, 0.0167, 0.00167, 0.0)] == [
        "51 %",
        "1.7 %",
        "0.17 %",
        "0 %",
    ]
