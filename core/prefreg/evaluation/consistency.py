"""How much of a vector every seed finds again: signal and noise, by inner products alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prefreg.errors import VectorError
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.evaluation_request import ConsistencyRequest
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.plots import draw_consistency
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.seed_runs import Run, SeedRuns, gather_runs
from prefreg.evaluation.statistics import Spread, jackknife, spearman_brown
from prefreg.evaluation.weight_geometry import layer_order
from prefreg.models.log_probs import margins
from prefreg.progress import Progress
from prefreg.registry import Access
from prefreg.vectors import Vector
from prefreg.vectors.algebra import gram

Matrix = npt.NDArray[np.float64]
"""A row and a column for each vector."""

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the vectors of several seeds share, φ_s = μ + ε_s."""

    signal: Spread
    """‖μ‖²: the mean of ⟨φ_s, φ_t⟩ over s ≠ t, which no noise of a single seed enters."""
    noise: Spread
    """The mean of ‖φ_s‖², less the signal."""
    share: Spread
    """Signal over both; about the cosine to be expected between two seeds."""
    cosine: Spread
    """The mean over s ≠ t."""
    averaged: float
    """The share of signal in the mean of all these vectors, by Spearman and Brown."""


def signal(products: Matrix) -> float:
    """Return the mean inner product of two different vectors."""
    count = len(products)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def power(products: Matrix) -> float:
    """Return the mean square of a vector's length."""
    return float(np.trace(products) / len(products))


def share(products: Matrix) -> float:
    """Return the share of signal in the mean square; 0 where every vector is zero."""
    whole = power(products)
    return signal(products) / whole if whole else 0.0


def cosines(products: Matrix) -> Matrix:
    """Return the cosine of every two vectors; with one of zeros it is 0."""
    lengths = np.sqrt(np.clip(np.diag(products), 0, None))
    lengths = np.where(lengths > 0, lengths, np.inf)
    turned: Matrix = products / np.outer(lengths, lengths)
    return turned


def agreement(products: Matrix) -> Agreement:
    """Measure what the vectors of two or more seeds share."""
    count = len(products)

    def part(chosen: Sequence[int]) -> Matrix:
        return products[np.ix_(chosen, chosen)]

    return Agreement(
        signal=jackknife(count, lambda seeds: signal(part(seeds))),
        noise=jackknife(count, lambda seeds: power(part(seeds)) - signal(part(seeds))),
        share=jackknife(count, lambda seeds: share(part(seeds))),
        cosine=mean_cosine(products),
        averaged=spearman_brown(share(products), count),
    )


def mean_cosine(products: Matrix) -> Spread:
    """Measure the mean cosine of two different vectors."""
    turned = cosines(products)
    return jackknife(len(turned), lambda seeds: signal(turned[np.ix_(seeds, seeds)]))


def by_layer(products: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Add up the inner products of the tensors of each layer, in the order of the model.

    A tensor outside of the layers (embeddings, the last norm, the head) stands alone.
    """
    found: dict[str, Matrix] = {}
    for name, matrix in products.items():
        layer = _LAYER.search(name)
        key = f"layer {layer[1]}" if layer else name.removesuffix(".weight")
        found[key] = found.get(key, np.zeros_like(matrix)) + matrix
    return {layer: found[layer] for layer in sorted(found, key=layer_order)}


@dataclass(frozen=True, slots=True)
class Energy:
    """What both poles did alike, and what they did against each other."""

    common: Spread
    """The mean of ‖(δ₊ + δ₋)/2‖², with δ± = θ± − θ_base."""
    differential: Spread
    """The mean of ‖(δ₊ − δ₋)/2‖², which is ‖φ‖²/4."""
    share: Spread
    """Of the differential part in both."""


def energy(poles: Sequence[tuple[float, float, float]]) -> Energy:
    """Split the mean square length of the poles' changes, given as ‖δ₊‖, ‖δ₋‖ and their cosine."""
    squares = np.array([[plus**2 + minus**2, plus * minus * angle] for plus, minus, angle in poles])
    common = (squares[:, 0] + 2 * squares[:, 1]) / 4
    opposed = (squares[:, 0] - 2 * squares[:, 1]) / 4

    def mean(values: Matrix) -> Spread:
        return jackknife(len(values), lambda seeds: float(values[list(seeds)].mean()), smallest=1)

    def part(seeds: Sequence[int]) -> float:
        chosen = list(seeds)
        return float(opposed[chosen].sum() / (common + opposed)[chosen].sum())

    return Energy(mean(common), mean(opposed), jackknife(len(poles), part, smallest=1))


def effect_correlation(effects: Matrix) -> Spread:
    """Measure how alike the effects of seeds (rows) are over prompts (columns), mean over s ≠ t."""
    if not np.all(effects.std(axis=1) > 0):
        raise ValueError("the effects of a seed do not vary")
    turned: Matrix = np.asarray(np.corrcoef(effects))
    return jackknife(len(turned), lambda seeds: signal(turned[np.ix_(seeds, seeds)]))


FEWEST_PROMPTS = 10
"""A correlation over fewer held-out pairs is not reported."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Vectors of disjoint halves of the pairs, a cosine for each split."""

    cosines: list[float]
    mean: float
    corrected: float
    """What Spearman and Brown predict for two vectors of as many pairs as there are in all."""


@dataclass(frozen=True, slots=True)
class Null:
    """Vectors of shuffled labels, each against those of the seeds."""

    power: list[float]
    """‖φ‖² over the mean of the seeds."""
    cosines: list[float]
    """With the mean of the seeds."""
    effects: list[float] | None
    """The mean margin on held-out pairs over that of the seeds."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the vectors of the seeds do to pairs that none was trained on, at η = 1."""

    pairs: int
    left_out: int
    """Held-out pairs of the first seed that another one trained on."""
    margins: list[float]
    """By seed: the mean change of log p(chosen) − log p(rejected), in nats."""
    correlation: Spread | None
    """Over pairs, the mean between two seeds."""
    reason: str | None
    """Why there is no correlation."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Everything that was found out."""

    axis: str
    base: str
    seeds: list[int]
    pairs: str
    """`same`, or `drawn` where each seed has pairs of its own."""
    runs: list[Run]
    vectors: Agreement
    cosines: list[list[float]]
    layers: dict[str, Spread]
    """The mean cosine between two seeds, of one layer alone."""
    energy: Energy | None
    """None where a pole is the base itself."""
    effects: Effects
    halves: Halves | None
    null: Null | None

    @property
    def interval(self) -> str:
        """What the low and the high value of a figure are."""
        if self.vectors.share.kind == "range":
            return "the range over pairs of seeds, no interval"
        return "95 % intervals, jackknife over seeds"

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        found = {name: getattr(self, name) for name in ("axis", "base", "seeds", "pairs")}
        found["runs"] = [
            {
                "role": run.role,
                "seed": run.seed,
                "version": str(run.record),
                "registry": run.registry,
                "trained": run.trained,
            }
            for run in self.runs
        ]
        found |= asdict(self.vectors) | {"cosines": self.cosines}
        found["layers"] = [
            {"layer": name, "cosine": asdict(spread)} for name, spread in self.layers.items()
        ]
        for name in ("energy", "effects", "halves", "null"):
            part = getattr(self, name)
            found[name] = part and asdict(part)
        return found


def measure_consistency(
    access: Access,
    request: ConsistencyRequest,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Consistency:
    """Find or train the vectors of all seeds and compare them."""
    found = gather_runs(access, request, progress, note)
    with opened_vectors((run.record, run.source) for run in found.runs) as vectors:
        tensors = {name: products.numpy() for name, products in gram(vectors).items()}
        whole = np.sum(list(tensors.values()), axis=0)
        if not np.all(np.diag(whole) > 0):
            raise VectorError("A vector is zero, so it has no direction to compare.")
        changes = _margin_changes(access, found, vectors)
    count = len(request.seeds)
    seeds = whole[:count, :count]
    effects = _effects(changes, found, count)
    return Consistency(
        axis=found.runs[0].record.axis,
        base=found.base.name,
        seeds=list(request.seeds),
        pairs=found.pairs,
        runs=found.runs,
        vectors=agreement(seeds),
        cosines=cosines(seeds).tolist(),
        layers={
            name: mean_cosine(products[:count, :count])
            for name, products in by_layer(tensors).items()
        },
        energy=_energy(found.of("seed")),
        effects=effects,
        halves=_halves(whole, count, request.halves),
        null=_null(whole, changes, count, request.null),
    )


def plot_consistency(found: Consistency, destination: Path) -> None:
    """Draw the cosines of whole vectors, seed by seed, and of every layer."""
    draw_consistency(
        destination,
        title=f"{found.axis} on {found.base}: {len(found.seeds)} seeds",
        caption=f"share of signal {found.vectors.share}; lines are {found.interval}",
        seeds=found.seeds,
        cosines=found.cosines,
        layers=found.layers,
    )


def _margin_changes(access: Access, found: SeedRuns, vectors: Sequence[Vector]) -> Matrix:
    """Return what each vector (row) changes in the margin of each held-out pair, in nats."""
    if not found.heldout:
        return np.zeros((len(vectors), 0))
    axis = found.runs[0].record.axis
    held = HeldOut(tuple(found.heldout), "held out of every seed", found.max_length)
    evaluator = Evaluator(found.base, access, pairs={axis: held}, dtype=torch.float32)
    before = margins(evaluator.log_probs(axis, evaluator.turn([])))
    rows = []
    for vector in vectors:
        turned = margins(evaluator.log_probs(axis, evaluator.turn([(1.0, vector)])))
        rows.append((turned - before).numpy())
    return np.stack(rows)


def _effects(changes: Matrix, found: SeedRuns, count: int) -> Effects:
    seeds = changes[:count]
    correlation, reason = None, None
    if seeds.shape[1] < FEWEST_PROMPTS:
        reason = f"only {seeds.shape[1]} held-out pairs are new to every seed"
    else:
        try:
            correlation = effect_correlation(seeds)
        except ValueError as error:
            reason = str(error)
    return Effects(
        pairs=seeds.shape[1],
        left_out=found.left_out,
        margins=seeds.mean(axis=1).tolist() if seeds.size else [],
        correlation=correlation,
        reason=reason,
    )


def _energy(runs: Sequence[Run]) -> Energy | None:
    """Split the poles' energy by what each version's record holds of their lengths and angle."""
    names = ("positive_norm", "negative_norm", "cosine_poles")
    found = [tuple(run.record.metadata["geometry"][name] for name in names) for run in runs]
    if any(value is None for values in found for value in values):
        return None
    return energy([(plus, minus, angle) for plus, minus, angle in found])


def _halves(whole: Matrix, start: int, splits: int) -> Halves | None:
    if not splits:
        return None
    turned = cosines(whole)
    found = [float(turned[place, place + 1]) for place in range(start, start + 2 * splits, 2)]
    mean = sum(found) / splits
    return Halves(found, mean, spearman_brown(mean, 2))


def _null(whole: Matrix, changes: Matrix, count: int, draws: int) -> Null | None:
    if not draws:
        return None
    places = range(len(whole) - draws, len(whole))
    square = np.trace(whole[:count, :count]) / count
    mean = np.sqrt(whole[:count, :count].sum())
    effect = float(changes[:count].mean()) if changes.size else 0.0
    return Null(
        power=[float(whole[place, place] / square) for place in places],
        cosines=[
            float(whole[place, :count].sum() / (mean * np.sqrt(whole[place, place])))
            for place in places
        ],
        effects=[float(changes[place].mean() / effect) for place in places] if effect else None,
    )
