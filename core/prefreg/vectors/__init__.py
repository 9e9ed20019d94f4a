"""Preference vectors: φ = θ₊ − θ₋ as tensors, with its extraction, storage and algebra."""

from prefreg.vectors.dense import DenseVector
from prefreg.vectors.extraction import Extraction, extract, extract_factors, extract_folders
from prefreg.vectors.factors import Factors
from prefreg.vectors.lowrank import LowRankVector, write_low_rank
from prefreg.vectors.opening import Vector, open_vector
from prefreg.vectors.sources import CheckpointTensors, MemoryTensors, TensorSource
from prefreg.vectors.tensors import read_tensor
from prefreg.vectors.writing import WrittenFile, write_dense

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
