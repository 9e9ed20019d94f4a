"""Preference vectors: φ = θ₊ − θ₋ as tensors, with its extraction, storage and algebra.

What needs torch is loaded when it is first used: adding stored vectors up does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefreg.vectors.dense import DenseVector
    from prefreg.vectors.extraction import Extraction, extract, extract_factors, extract_folders
    from prefreg.vectors.factors import Factors
    from prefreg.vectors.kinds import Vector
    from prefreg.vectors.lowrank import LowRankVector, write_low_rank
    from prefreg.vectors.opening import open_vector
    from prefreg.vectors.pole_tensors import CheckpointTensors, MemoryTensors, TensorSource
    from prefreg.vectors.tensors import read_tensor
    from prefreg.vectors.writing import WrittenFile, write_dense

_HOMES = {
    "CheckpointTensors": "prefreg.vectors.pole_tensors",
    "DenseVector": "prefreg.vectors.dense",
    "Extraction": "prefreg.vectors.extraction",
    "Factors": "prefreg.vectors.factors",
    "LowRankVector": "prefreg.vectors.lowrank",
    "MemoryTensors": "prefreg.vectors.pole_tensors",
    "TensorSource": "prefreg.vectors.pole_tensors",
    "Vector": "prefreg.vectors.kinds",
    "WrittenFile": "prefreg.vectors.writing",
    "extract": "prefreg.vectors.extraction",
    "extract_factors": "prefreg.vectors.extraction",
    "extract_folders": "prefreg.vectors.extraction",
    "open_vector": "prefreg.vectors.opening",
    "read_tensor": "prefreg.vectors.tensors",
    "write_dense": "prefreg.vectors.writing",
    "write_low_rank": "prefreg.vectors.lowrank",
}

__all__ = [
    "CheckpointTensors",
    "DenseVector",
    "Extraction",
    "Factors",
    "LowRankVector",
    "MemoryTensors",
    "TensorSource",
    "Vector",
    "WrittenFile",
    "extract",
    "extract_factors",
    "extract_folders",
    "open_vector",
    "read_tensor",
    "write_dense",
    "write_low_rank",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
