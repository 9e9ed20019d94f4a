"""Σ ηᵢ·φᵢ as two factors for every linear layer: exact where φ is low-rank, else the nearest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import listed
from prefreg.composition.eta import eta_of, rounded_eta
from prefreg.composition.plan import OpenPlan, Plan, label, opened
from prefreg.errors import UsageError, VectorError
from prefreg.vectors.factors import Factors, Recompressed, concatenate, recompress, truncate
from prefreg.vectors.lowrank import LowRankVector
from prefreg.vectors.pole_tensors import TensorSource
from prefreg.vectors.tensors import is_finite

Part = tuple[float, TensorSource]
"""A coefficient that is not zero, and the vector that it belongs to."""


@dataclass(frozen=True, slots=True)
class Compression:
    """What a bound on the rank cost, as ‖lost‖ / ‖φ‖."""

    max_rank: int
    error: float
    """Over all weights together, those left out included."""
    errors: dict[str, float]
    """By the weight's name on disk."""
    left_out: dict[str, float] = field(default_factory=dict)
    """Weights of dense vectors that no adapter holds, and their shares of the squared error."""

    @property
    def lost(self) -> str:
        """The total and the worst weight, for people."""
        worst, error = max(self.errors.items(), key=lambda item: item[1])
        return f"{self.error:.2e} of φ (worst: {error:.2e} in {worst})"

    @property
    def omitted(self) -> str | None:
        """What was left out, for people."""
        if not self.left_out:
            return None
        most, _ = max(self.left_out.items(), key=lambda item: item[1])
        share = sum(self.left_out.values())
        return (
            f"{len(self.left_out)} weights that are no linear layers, {share:.1%} of the squared "
            f"error, most of it in {most}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values for the recipe."""
        return {
            "max_rank": self.max_rank,
            "error": self.error,
            "errors": self.errors,
            "left_out": self.left_out,
        }


def factor_sum(
    plan: Plan, *, weights: frozenset[str], max_rank: int | None
) -> tuple[dict[str, Factors], Compression | None]:
    """Return the factors of the sum for `weights`, and what a bound on their rank cost.

    Dense vectors need the bound; what they change beside `weights` is left out and told.
    """
    dense = [label(term.record) for term in plan.active if term.record.kind != "low-rank"]
    if dense and max_rank is None:
        raise VectorError(
            f"{listed(dense)} are dense, and an adapter holds two factors for each layer. Bound "
            "their rank with --max-rank, which tells what is lost, or compose a checkpoint (leave "
            "--as adapter out)."
        )
    results: dict[str, Recompressed] = {}
    norms: dict[str, float] = {}
    strangers = []
    with opened(plan) as open_plan:
        for name in sorted({name for term in open_plan.terms for name in term.names}):
            parts = _parts(open_plan, name)
            if not parts:
                continue
            if name in weights:
                results[name] = _factors(name, parts, max_rank)
            elif all(isinstance(vector, LowRankVector) for _, vector in parts):
                strangers.append(name)
            elif norm := float(torch.linalg.vector_norm(_dense(name, parts), dtype=torch.float64)):
                norms[name] = norm
    if strangers:
        raise VectorError(
            f"{listed(strangers)} are no linear layers of {plan.base}, so no adapter can hold "
            "them. Compose a checkpoint: leave --as adapter out."
        )
    if not results:
        why = "The vectors change none of the linear layers" if norms else "Every coefficient is 0"
        raise UsageError(f"{why}, so there is nothing for an adapter to hold.")
    factors = {name: result.factors for name, result in results.items()}
    return factors, None if max_rank is None else _account(max_rank, results, norms)


def _parts(plan: OpenPlan, name: str) -> list[Part]:
    found = []
    for term in plan.terms:
        eta = rounded_eta(eta_of(name, term.planned.eta, term.planned.rules))
        if eta and name in term.names:
            found.append((eta, term.vector))
    return found


def _factors(name: str, parts: Sequence[Part], max_rank: int | None) -> Recompressed:
    thin = [
        vector.factors(name).scaled(eta)
        for eta, vector in parts
        if isinstance(vector, LowRankVector)
    ]
    if len(thin) == len(parts):
        whole = concatenate(thin)
        return Recompressed(whole, 0.0, 0.0) if max_rank is None else recompress(whole, max_rank)
    assert max_rank is not None  # as dense vectors need it
    return truncate(_dense(name, parts), max_rank)


def _dense(name: str, parts: Sequence[Part]) -> torch.Tensor:
    (eta, vector), *others = parts
    total = vector.tensor(name) * eta
    for eta, vector in others:
        total += vector.tensor(name) * eta
    if not is_finite(total):
        raise VectorError(
            f"{name!r} overflows float32 in this composition. Use smaller coefficients."
        )
    return total


def _account(
    max_rank: int, results: dict[str, Recompressed], left_out: dict[str, float]
) -> Compression:
    lost = math.hypot(*(result.error for result in results.values()), *left_out.values())
    whole = math.hypot(*(result.norm for result in results.values()), *left_out.values())
    return Compression(
        max_rank,
        _relative(lost, whole),
        {name: _relative(result.error, result.norm) for name, result in results.items()},
        {name: _relative(norm**2, lost**2) for name, norm in left_out.items()},
    )


def _relative(part: float, whole: float) -> float:
    # Rounded to what the order of summation, which threads may change, leaves untouched.
    return float(f"{part / whole:.6g}") if whole else 0.0
