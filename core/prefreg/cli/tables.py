"""Text for people laid out: tables and named values, as wide as the terminal."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

import click

from prefreg.wording import escape_styled, shorten

_GAP = 2
_READABLE = 100
_FOLDED = 32
"""The last column of a table, where it is text, may be folded down to this many characters."""
_NOTHING = {"", "-"}
_LONGEST = 10_000
"""Characters of one value; the middle of a longer one is left out, as --json has all."""


def colours() -> bool | None:
    """Say whether to colour what is shown: False never, None where it is a terminal."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if plain else None


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    keys: int = 1,
    spare: Sequence[str] = (),
    indent: int = 0,
) -> str:
    """Align columns of text.

    On a terminal that is too narrow the columns without anything go first, then the spare ones in
    their order, with a word on it; the last one is folded if it is text, and what is still too
    wide is continued below, with the `keys` first columns again. Away from a terminal no column
    is cut, so that it can be searched.
    """
    columns = [
        [name, *map(_line, cells)] for name, cells in zip(headers, _turn(rows), strict=False)
    ]
    columns = columns or [[name] for name in headers]
    room = _room(indent)
    if room is None:
        return textwrap.indent("\n".join(_align(columns)), " " * indent)
    empty = [column[0] for column in columns if _NOTHING.issuperset(column[1:])]
    left_out = []
    for name in [*empty, *spare]:
        if _needed(columns) <= room:
            break
        kept = [column for column in columns if column[0] != name]
        if len(kept) < len(columns) and name not in empty:
            left_out.append(name)
        columns = kept
    text = "\n\n".join("\n".join(_align(part, room)) for part in _parts(columns, keys, room))
    if left_out:
        more = f"({', '.join(left_out)}: there is no room for them; --json has all.)"
        text += "\n" + click.style(textwrap.fill(more, room), dim=True)
    return textwrap.indent(text, " " * indent)


def sections(fields: Mapping[str, object], *, indent: int = 0) -> str:
    """Write named values one to a line, aligned, and folded where the terminal is narrow."""
    width = max(map(len, fields), default=0) + _GAP
    room = _room(indent)
    lines = []
    for name, value in fields.items():
        line = _line(value)
        folded = [line] if room is None else fold(line, room - width)
        lines += [
            f"{' ' * indent}{label.ljust(width)}{part}".rstrip()
            for label, part in zip([name, *[""] * len(folded)], folded, strict=False)
        ]
    return "\n".join(lines)


def _line(value: object) -> str:
    """Write a value on one line, so that none looks like the next row."""
    return escape_styled(shorten(" ".join(str(value).splitlines()), _LONGEST))


def fold(text: str, width: int) -> list[str]:
    """Break text between words into lines of a width; a longer word stays whole."""
    return textwrap.wrap(
        text, max(width, _FOLDED), break_long_words=False, break_on_hyphens=False
    ) or [""]


def paragraph(text: str, *, indent: int = 0) -> str:
    """Break a text into lines that can be read, and that the terminal holds."""
    room = min(_room(indent) or _READABLE, _READABLE)
    return textwrap.indent("\n".join(fold(text, room)), " " * indent)


def heading(text: str) -> str:
    """Write the name of a column in capitals, but for Greek: a capital η is taken for an H."""
    return "".join(letter.upper() if letter.isascii() else letter for letter in text)


def _room(indent: int = 0) -> int | None:
    """Return the columns of the terminal; None where the text goes elsewhere."""
    return shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else None


def _turn(rows: Sequence[Sequence[object]]) -> list[tuple[object, ...]]:
    return list(zip(*rows, strict=True))


def _width(cell: str) -> int:
    return len(click.unstyle(cell))


def _widest(column: Sequence[str]) -> int:
    return max(map(_width, column))


def _needed(columns: Sequence[Sequence[str]]) -> int:
    """Return how wide a table of these columns is at least."""
    *others, last = columns
    is_text = any(cell.count(" ") > 2 for cell in last)
    least = min(_widest(last), _FOLDED) if is_text else _widest(last)
    return sum(map(_widest, others)) + least + _GAP * len(others)


def _parts(columns: Sequence[list[str]], keys: int, room: int) -> list[list[list[str]]]:
    """Share the columns out to tables that fit, each with the key columns."""
    parts = [[*columns[:keys]]]
    for column in columns[keys:]:
        if len(parts[-1]) > keys and _needed([*parts[-1], column]) > room:
            parts.append([*columns[:keys]])
        parts[-1].append(column)
    return parts


def _align(columns: Sequence[Sequence[str]], room: int | None = None) -> list[str]:
    widths = [_widest(column) for column in columns]
    before = sum(widths[:-1]) + _GAP * (len(widths) - 1)
    lines = []
    for number, cells in enumerate(zip(*columns, strict=True)):
        whole = room is None or before + _width(cells[-1]) <= room
        folded = [cells[-1]] if whole or room is None else fold(cells[-1], room - before)
        start = "".join(
            cell + " " * (width + _GAP - _width(cell))
            for cell, width in zip(cells[:-1], widths, strict=False)
        )
        for place, part in enumerate(folded):
            line = ((start if place == 0 else " " * before) + part).rstrip()
            lines.append(line if number else click.style(line, bold=True))
    return lines
