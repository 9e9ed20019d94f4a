from datetime import UTC, datetime, timedelta, timezone

import pytest

from prefreg.errors import UsageError
from prefreg.registry.records import as_moment, describe_moment, parse_moment


def test_a_date_is_the_end_of_the_day() -> None:
    assert parse_moment("2026-11-01") == datetime(2026, 11, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    assert describe_moment(parse_moment("2026-11-01")) == "2026-11-01"


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-11-01T12:30", 12),
        ("2026-11-01 12:30", 12),
        ("2026-11-01T12:30Z", 12),
        ("2026-11-01T12:30+02:00", 10),
    ],
)
def test_a_moment_is_in_utc_unless_it_says_otherwise(text: str, hour: int) -> None:
    assert parse_moment(text) == datetime(2026, 11, 1, hour, 30, tzinfo=UTC)
    assert describe_moment(parse_moment(text)) == f"2026-11-01 {hour}:30:00 UTC"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-01",
        "2026-02-30",
        "2026-11",
        "01.11.2026",
        "0001-01-01T00:00+14:00",
    ],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no date: write YYYY-MM-DD"):
        parse_moment(text)


def test_a_moment_may_be_text_or_a_value_or_absent() -> None:
    naive = datetime(2026, 11, 1, 12)
    assert as_moment(naive) == as_moment("2026-11-01T12:00") == naive.replace(tzinfo=UTC)
    east = datetime(2026, 11, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert as_moment(east) == east
    assert as_moment(None) is None
