"""The hooks that a plugin can implement."""

from collections.abc import Iterable

import pluggy

from prefreg.axes import Axis

ENTRY_POINT_GROUP = "prefreg"

hookspec = pluggy.HookspecMarker("prefreg")
hookimpl = pluggy.HookimplMarker("prefreg")


@hookspec
def prefreg_register_axes() -> Iterable[Axis]:  # type: ignore[empty-body]
    """Return the axes that this plugin brings."""
