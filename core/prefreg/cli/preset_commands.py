"""Presets: save a setting under a name, and look at what is saved."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from prefreg.cli import completing
from prefreg.cli.options import PRESET, TERM, Common, command, common_options
from prefreg.cli.tables import table
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.registry import Preset

_Name = tuple[str, int | None]


@click.group("preset", params=common_options())
def preset() -> None:
    """Give a setting a name, which is a TERM wherever terms are."""


@command("save")
@click.argument("name")
@click.argument("terms", type=TERM, nargs=-1, required=True, metavar="TERM...")
@click.option("--note", metavar="TEXT", help="A line to remember it by.")
def save(common: Common, name: str, terms: tuple[Term, ...], note: str | None) -> None:
    """Save a setting as the newest version of a preset.

    `prefreg preset save calm helpful:.6 verbosity:-.3` is used as in `prefreg compose calm`.
    """
    saved = common.open_registry().save_preset(name, terms, note=note)
    common.emit("preset save", saved.to_json(), f"{saved} is {_setting(saved)}.")


@command("list")
def list_(common: Common) -> None:
    """List the presets, each with its newest version."""
    found = common.open_registry().presets()
    text = _table(found) if found else "No presets yet. `prefreg preset save NAME TERM…` makes one."
    data = {"presets": [each.to_json() for each in found]}
    common.emit("preset list", data, text, asked=True)


@command("show")
@click.argument("name", type=PRESET, metavar="NAME[@V]")
def show(common: Common, name: _Name) -> None:
    """Show every version of a preset, or one."""
    registry = common.open_registry()
    one = registry.preset(*name)
    found = registry.presets(name[0]) if name[1] is None else [one]
    data = {"versions": [each.to_json() for each in found]}
    common.emit("preset show", data, _table(found), asked=True)


@command("rm")
@click.argument("name", shell_complete=completing.PRESETS)
def rm(common: Common, name: str) -> None:
    """Remove a preset with all its versions; their numbers are not used again."""
    gone = common.open_registry().remove_preset(name)
    text = f"Removed {name}, which was {_setting(gone)}."
    common.emit("preset rm", gone.to_json(), text)


def _setting(preset: "Preset") -> str:
    return " ".join(map(str, preset.terms))


def _table(presets: "Iterable[Preset]") -> str:
    rows = [
        (str(each), _setting(each), f"{each.created:%Y-%m-%d %H:%M}", each.note or "")
        for each in presets
    ]
    return table(("PRESET", "SETTING", "CREATED", "NOTE"), rows, spare=("CREATED",))


for _command in (save, list_, show, rm):
    preset.add_command(_command)
