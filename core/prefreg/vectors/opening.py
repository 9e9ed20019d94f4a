"""Opening a stored vector of whatever kind."""

from pathlib import Path

from prefreg.errors import VectorError
from prefreg.vectors.dense import DenseVector


def open_vector(
    source: Path | bytes, *, kind: str = "dense", label: str | None = None
) -> DenseVector:
    """Open the vector in a file or in a registry's bytes; `label` names it in messages.

    Raises:
        VectorError: It cannot be read, is damaged, or is of a kind that is not known here.
    """
    if kind != "dense":
        raise VectorError(
            f"A vector of kind {kind!r} cannot be read by this version of prefreg. Upgrade it."
        )
    return DenseVector.open(source, label=label)
