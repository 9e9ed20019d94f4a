"""A registry of preference vectors: θ = θ_base + Σ ηᵢ·φᵢ.

Everything is loaded when it is first used, so that `import prefreg` answers at once.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from prefreg.api import Registry, open, steer
    from prefreg.axes.answer_texts import sounds_refusing
    from prefreg.axes.asking_sources import (
        ContrastSource,
        OnPolicySource,
        RankedSource,
        RewrittenSource,
    )
    from prefreg.axes.axis import (
        AskedBase,
        Axis,
        BaseAnswer,
        LicensedSource,
        Message,
        PreferencePair,
        Row,
        SourceRequest,
        SourceRows,
    )
    from prefreg.axes.bundled_base import BundledBase
    from prefreg.axes.hookspecs import hookimpl
    from prefreg.axes.methods import Method, MethodInput, MethodOption
    from prefreg.axes.row_sources import stream_hub_rows
    from prefreg.axes.yaml_axes import axis_from_yaml
    from prefreg.choosing.choosing_request import TuneRequest
    from prefreg.composition.composition_request import CompositionRequest, ExportRequest
    from prefreg.errors import (
        AxisError,
        BaseModelError,
        BundleError,
        DataError,
        GateError,
        HubError,
        OutputError,
        PrefregError,
        RangeWarning,
        RegistryError,
        TrainingError,
        UsageError,
        VectorError,
    )
    from prefreg.evaluation.evaluation_request import (
        Calibrating,
        Comparing,
        CompressionRequest,
        ConsistencyRequest,
        EvaluationRequest,
        InterferenceRequest,
        Reach,
        ScoreRequest,
        TransportRequest,
    )
    from prefreg.evaluation.paper.run_folder import ReproduceRequest
    from prefreg.models.sampling import Sampling
    from prefreg.serving.serving_request import ServingRequest
    from prefreg.terms import Term, parse_term
    from prefreg.training.axis_request import AxisRequest, ImportRequest, SFTRequest

_HOMES = {
    "api": "Registry open steer",
    "axes.answer_texts": "sounds_refusing",
    "axes.asking_sources": "ContrastSource OnPolicySource RankedSource RewrittenSource",
    "axes.axis": "AskedBase Axis BaseAnswer LicensedSource Message PreferencePair Row "
    "SourceRequest SourceRows",
    "axes.bundled_base": "BundledBase",
    "axes.hookspecs": "hookimpl",
    "axes.methods": "Method MethodInput MethodOption",
    "axes.row_sources": "stream_hub_rows",
    "axes.yaml_axes": "axis_from_yaml",
    "choosing.choosing_request": "TuneRequest",
    "composition.composition_request": "CompositionRequest ExportRequest",
    "errors": "AxisError BaseModelError BundleError DataError GateError HubError OutputError "
    "PrefregError RangeWarning RegistryError TrainingError UsageError VectorError",
    "evaluation.evaluation_request": "Calibrating Comparing CompressionRequest ConsistencyRequest "
    "EvaluationRequest InterferenceRequest Reach ScoreRequest TransportRequest",
    "evaluation.paper.run_folder": "ReproduceRequest",
    "models.sampling": "Sampling",
    "serving.serving_request": "ServingRequest",
    "terms": "Term parse_term",
    "training.axis_request": "AxisRequest ImportRequest SFTRequest",
}

__all__ = [
    "AskedBase",
    "Axis",
    "AxisError",
    "AxisRequest",
    "BaseAnswer",
    "BaseModelError",
    "BundleError",
    "BundledBase",
    "Calibrating",
    "Comparing",
    "CompositionRequest",
    "CompressionRequest",
    "ConsistencyRequest",
    "ContrastSource",
    "DataError",
    "EvaluationRequest",
    "ExportRequest",
    "GateError",
    "HubError",
    "ImportRequest",
    "InterferenceRequest",
    "LicensedSource",
    "Message",
    "Method",
    "MethodInput",
    "MethodOption",
    "OnPolicySource",
    "OutputError",
    "PreferencePair",
    "PrefregError",
    "RangeWarning",
    "RankedSource",
    "Reach",
    "Registry",
    "RegistryError",
    "ReproduceRequest",
    "RewrittenSource",
    "Row",
    "SFTRequest",
    "Sampling",
    "ScoreRequest",
    "ServingRequest",
    "SourceRequest",
    "SourceRows",
    "Term",
    "TrainingError",
    "TransportRequest",
    "TuneRequest",
    "UsageError",
    "VectorError",
    "__version__",
    "axis_from_yaml",
    "hookimpl",
    "open",
    "parse_term",
    "sounds_refusing",
    "steer",
    "stream_hub_rows",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("prefreg")
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"prefreg.{home}"), name)
    raise AttributeError(f"module 'prefreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
