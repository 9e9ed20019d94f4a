"""Composing θ = θ_base + Σ ηᵢ·φᵢ: the plan, the arithmetic, and the folder it is written to."""

from prefreg.composition.engine import compose_tensor
from prefreg.composition.memory import compose_state
from prefreg.composition.output import Composed, write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.survival import Survival

__all__ = [
    "Composed",
    "Plan",
    "PlannedTerm",
    "Survival",
    "compose_state",
    "compose_tensor",
    "write_composition",
]
