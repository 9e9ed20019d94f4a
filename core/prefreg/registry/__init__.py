"""The registry: versions of preference vectors, their bytes and everything known of them.

Importing this package is cheap; SQLAlchemy is loaded when `Access` or `Store` is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from prefreg.registry.records import (
    INLINE_LIMIT,
    AliasEvent,
    BaseIdentity,
    BaseRecord,
    Copied,
    DiskUse,
    GcReport,
    Measurement,
    NewVersion,
    Preset,
    Problem,
    VersionRecord,
    VersionSummary,
)

if TYPE_CHECKING:
    from prefreg.registry.access import Access
    from prefreg.registry.store import Store
else:

    def __getattr__(name: str) -> object:
        if name in ("Access", "Store"):
            return getattr(import_module(f"prefreg.registry.{name.lower()}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "INLINE_LIMIT",
    "Access",
    "AliasEvent",
    "BaseIdentity",
    "BaseRecord",
    "Copied",
    "DiskUse",
    "GcReport",
    "Measurement",
    "NewVersion",
    "Preset",
    "Problem",
    "Store",
    "VersionRecord",
    "VersionSummary",
]
