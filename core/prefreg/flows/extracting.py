"""Take φ out of a trained pair, in the base's names on disk, and say what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints import BaseModel, on_disk_names
from prefreg.training.pair import PairResult
from prefreg.vectors import Extraction, MemoryTensors, extract, extract_factors


def extract_pair(base: BaseModel, result: PairResult, blob: Path, dtype: str) -> Extraction:
    """Store φ of whole weights in `dtype`, or that of adapters by their factors."""
    if result.lora is not None:
        return extract_factors(
            positive=result.lora.factors(result.positive.weights),
            negative=result.lora.factors(result.negative.weights),
            destination=blob,
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in result.base.items()}
    names = on_disk_names(shapes, result.prefix, base.checkpoint)

    def named(weights: Mapping[str, torch.Tensor]) -> MemoryTensors:
        return MemoryTensors({names[name]: tensor for name, tensor in weights.items()})

    return extract(
        positive=named(result.positive.weights),
        negative=named(result.negative.weights),
        reference=named(result.base),
        destination=blob,
        dtype=dtype,
    )


def geometry(extraction: Extraction) -> dict[str, Any]:
    """Return what a version's record keeps of the measurements."""
    return {
        "norm": extraction.norm,
        "positive_norm": extraction.positive_norm,
        "negative_norm": extraction.negative_norm,
        "cosine_poles": extraction.cosine_poles,
        "zeros": extraction.zeros,
        "storage_error": extraction.storage_error,
        "norms": dict(extraction.norms),
    }
