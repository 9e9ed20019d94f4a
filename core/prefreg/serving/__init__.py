"""Models with live dials: set η, generate, restore."""

from prefreg.serving.dials import Dials
from prefreg.serving.steered import SteeredModel

__all__ = ["Dials", "SteeredModel"]
