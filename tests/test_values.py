import math
import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prefreg.errors import DataError, UsageError
from prefreg.plain_yaml import DEEPEST, compose_yaml, load_yaml
from prefreg.values import check_number, find_path, read_small

settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused_by_name(number: float) -> None:
    with pytest.raises(UsageError, match=r"`step=`: .* is not finite"):
        check_number(number, "--step")


@pytest.mark.parametrize(("number", "said"), [(-1, "below 0"), (11, "above 10")])
def test_numbers_have_bounds(number: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"`limit=`: .* is {said}"):
        check_number(number, "--limit", low=0, high=10)
    assert check_number(10, "--limit", low=0, high=10) == 10


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


@pytest.mark.parametrize("text", ["", "~no-such-user/x", "x" * 5000, "a/" + "x" * 300, "a\0b"])
def test_text_that_can_be_no_path_names_no_file(text: str) -> None:
    assert find_path(text) is None


def test_a_path_is_found_from_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert find_path("~/model") == tmp_path / "model"
