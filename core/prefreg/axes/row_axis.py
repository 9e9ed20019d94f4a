"""An axis that nobody declares: rows of the user's own, taken as they stand."""

from collections.abc import Iterable

from prefreg.axes.axis import Axis, PreferencePair, Row, SourceRequest
from prefreg.errors import DataError


def axis_of_rows(name: str, aliases: tuple[str, ...] = ()) -> Axis:
    """Return an axis whose rows are files: what a row calls chosen lies along it."""

    def no_rows(request: SourceRequest) -> Iterable[Row]:
        raise DataError(f"The axis {name!r} has the rows that are given by --data, and no others.")

    return Axis(
        name=name,
        summary="Rows as they stand.",
        sources={"rows": no_rows},
        label=PreferencePair.from_row,
        aliases=aliases,
    )
