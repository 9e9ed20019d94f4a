"""A registry of preference vectors: θ = θ_base + Σ ηᵢ·φᵢ.

What needs torch is loaded when it is first used, so that `import prefreg` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefreg.axes.axis import (
    Axis,
    LicensedSource,
    Message,
    PreferencePair,
    Row,
    SourceRequest,
    SourceRows,
)
from prefreg.axes.hookspecs import hookimpl
from prefreg.axes.methods import Method, MethodInput, MethodOption
from prefreg.errors import (
    AxisError,
    BaseModelError,
    DataError,
    GateError,
    OutputError,
    PrefregError,
    RegistryError,
    TrainingError,
    UsageError,
    VectorError,
)
from prefreg.terms import Term, parse_term

if TYPE_CHECKING:
    from prefreg.api import Registry, open, steer
    from prefreg.axes.row_sources import stream_hub_rows
    from prefreg.axes.yaml_axes import axis_from_yaml

_LAZY = {
    "Registry": "prefreg.api",
    "axis_from_yaml": "prefreg.axes.yaml_axes",
    "open": "prefreg.api",
    "steer": "prefreg.api",
    "stream_hub_rows": "prefreg.axes.row_sources",
}

__all__ = [
    "Axis",
    "AxisError",
    "BaseModelError",
    "DataError",
    "GateError",
    "LicensedSource",
    "Message",
    "Method",
    "MethodInput",
    "MethodOption",
    "OutputError",
    "PreferencePair",
    "PrefregError",
    "Registry",
    "RegistryError",
    "Row",
    "SourceRequest",
    "SourceRows",
    "Term",
    "TrainingError",
    "UsageError",
    "VectorError",
    "axis_from_yaml",
    "hookimpl",
    "open",
    "parse_term",
    "steer",
    "stream_hub_rows",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'prefreg' has no attribute {name!r}")
