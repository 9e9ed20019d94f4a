"""Base models and poles as they lie on disk: safetensors files, identity, names."""

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor
from prefreg.checkpoints.fingerprint import Fingerprint
from prefreg.checkpoints.tensor_names import on_disk_names

__all__ = [
    "BaseModel",
    "Checkpoint",
    "Fingerprint",
    "StoredTensor",
    "on_disk_names",
    "resolve_base",
]
