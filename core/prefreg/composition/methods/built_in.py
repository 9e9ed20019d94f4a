"""All methods that come with prefreg."""

from prefreg.composition.methods.dare import DARE, DARE_TIES
from prefreg.composition.methods.gram_schmidt import GRAM_SCHMIDT
from prefreg.composition.methods.linear import LINEAR
from prefreg.composition.methods.shrink import SHRINK
from prefreg.composition.methods.ties import TIES

METHODS = {method.name: method for method in (LINEAR, TIES, DARE, DARE_TIES, GRAM_SCHMIDT, SHRINK)}
"""The methods that come with prefreg, by name."""
