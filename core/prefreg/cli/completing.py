"""What a shell is offered for values: from the registry and the plugins, without torch."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

import prefreg

if TYPE_CHECKING:
    from prefreg.api import Registry

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _offer(find: "Callable[[Registry, str], Iterable[str]]", *, kind: str = "") -> Offer:
    """Offer what is found in the registry and begins as what was written; beside it files."""

    @wraps(find)
    def complete(
        context: click.Context, _: click.Parameter, written: str
    ) -> list[CompletionItem[str]]:
        items = [CompletionItem(written, type=kind)] if kind else []
        try:
            registry = context.obj.open_registry() if context.obj else prefreg.open()
            found = dict.fromkeys(find(registry, written))
        except Exception:  # there is no place for a message between two keys
            return items
        return [*items, *(CompletionItem(each) for each in found if each.startswith(written))]

    return complete


def _versions(registry: "Registry", written: str) -> Iterator[str]:
    """Name the axes; behind an @, the versions of one and what they are called."""
    axis, at, _ = written.partition("@")
    for version in registry.summaries():
        called = (version.axis, *version.axis_aliases)
        if not at:
            yield from called
        elif axis in called:
            starter = ("starter",) if version.starter else ()
            names = (version.number, *version.aliases, *starter)
            yield from (f"{axis}@{each}" for each in names)


def _presets(registry: "Registry", written: str) -> Iterator[str]:
    """Name the presets; behind an @, the versions of one."""
    name, at, _ = written.partition("@")
    yield from (str(each) if at else each.name for each in registry.presets(name if at else None))


def _terms(registry: "Registry", written: str) -> Iterator[str]:
    yield from _versions(registry, written)
    yield from _presets(registry, written)


def _axes(registry: "Registry", _: str) -> Iterator[str]:
    yield from (report.installed.axis.name for report in registry.axes()[0])


def _stored_axes(registry: "Registry", _: str) -> Iterator[str]:
    yield from (version.axis for version in registry.summaries())


def _axis_list(registry: "Registry", written: str) -> Iterator[str]:
    """Name an axis behind those that are named already."""
    before = written[: written.rfind(",") + 1]
    yield from (f"{before}{name}" for name in _axes(registry, written))


def _bases(registry: "Registry", _: str) -> Iterator[str]:
    from prefreg import api

    yield from api.bundled_bases()
    yield from (base.name for base in registry.bases())


def _methods(_: "Registry", __: str) -> Iterator[str]:
    from prefreg import api

    yield from api.method_names()


def _tags(registry: "Registry", _: str) -> Iterator[str]:
    yield from (tag for version in registry.summaries() for tag in version.tags)


VERSIONS = _offer(_versions)
PRESETS = _offer(_presets)
TERMS = _offer(_terms)
AXES = _offer(_axes, kind="file")
"""Installed ones, or files that declare one."""
STORED_AXES = _offer(_stored_axes)
AXIS_LIST = _offer(_axis_list)
BASES = _offer(_bases, kind="dir")
METHODS = _offer(_methods)
TAGS = _offer(_tags)
