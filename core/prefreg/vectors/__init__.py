"""Preference vectors: φ = θ₊ − θ₋ as tensors, with its extraction, storage and algebra."""

from prefreg.vectors.dense import DenseVector
from prefreg.vectors.extraction import Extraction, extract, extract_folders
from prefreg.vectors.opening import open_vector
from prefreg.vectors.sources import CheckpointTensors, MemoryTensors, TensorSource
from prefreg.vectors.tensors import read_tensor
from prefreg.vectors.writing import WrittenFile, write_dense

__all__ = [
    "CheckpointTensors",
    "DenseVector",
    "Extraction",
    "MemoryTensors",
    "TensorSource",
    "WrittenFile",
    "extract",
    "extract_folders",
    "open_vector",
    "read_tensor",
    "write_dense",
]
