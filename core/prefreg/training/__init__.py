"""Training the ± pair of an axis."""

from prefreg.training.progress import Progress

__all__ = ["Progress"]
