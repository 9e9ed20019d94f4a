"""Load plugins, so that what goes wrong in one is told and harms no other."""

import importlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import TypeVar

import pluggy

from prefreg.axes import hookspecs
from prefreg.axes.axis import Axis
from prefreg.axes.catalog import AxisCatalog, Plugin
from prefreg.axes.discovery import FoundPlugin, find_plugins, read_disabled
from prefreg.axes.isolation import off_stdout, reason
from prefreg.axes.methods import Method
from prefreg.errors import AxisError

_T = TypeVar("_T")


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


def read_plugin(module: ModuleType | object, name: str) -> tuple[Axis, ...]:
    """Register one plugin on a manager of its own and collect its axes."""
    hooks = hooks_of(module, name)
    hook = hooks.prefreg_register_axes
    if not hook.get_hookimpls():
        if hooks.prefreg_register_methods.get_hookimpls():
            return ()
        raise AxisError("it implements no hook; mark prefreg_register_axes with @prefreg.hookimpl")
    # pluggy leaves an answer of None out.
    answers = hook() or [None]
    return collect(answers, Axis, hook="prefreg_register_axes", what="axes")


def collect(answers: Iterable[object], kind: type[_T], *, hook: str, what: str) -> tuple[_T, ...]:
    """Join the lists that the implementations of a hook returned."""
    found: list[_T] = []
    for answer in answers:
        if isinstance(answer, kind) or not isinstance(answer, Iterable):
            raise AxisError(f"{hook} returned {answer!r:.80}, not a list of {what}")
        for item in answer:
            if not isinstance(item, kind):
                raise AxisError(f"{hook} returned {item!r:.80}, which is no {kind.__name__}")
            found.append(item)
    return tuple(found)


def hooks_of(module: ModuleType | object, name: str) -> pluggy.HookRelay:
    """Register one plugin on a manager of its own."""
    manager = pluggy.PluginManager("prefreg")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    return manager.hook


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what a plugin prints and warns of out of what a command writes."""
    with off_stdout(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(found: FoundPlugin) -> Plugin:
    plugin = Plugin(found.name, found.distribution, found.version, error=found.problem)
    if found.point is None or found.problem is not None:
        return plugin
    try:
        with quietly():
            axes = read_plugin(target_of(found.point), found.name)
            owned = tuple(replace(axis, owner=str(plugin)) for axis in axes)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the command line.
        return replace(plugin, error=reason(error))
    return replace(plugin, axes=owned)


def target_of(point: EntryPoint) -> object:
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


def load_methods() -> tuple[dict[str, Method], tuple[str, ...]]:
    """Return the methods of every plugin that may be loaded, and what is wrong with the others.

    Of two methods with one name, the first is taken, as with axes.
    """
    disabled = read_disabled()
    methods: dict[str, Method] = {}
    problems = []
    for found in find_plugins():
        if found.point is None or not disabled.isdisjoint(found.keys):
            continue
        if found.problem is not None:
            problems.append(f"{found.name} ({found.problem})")
            continue
        try:
            with quietly():
                for method in read_methods(target_of(found.point), found.name):
                    methods.setdefault(method.name, method)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the command line.
            problems.append(f"{found.name} ({reason(error)})")
    return methods, tuple(problems)


def read_methods(module: ModuleType | object, name: str) -> tuple[Method, ...]:
    """Register one plugin on a manager of its own and collect its methods."""
    answers = hooks_of(module, name).prefreg_register_methods()
    return collect(answers, Method, hook="prefreg_register_methods", what="methods")
