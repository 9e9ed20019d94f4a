"""Build hook: a wheel carries the tracked registry as its read-only starter.

An editable install needs no copy, because it finds `registry.db` above the package.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StarterHook(BuildHookInterface):  # type: ignore[type-arg]
    """Add `registry.db` to wheels as `prefreg/starter.db`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the file for a standard build; `version` is "editable" for the other kind."""
        if version == "standard":
            build_data["force_include"]["registry.db"] = "prefreg/starter.db"
