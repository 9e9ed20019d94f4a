"""The hooks that a plugin can implement."""

from collections.abc import Iterable

import pluggy

from prefreg.axes.axis import Axis
from prefreg.axes.bundled_base import BundledBase
from prefreg.axes.methods import Method

ENTRY_POINT_GROUP = "prefreg"

hookspec = pluggy.HookspecMarker("prefreg")
hookimpl = pluggy.HookimplMarker("prefreg")


@hookspec
def prefreg_register_axes() -> Iterable[Axis]:  # type: ignore[empty-body]
    """Return the axes that this plugin brings."""


@hookspec
def prefreg_register_methods() -> Iterable[Method]:  # type: ignore[empty-body]
    """Return the methods of combining vectors that this plugin brings."""


@hookspec
def prefreg_register_bases() -> Iterable[BundledBase]:  # type: ignore[empty-body]
    """Return the base models that this plugin brings."""
