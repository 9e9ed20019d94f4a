"""Composing θ = θ_base + Σ ηᵢ·φᵢ: the plan, the arithmetic, and the folder it is written to.

Nothing here loads torch before a block needs it: the plain sum of dense vectors does without.
"""

from prefreg.composition.output import Composed, write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.survival import Survival

__all__ = ["Composed", "Plan", "PlannedTerm", "Survival", "write_composition"]
