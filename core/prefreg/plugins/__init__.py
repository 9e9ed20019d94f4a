"""The installed axes: found by entry points, each plugin isolated from every other."""

from prefreg.plugins.catalog import AxisCatalog, InstalledAxis, Plugin
from prefreg.plugins.disabled import disable, enable
from prefreg.plugins.loading import load_axes, read_plugin
from prefreg.plugins.methods import load_methods, read_methods

__all__ = [
    "AxisCatalog",
    "InstalledAxis",
    "Plugin",
    "disable",
    "enable",
    "load_axes",
    "load_methods",
    "read_methods",
    "read_plugin",
]
