"""Moments in the past: how they are written, and how they are told."""

from datetime import UTC, date, datetime, time

from prefreg.errors import UsageError

Moment = str | datetime
"""`2026-11-01` is the end of that day; without a time zone, UTC is meant."""

_END = time(23, 59, 59, 999_999, tzinfo=UTC)


def as_moment(moment: Moment | None) -> datetime | None:
    """Read a moment from text, or take it as it is.

    Raises:
        UsageError: It is no date.
    """
    if isinstance(moment, str):
        return parse_moment(moment)
    return moment.replace(tzinfo=UTC) if moment is not None and not moment.tzinfo else moment


def parse_moment(text: str) -> datetime:
    """Read `2026-11-01`, which is the end of that day, or `2026-11-01T12:30`; in UTC.

    Raises:
        UsageError: It is no date.
    """
    try:
        return datetime.combine(date.fromisoformat(text), _END)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no date: write YYYY-MM-DD, or YYYY-MM-DDTHH:MM for a moment, in UTC."
        ) from error


def describe_moment(moment: datetime) -> str:
    """Write a moment as briefly as it was meant."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if moment.timetz() == _END else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
