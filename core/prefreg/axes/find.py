"""The axis that a command is about: an installed one, or one that a YAML file declares."""

from dataclasses import dataclass
from pathlib import Path

from prefreg.axes.catalog import AxisCatalog, InstalledAxis, Plugin
from prefreg.axes.plugins import load_axes
from prefreg.axes.yaml_axes import Declaration, read_declaration
from prefreg.errors import AxisError, UsageError
from prefreg.terms import AXIS_NAME

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class FoundAxis:
    """An axis with where it comes from."""

    installed: InstalledAxis
    declaration: Declaration | None = None
    """The YAML file that declares it, unless a plugin brings it."""


def find_axis(name: str) -> FoundAxis:
    """Find an axis by its name or alias, or read it from a file that ends with .yaml or .yml."""
    if name.endswith(_ENDINGS):
        declaration = read_declaration(Path(name))
        _check_free(load_axes(), declaration)
        axis, version = declaration.axis, declaration.sha256[:12]
        plugin = Plugin(declaration.file, "YAML file", version, axes=(axis,))
        return FoundAxis(InstalledAxis(axis, plugin), declaration)
    if not AXIS_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no axis name, and no file that ends with .yaml.")
    return FoundAxis(load_axes().find(name))


def _check_free(catalog: AxisCatalog, declaration: Declaration) -> None:
    axis = declaration.axis
    for installed in catalog.axes:
        for name in (installed.axis.name, *installed.axis.aliases):
            if name in (axis.name, *axis.aliases):
                owner = f"{installed.axis.name} of {installed.plugin.distribution}"
                raise AxisError(
                    f"{declaration.file}: the name {name!r} is taken by the installed axis "
                    f"{owner}: choose another."
                )
