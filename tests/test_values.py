import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prefreg.errors import DataError, UsageError
from prefreg.plain_yaml import DEEPEST, compose_yaml, load_yaml
from prefreg.values import MAX_COUNT, check_number, read_float, read_integer, read_small

settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")


@given(st.integers(0, MAX_COUNT))
def test_whole_numbers_come_back(number: int) -> None:
    assert read_integer(str(number), "--limit") == number


@pytest.mark.parametrize("text", ["²", "٣", "", "1_000", "0x7f", "1e3", " 1", "9" * 41, "1" * 5000])
def test_what_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--limit: .* is no whole number"):
        read_integer(text, "--limit")


@pytest.mark.parametrize(("text", "said"), [("-1", "below 0"), (str(2**31), f"above {MAX_COUNT}")])
def test_whole_numbers_have_bounds(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"--limit: .* is {said}"):
        read_integer(text, "--limit", low=0)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_decimal_numbers_come_back(number: float) -> None:
    assert read_float(repr(number), "x") == number


@pytest.mark.parametrize("text", ["nan", "inf", "½", "1__0", "9" * 500, "1e1000000"])
def test_what_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--step: .* is no number"):
        read_float(text, "--step")


@pytest.mark.parametrize("text", ["1e400", "-1e999"])
def test_numbers_beyond_all_measure_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--step: .* is not finite"):
        read_float(text, "--step")


def test_whole_numbers_of_any_length_can_be_checked() -> None:
    with pytest.raises(UsageError, match="above 10"):
        check_number(10**400, "x", high=10)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.text(string.ascii_letters + " é", max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_plain_values_come_back(value: object) -> None:
    assert load_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_a_date_is_the_text_that_stands_there() -> None:
    assert load_yaml("a: 2020-01-01\nb: 2020-13-45") == {"a": "2020-01-01", "b": "2020-13-45"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!int x", "tag"),
        ("a: !!timestamp x", "tag"),
        ("!!python/object/apply:os.system ['true']", "tag"),
        ("!mine {}", "tag"),
        ("[" * 20000, f"more than {DEEPEST} levels"),
        ("{a: " * 3000, f"more than {DEEPEST} levels"),
        ("&a [*a]", "alias"),
        ("a: " + "1" * 5000, "measure"),
        ("*undefined", "undefined alias"),
        ("\x00", "special characters"),
    ],
)
def test_what_plain_yaml_has_not_is_refused(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError, match=said):
        load_yaml(text)


def test_aliases_of_aliases_do_not_multiply() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for here, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{here}: &{here} [{','.join([f'*{before}'] * 9)}]")
    with pytest.raises(yaml.YAMLError, match="values"):
        compose_yaml("\n".join(lines))


def test_small_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_small(tmp_path / "a", DataError) == b"content"


def test_large_files_and_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe")
    refused = {
        tmp_path / "a": "MiB",
        tmp_path / "pipe": "no regular file",
        Path("/dev/zero"): "no regular file",
        tmp_path: "no regular file|Is a directory",
        tmp_path / "none": "no file",
        tmp_path / ("n" * 5000): "cannot be read",
        Path("a\0b"): "cannot be read",
    }
    for path, said in refused.items():
        with pytest.raises(DataError, match=said):
            read_small(path, DataError, most=10)
