"""The axes of a set of plugins, by name and alias."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from prefreg.axes.axis import Axis
from prefreg.errors import AxisError


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin by its entry point: with its axes, the reason why it is broken, or disabled."""

    name: str
    distribution: str
    version: str
    axes: tuple[Axis, ...] = ()
    error: str | None = None
    disabled: bool = False
    """Kept from being imported by the user."""

    def __str__(self) -> str:
        return f"plugin {self.name} of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class InstalledAxis:
    """An axis with the plugin that brought it."""

    axis: Axis
    plugin: Plugin


class AxisCatalog:
    """The axes of a set of plugins, by name and alias."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = tuple(plugins)
        self._by_name: dict[str, InstalledAxis] = {}
        for plugin in self.plugins:
            for axis in plugin.axes:
                for name in (axis.name, *axis.aliases):
                    self._by_name[name] = InstalledAxis(axis, plugin)

    @property
    def axes(self) -> tuple[InstalledAxis, ...]:
        """Return every working axis, ordered by name."""
        unique = {found.axis.name: found for found in self._by_name.values()}
        return tuple(unique[name] for name in sorted(unique))

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """Return the plugins that could not be used."""
        return tuple(plugin for plugin in self.plugins if plugin.error is not None)

    @property
    def disabled(self) -> tuple[Plugin, ...]:
        """Return the plugins that the user keeps from being imported."""
        return tuple(plugin for plugin in self.plugins if plugin.disabled)

    def find(self, name: str) -> InstalledAxis:
        """Look an axis up by its name or an alias."""
        if name in self._by_name:
            return self._by_name[name]
        for plugin in (*self.disabled, *self.broken):
            if name in (plugin.name, plugin.distribution):
                raise AxisError(_unusable(name, plugin))
        known = ", ".join(found.axis.name for found in self.axes) or "none"
        close = difflib.get_close_matches(name, self._by_name, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        for state, plugins in (("Broken", self.broken), ("Disabled", self.disabled)):
            if plugins:
                names = ", ".join(plugin.name for plugin in plugins)
                meant += f" {state} plugins: {names} (see prefreg axes)."
        raise AxisError(f"No axis {name!r} is installed. Installed: {known}.{meant}")


def _unusable(name: str, plugin: Plugin) -> str:
    if plugin.disabled:
        return (
            f"No axis {name!r} is loaded: the {plugin} is disabled. "
            f"Run `prefreg axes --enable {plugin.name}`."
        )
    return f"No axis {name!r} is loaded: the {plugin} is broken: {plugin.error}"
