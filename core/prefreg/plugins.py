"""Find the installed axes, each plugin isolated from every other."""

import contextlib
import difflib
import importlib.metadata
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

import pluggy

from prefreg import hookspecs
from prefreg.axes import Axis
from prefreg.config import plugins_to_load
from prefreg.errors import AxisError

_OWN_DISTRIBUTION = "prefreg"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin by its entry point, with the axes that it brings or the reason why it is broken."""

    name: str
    distribution: str
    version: str
    axes: tuple[Axis, ...] = ()
    error: str | None = None


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

    def find(self, name: str) -> InstalledAxis:
        """Look an axis up by its name or an alias.

        Raises:
            AxisError: No working plugin brings it.
        """
        if name in self._by_name:
            return self._by_name[name]
        known = ", ".join(found.axis.name for found in self.axes) or "none"
        close = difflib.get_close_matches(name, self._by_name, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        broken = [plugin.name for plugin in self.broken]
        also = f" Broken plugins: {', '.join(broken)} (see prefreg axes)." if broken else ""
        raise AxisError(f"No axis {name!r} is installed. Installed: {known}.{meant}{also}")


def load_axes() -> AxisCatalog:
    """Load the plugins of every installed distribution that `PREFREG_LOAD_PLUGINS` allows."""
    wanted = plugins_to_load()
    plugins: list[Plugin] = []
    taken: dict[str, str] = {}
    for point, distribution, version in _entry_points():
        if wanted is None or distribution in wanted:
            plugins.append(_claim_names(_load(point, distribution, version), taken))
    return AxisCatalog(plugins)


def read_plugin(module: ModuleType | object, name: str) -> tuple[Axis, ...]:
    """Register one plugin on a manager of its own and collect its axes.

    Raises:
        AxisError: A hook is misspelt, missing, or returns something else than axes.
        Exception: Whatever the hook itself raises.
    """
    manager = pluggy.PluginManager("prefreg")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    answers = manager.hook.prefreg_register_axes()
    if not answers:
        raise AxisError("it implements no hook; mark prefreg_register_axes with @prefreg.hookimpl")
    axes = tuple(axis for answer in answers for axis in answer)
    for axis in axes:
        if not isinstance(axis, Axis):
            raise AxisError(f"prefreg_register_axes returned {axis!r}, which is no Axis")
    return axes


def _entry_points() -> list[tuple[importlib.metadata.EntryPoint, str, str]]:
    found = []
    for point in importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        distribution = point.dist
        name = distribution.name if distribution else "unknown"
        found.append((point, name, distribution.version if distribution else "unknown"))
    # Our own axes come first, so that nobody takes their names; the rest in a fixed order.
    return sorted(found, key=lambda item: (item[1] != _OWN_DISTRIBUTION, item[1], item[0].name))


def _load(point: importlib.metadata.EntryPoint, distribution: str, version: str) -> Plugin:
    try:
        # What a plugin prints must not mix with what a command writes to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            axes = read_plugin(point.load(), point.name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the command line.
        return Plugin(point.name, distribution, version, error=_reason(error))
    return Plugin(point.name, distribution, version, axes)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _claim_names(plugin: Plugin, taken: dict[str, str]) -> Plugin:
    """Enter a plugin's names into `taken`, or mark the plugin as broken if one is taken."""
    names = [name for axis in plugin.axes for name in (axis.name, *axis.aliases)]
    for name in names:
        owner = taken.get(name) or (plugin.name if names.count(name) > 1 else None)
        if owner:
            reason = f"claims the name {name!r}, which {owner} has"
            return Plugin(plugin.name, plugin.distribution, plugin.version, error=reason)
    taken.update(dict.fromkeys(names, f"{plugin.distribution} ({plugin.name})"))
    return plugin
