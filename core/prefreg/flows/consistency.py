"""How consistent an axis is: the vectors of several seeds, measured against each other."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prefreg.checkpoints import BaseModel
from prefreg.data.tokens import tokenize_pairs
from prefreg.errors import VectorError
from prefreg.evaluation.consistency import (
    Agreement,
    Energy,
    Matrix,
    agreement,
    by_layer,
    cosines,
    effect_correlation,
    energy,
    mean_cosine,
)
from prefreg.evaluation.statistics.jackknife import Spread, spearman_brown
from prefreg.flows.access import Access
from prefreg.flows.seed_runs import ConsistencyRequest, ProgressFor, Run, SeedRuns, gather_runs
from prefreg.flows.steering import make_dials
from prefreg.scoring.log_probs import answer_log_probs, margins
from prefreg.training.loading import load_limits, load_model, load_tokenizer, on_gpu, quiet
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.gram import gram

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

    def as_dict(self) -> dict[str, Any]:
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
    progress: ProgressFor | None = None,
    note: Callable[[str], None] | None = None,
) -> Consistency:
    """Find or train the vectors of all seeds and compare them.

    Raises:
        UsageError: The seeds or the scratch registry are not usable.
        VectorError: The vectors are not of one base, or one of them is zero.
        PrefregError: Whatever adding the axis raises.
    """
    found = gather_runs(access, request, progress, note)
    with ExitStack() as stack:
        vectors = [_open(run) for run in found.runs]
        for vector in vectors:
            stack.callback(vector.close)
        tensors = {name: products.numpy() for name, products in gram(vectors).items()}
        whole = np.sum(list(tensors.values()), axis=0)
        if not np.all(np.diag(whole) > 0):
            raise VectorError("A vector is zero, so it has no direction to compare.")
        changes = _margin_changes(found, vectors)
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


def _open(run: Run) -> Vector:
    return open_vector(run.source, kind=run.record.kind, label=f"The vector of {run.record}")


def _margin_changes(found: SeedRuns, vectors: Sequence[Vector]) -> Matrix:
    """Return what each vector (row) changes in the margin of each held-out pair, in nats."""
    if not found.heldout:
        return np.zeros((len(vectors), 0))
    base: BaseModel = found.base
    tokens = tokenize_pairs(
        found.heldout,
        load_tokenizer(base),
        max_length=found.max_length,
        vocabulary=load_limits(base)[1],
    ).pairs
    with quiet():
        model = on_gpu(load_model(base))
    dials = make_dials(model, base)
    before = margins(answer_log_probs(model, tokens))
    rows = []
    for vector in vectors:
        dials.apply([(1.0, vector)])
        rows.append((margins(answer_log_probs(model, tokens)) - before).numpy())
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
