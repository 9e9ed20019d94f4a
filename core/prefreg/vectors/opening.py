"""Opening a stored vector of any kind."""

from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.errors import VectorError
from prefreg.vectors.dense import DenseVector

if TYPE_CHECKING:
    from prefreg.vectors.kinds import Vector


def open_vector(source: Path | bytes, *, kind: str = "dense", label: str | None = None) -> "Vector":
    """Open the vector in a file or in a registry's bytes; `label` names it in messages."""
    if kind == "dense":  # which alone needs no torch
        return DenseVector.open(source, label=label)
    from prefreg.vectors.kinds import KINDS

    if kind not in KINDS:
        raise VectorError(
            f"A vector of kind {kind!r} cannot be read by this version of prefreg. Upgrade it."
        )
    return KINDS[kind].open(source, label=label)
