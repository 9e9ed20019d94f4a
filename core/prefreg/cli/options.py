"""What every command shares: the options that stand anywhere, its output, its parameter types."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.errors import UsageError
from prefreg.registry.records import parse_moment
from prefreg.terms import Term, parse_reference, parse_term

if TYPE_CHECKING:
    from prefreg.api import Registry

JSON_SCHEMA = 1


@dataclass(slots=True)
class Common:
    """The options that every command takes, before or after its name."""

    registry: str | None = None
    json: bool = False
    quiet: bool = False

    def open_registry(self) -> "Registry":
        """Open the registry that the options name."""
        from prefreg.api import open as open_registry

        return open_registry(self.registry)

    def emit(self, command: str, data: Any, text: str, *, asked: bool = False) -> None:
        """Write the result to stdout: the JSON document, or the text for people.

        `asked` says that the text answers a question, so --quiet keeps it.
        """
        if self.json:
            document = {"schema": JSON_SCHEMA, "command": command, "data": data}
            click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        elif text and (asked or not self.quiet):
            click.echo(text)

    def note(self, text: str) -> None:
        """Tell the user something on stderr that is not the result."""
        if not self.quiet:
            click.echo(text, err=True)


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        # Given before and after the subcommand, the later one wins; absent changes nothing.
        if value:
            setattr(context.ensure_object(Common), name, value)

    return callback


def common_options() -> list[click.Parameter]:
    """Make the options that stand before or after the name of every command."""
    return [
        click.Option(
            ["--registry"],
            metavar="PATH_OR_URL",
            expose_value=False,
            callback=_store("registry"),
            help="Registry to use.  [env: PREFREG_REGISTRY; default: ./registry.db, "
            "else the starter that ships with prefreg]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_store("json"),
            help="Write the result as one JSON document.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_store("quiet"),
            help="Write nothing but the result asked for and errors.",
        ),
    ]


class Command(click.Command):
    """A command that takes the common options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add the common options behind the command's own."""
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that takes the common options and is handed them first."""
    declare = click.command(name, cls=Command, **kwargs)
    return lambda function: declare(click.pass_obj(function))


class TermType(click.ParamType[Term]):
    """A term, `AXIS[@VERSION]:ETA`."""

    name = "term"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Term:
        """Parse the term; malformed text is wrong usage."""
        try:
            return value if isinstance(value, Term) else parse_term(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class ReferenceType(click.ParamType[tuple[str, str | None]]):
    """A version of an axis, `AXIS[@VERSION|@ALIAS]`."""

    name = "reference"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        """Parse the reference; malformed text is wrong usage."""
        try:
            return value if isinstance(value, tuple) else parse_reference(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class DialType(click.ParamType[Term]):
    """A vector that is looked at: a term, or a version, which stands for itself at 1."""

    name = "dial"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Term:
        """Parse the term or the reference; malformed text is wrong usage."""
        if isinstance(value, Term) or ":" in value:
            return TERM.convert(value, param, ctx)
        axis, reference = REFERENCE.convert(value, param, ctx)
        return Term(axis, 1.0, reference)


class MomentType(click.ParamType[datetime]):
    """A moment in the past, `YYYY-MM-DD[THH:MM]`."""

    name = "date"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read the moment; malformed text is wrong usage."""
        try:
            return value if isinstance(value, datetime) else parse_moment(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


PICTURES = (".png", ".pdf", ".svg")
"""As `evaluation.plots` saves them, which is not imported here: it loads matplotlib."""


class PictureType(click.Path):
    """A file that a picture is written to, in the form that its ending says."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the ending and the folder before anything is measured."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() not in PICTURES:
            forms = ", ".join(PICTURES)
            self.fail(f"{str(path)!r} does not end in {forms}, the forms of pictures.", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"There is no folder {path.parent} for the picture.", param, ctx)
        return path


TERM = TermType()
REFERENCE = ReferenceType()
DIAL = DialType()
AT = click.option(
    "--at",
    type=MomentType(),
    metavar="DATE",
    help="As it was at the end of YYYY-MM-DD, or at YYYY-MM-DDTHH:MM, in UTC.",
)
TOO_LONG = click.option(
    "--too-long",
    type=click.Choice(["truncate", "drop", "refuse"]),
    default="truncate",
    show_default=True,
    help="What becomes of texts beyond --max-length; they are counted.",
)

PLOT = click.option(
    "--plot",
    type=PictureType(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw a picture too.",
)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns of text; nothing is cut, so that the output can be searched."""
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def sections(fields: Mapping[str, object]) -> str:
    """Write named values one to a line, aligned."""
    width = max(map(len, fields), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in fields.items())


def human_time(seconds: float) -> str:
    """Write a duration in the units that people use."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
