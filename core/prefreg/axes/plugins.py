"""Installed plugins and what they bring; what fails in one harms no other."""

import builtins
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pluggy

from prefreg.axes import hookspecs
from prefreg.axes.axis import Axis
from prefreg.axes.bundled_base import BundledBase
from prefreg.axes.discovery import FoundPlugin, find_plugins, read_disabled
from prefreg.axes.isolation import off_stdout
from prefreg.axes.methods import Method
from prefreg.axes.row_sources import axis_of_rows
from prefreg.axes.yaml_axes import Declaration, read_declaration
from prefreg.errors import AxisError, UsageError, did_you_mean, reason
from prefreg.terms import AXIS_NAME

_T = TypeVar("_T")
_Named = TypeVar("_Named", Method, BundledBase)

_MOST = 10_000
"""Axes or methods of a plugin: a generator without end brings more."""
_YAML_ENDINGS = (".yaml", ".yml")


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

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names and aliases of every working axis."""
        return tuple(self._by_name)

    def is_free(self, name: str) -> bool:
        """Whether a name stands for no plugin and no axis, working or not."""
        idle = (*self.disabled, *self.broken)
        return name not in self._by_name and all(
            name not in (plugin.name, plugin.distribution) for plugin in idle
        )

    def find(self, name: str) -> InstalledAxis:
        """Look an axis up by its name or an alias."""
        if name in self._by_name:
            return self._by_name[name]
        for plugin in (*self.disabled, *self.broken):
            if name in (plugin.name, plugin.distribution):
                raise AxisError(_unusable(name, plugin))
        known = ", ".join(found.axis.name for found in self.axes) or "none"
        meant = did_you_mean(name, self._by_name)
        for state, plugins in (("Broken", self.broken), ("Disabled", self.disabled)):
            if plugins:
                names = ", ".join(plugin.name for plugin in plugins)
                meant += f" {state} plugins: {names} (see prefreg axes)."
        raise AxisError(f"No axis {name!r} is installed. Installed: {known}.{meant}")


@dataclass(frozen=True, slots=True)
class FoundAxis:
    """An axis with where it comes from."""

    installed: InstalledAxis
    declaration: Declaration | None = None
    """The YAML file that declares it, unless a plugin brings it."""


def find_axis(name: str) -> FoundAxis:
    """Find an axis by its name or alias, or read it from a file that ends with .yaml or .yml."""
    if name.endswith(_YAML_ENDINGS):
        declaration = read_declaration(Path(name))
        _check_free(load_axes(), declaration)
        axis, version = declaration.axis, declaration.sha256[:12]
        plugin = Plugin(declaration.file, "YAML file", version, axes=(axis,))
        return FoundAxis(InstalledAxis(axis, plugin), declaration)
    if not AXIS_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no axis name, and no file that ends with .yaml.")
    return FoundAxis(load_axes().find(name))


def declare_axis(name: str) -> FoundAxis:
    """Declare an axis on the spot, of rows as they stand."""
    axis = axis_of_rows(name)
    plugin = Plugin("rows as they stand", "declared on the spot", "-", axes=(axis,))
    return FoundAxis(InstalledAxis(axis, plugin))


def load_axes() -> AxisCatalog:
    """Load every plugin that is neither disabled nor left out by `PREFREG_LOAD_PLUGINS`."""
    disabled = read_disabled()
    taken: dict[str, str] = {}
    plugins = []
    for found in find_plugins():
        if disabled.isdisjoint(found.keys):
            plugins.append(_claim_names(_load(found), taken))
        else:
            plugins.append(Plugin(found.name, found.distribution, found.version, disabled=True))
    return AxisCatalog(plugins)


def load_methods() -> tuple[dict[str, Method], tuple[str, ...]]:
    """Return the methods of every plugin that may be loaded, and what is wrong with the others.

    Of two methods with one name, the first is taken, as with axes.
    """
    return _load_all(read_methods)


def load_bases() -> tuple[dict[str, BundledBase], tuple[str, ...]]:
    """Return the bases of every plugin that may be loaded, and what is wrong with the others.

    Of two bases with one name, the first is taken, as with axes.
    """
    return _load_all(read_bases)


def _load_all(
    read: Callable[[object, str, str], tuple[_Named, ...]],
) -> tuple[dict[str, _Named], tuple[str, ...]]:
    disabled = read_disabled()
    loaded: dict[str, _Named] = {}
    problems = []
    for found in find_plugins():
        if found.point is None or not disabled.isdisjoint(found.keys):
            continue
        if found.problem is not None:
            problems.append(f"{found.name} ({found.problem})")
            continue
        try:
            with _quietly():
                plugin = str(Plugin(found.name, found.distribution, found.version))
                for each in read(_target_of(found.point), found.name, plugin):
                    loaded.setdefault(each.name, each)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the command line.
            problems.append(f"{found.name} ({reason(error)})")
    return loaded, tuple(problems)


def read_plugin(module: ModuleType | object, name: str) -> tuple[Axis, ...]:
    """Register one plugin on a manager of its own and collect its axes."""
    hooks = _hooks_of(module, name)
    hook = hooks.prefreg_register_axes
    if not hook.get_hookimpls():
        others = (hooks.prefreg_register_methods, hooks.prefreg_register_bases)
        if any(other.get_hookimpls() for other in others):
            return ()
        raise AxisError("it implements no hook; mark prefreg_register_axes with @prefreg.hookimpl")
    # pluggy leaves an answer of None out.
    answers = hook() or [None]
    return _collect(answers, Axis, hook="prefreg_register_axes", what="axes")


def read_methods(module: ModuleType | object, name: str, _: str = "") -> tuple[Method, ...]:
    """Register one plugin on a manager of its own and collect its methods."""
    answers = _hooks_of(module, name).prefreg_register_methods()
    return _collect(answers, Method, hook="prefreg_register_methods", what="methods")


def read_bases(module: ModuleType | object, name: str, owner: str) -> tuple[BundledBase, ...]:
    """Register one plugin on a manager of its own and collect its bases; they name `owner`."""
    answers = _hooks_of(module, name).prefreg_register_bases()
    found = _collect(answers, BundledBase, hook="prefreg_register_bases", what="bases")
    return tuple(replace(base, owner=owner) for base in found)


def _unusable(name: str, plugin: Plugin) -> str:
    if plugin.disabled:
        return (
            f"No axis {name!r} is loaded: the {plugin} is disabled. "
            f"Run `prefreg axes --enable {plugin.name}`."
        )
    return f"No axis {name!r} is loaded: the {plugin} is broken: {plugin.error}"


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


def _load(found: FoundPlugin) -> Plugin:
    plugin = Plugin(found.name, found.distribution, found.version, error=found.problem)
    if found.point is None or found.problem is not None:
        return plugin
    try:
        with _quietly():
            axes = read_plugin(_target_of(found.point), found.name)
            owned = tuple(replace(axis, owner=str(plugin)) for axis in axes)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the command line.
        return replace(plugin, error=reason(error))
    return replace(plugin, axes=owned)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what a plugin prints and warns of out of what a command writes.

    What it replaced among the built-in functions and in `json`, and the depth of calls that it
    lowered, come back.
    """
    depth = sys.getrecursionlimit()
    known = [(module, dict(vars(module))) for module in (builtins, json)]
    try:
        with off_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, names in known:
            vars(module).update(names)
        sys.setrecursionlimit(max(depth, sys.getrecursionlimit()))


def _target_of(point: EntryPoint) -> object:
    """Import what an entry point names, and tell a wrong name from what fails inside."""
    module, _, attributes = point.value.partition("[")[0].partition(":")
    module, attributes = module.strip(), attributes.strip()
    if not module:
        raise AxisError(
            f"its entry point {point.name!r} names nothing: write MODULE or MODULE:OBJECT"
        )
    try:
        target: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise AxisError(
                f"its entry point names the module {module!r}, and there is no {error.name!r}"
            ) from error
        raise
    for attribute in filter(None, attributes.split(".")):
        if not hasattr(target, attribute):
            raise AxisError(
                f"its entry point names {module}:{attributes}, which has no {attribute!r}"
            )
        target = getattr(target, attribute)
    return target


def _claim_names(plugin: Plugin, taken: dict[str, str]) -> Plugin:
    """Enter a plugin's names into `taken`, or mark the plugin as broken if one is taken."""
    names = [name for axis in plugin.axes for name in (axis.name, *axis.aliases)]
    for name in names:
        owner = taken.get(name) or (plugin.name if names.count(name) > 1 else None)
        if owner:
            return replace(plugin, axes=(), error=f"claims the name {name!r}, which {owner} has")
    taken.update(dict.fromkeys(names, f"{plugin.distribution} ({plugin.name})"))
    return plugin


def _hooks_of(module: ModuleType | object, name: str) -> pluggy.HookRelay:
    """Register one plugin on a manager of its own."""
    manager = pluggy.PluginManager("prefreg")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    return manager.hook


def _collect(answers: Iterable[object], kind: type[_T], *, hook: str, what: str) -> tuple[_T, ...]:
    """Join the lists that the implementations of a hook returned."""
    found: list[_T] = []
    for answer in answers:
        if isinstance(answer, kind) or not isinstance(answer, Iterable):
            raise AxisError(f"{hook} returned {answer!r:.80}, not a list of {what}")
        for item in answer:
            if not isinstance(item, kind):
                raise AxisError(f"{hook} returned {item!r:.80}, which is no {kind.__name__}")
            found.append(item)
            if len(found) > _MOST:
                raise AxisError(f"{hook} returned more than {_MOST:,} {what}")
    return tuple(found)
