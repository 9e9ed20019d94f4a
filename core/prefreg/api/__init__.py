"""The Python API: a registry with everything that the command line does.

In short:

    import prefreg

    registry = prefreg.open("registry.db")
    registry.compose({"helpful": 1, "harmless": 0.5}, "out")
    registry.load("pocket").set(helpful=1).generate("What colour is the boat?")
"""

from prefreg.api.registry import Registry, open
from prefreg.api.steering import steer
from prefreg.api.vectors import AxisReport

__all__ = ["AxisReport", "Registry", "open", "steer"]
