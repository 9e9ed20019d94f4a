"""How vectors of one base lie to each other in the weights: angles, sign conflicts, subspaces.

Subspaces by singular task interference (Gargiulo et al., Task Singular Vectors: Reducing Task
Interference in Model Merging, CVPR 2025): STI = ‖(UᵀU − I)·Σ·(VᵀV − I)‖₁, the sum of absolute
values, with the leading singular directions of all vectors side by side in U and V. It is 0 where
no two vectors share a direction.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray

from prefreg.composition.rounding import group_of
from prefreg.errors import VectorError
from prefreg.evaluation.evaluation_request import Comparing
from prefreg.progress import Progress
from prefreg.vectors.lowrank import LowRankVector, decompose, inner, truncate
from prefreg.vectors.stored import blocks
from prefreg.vectors.tensors import TensorSource

Matrix = NDArray[np.float64]
_TINY = 1e-150
# Directions this weak beside the first are rounding, and point anywhere.
_NOISE = 1e-6
_MOST_PRODUCTS = 1 << 22
"""Inner products of random directions that are in memory at a time, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Sti:
    """Singular task interference, a mean over weights, beside that of random subspaces."""

    value: float
    null: float
    null_low: float
    null_high: float
    """Of random subspaces of the same shapes and spectra: mean and the middle 95 %."""
    p: float
    """Share of them that interfere as much."""

    @property
    def ratio(self) -> float:
        """How many times as much as random subspaces do."""
        return self.value / self.null

    def to_json(self) -> dict[str, float]:
        """Return it in a form that JSON can hold."""
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True, slots=True)
class PairGeometry:
    """Two vectors, by their places."""

    first: int
    second: int
    cosine: float | None
    conflicts: float | None
    conflicting_mass: float | None
    overlap: float | None
    expected_overlap: float | None
    sti: Sti | None


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """One layer, or a module outside the layers."""

    layer: str
    cosines: Matrix
    sti: Sti | None


@dataclass(frozen=True, slots=True)
class WeightGeometry:
    """How vectors lie to each other in the weights."""

    pairs: tuple[PairGeometry, ...]
    """Every two vectors, by their places."""
    layers: tuple[LayerGeometry, ...]
    """In the order of the model, behind what stands outside the layers."""
    sti: Sti | None
    """Of all vectors together; None where they share no matrix."""
    norms: tuple[float, ...]
    skipped: tuple[str, ...]
    """Weights that are no matrices, so that they have angles but no subspaces."""

    def matrix(self, read: Callable[[PairGeometry], float | None]) -> Matrix:
        """Return a figure of every two vectors; NaN on the diagonal and where there is none."""
        found = np.full((len(self.norms),) * 2, np.nan)
        for pair in self.pairs:
            value = read(pair)
            if value is not None:
                found[pair.first, pair.second] = found[pair.second, pair.first] = value
        return found


def compare_in_weights(
    vectors: Sequence[TensorSource],
    etas: Sequence[float],
    comparing: Comparing,
    progress: Progress | None = None,
) -> WeightGeometry:
    """Compare every two of η·φ; each tensor is read once for each of both parts, and let go.

    What is measured of a pair takes products as small as the rank, and its null those of its two
    vectors; the interference of all together grows with the cube of their number.
    """
    alignment = align(vectors, etas)
    couples = list(combinations(range(len(vectors)), 2))
    subspaces = _Subspaces({pair: _Pair() for pair in couples})
    generator = np.random.default_rng(comparing.seed)
    names = sorted({name for vector in vectors for name in vector.names})
    for number, name in enumerate(names, start=1):
        subspaces.add_weight(name, vectors, etas, comparing, generator)
        if progress is not None:
            progress("subspaces", number, len(names))
    total, layers = alignment.total, subspaces.layers
    return WeightGeometry(
        pairs=tuple(
            PairGeometry(
                *pair,
                cosine=number_or_none(total.cosines[pair]),
                conflicts=number_or_none(total.conflicts[pair]),
                conflicting_mass=number_or_none(total.conflicting_mass[pair]),
                overlap=_mean(shared.overlaps),
                expected_overlap=_mean(shared.expected),
                sti=shared.meeting.result(),
            )
            for pair, shared in subspaces.pairs.items()
        ),
        layers=tuple(
            LayerGeometry(layer, sums.cosines, layers[layer].result() if layer in layers else None)
            for layer, sums in alignment.layers.items()
        ),
        sti=subspaces.together.result(),
        norms=tuple(float(norm) for norm in np.sqrt(np.diag(total.products))),
        skipped=tuple(subspaces.skipped),
    )


@dataclass(slots=True)
class _Meeting:
    """Interference summed over weights: real, and of every draw of random subspaces."""

    real: float = 0.0
    null: Matrix = field(default_factory=lambda: np.zeros(1))
    weights: int = 0

    def add(self, real: torch.Tensor, null: torch.Tensor) -> None:
        self.real += float(real)
        self.null = self.null + null.numpy()
        self.weights += 1

    def result(self) -> Sti | None:
        if not self.weights:
            return None
        null, real = self.null / self.weights, self.real / self.weights
        low, high = np.quantile(null, (0.025, 0.975))
        # A draw that differs by its rounding, to float32, is as large.
        reached = int((null >= real * (1 - 1e-5)).sum())
        p = (1 + reached) / (1 + len(null))
        return Sti(real, float(null.mean()), float(low), float(high), p)


@dataclass(slots=True)
class _Pair:
    meeting: _Meeting = field(default_factory=_Meeting)
    overlaps: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Subspaces:
    pairs: dict[tuple[int, int], _Pair]
    together: _Meeting = field(default_factory=_Meeting)
    layers: dict[str, _Meeting] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add_weight(
        self,
        name: str,
        vectors: Sequence[TensorSource],
        etas: Sequence[float],
        comparing: Comparing,
        generator: np.random.Generator,
    ) -> None:
        shape = next(vector.shape(name) for vector in vectors if name in vector.names)
        if len(shape) != 2:
            self.skipped.append(name)
            return
        parts = {}
        for place, (vector, eta) in enumerate(zip(vectors, etas, strict=True)):
            directions = leading_directions(vector, name, comparing.rank)
            if directions is not None:
                parts[place] = directions.scaled(eta)
        if len(parts) < 2:
            return
        real = Interaction.of(list(parts.items()))
        null = random_sti(real, comparing.draws, generator)
        for meeting in (self.together, self.layers.setdefault(layer_of(name), _Meeting())):
            meeting.add(real.sti(), null)
        spectra = {place: part.values for place, part in parts.items()}
        random_pairs = RandomPairs.draw(spectra, real.shape, comparing.draws, generator)
        for pair, found in self.pairs.items():
            if set(pair) <= parts.keys():
                found.meeting.add(
                    real.sti(pair), random_pairs.sti(*pair) if len(parts) > 2 else null
                )
                shared, expected = overlap(*(parts[place] for place in pair))
                found.overlaps.append(shared)
                found.expected.append(expected)


def number_or_none(value: float) -> float | None:
    """Return a figure, or None where it is not defined."""
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


@dataclass(slots=True)
class Sums:
    """What the geometry of some weights is made of, each one number for every two vectors."""

    products: Matrix
    """Inner products."""
    shared: Matrix
    """Weights that both change."""
    opposed: Matrix
    """Of those, weights that they move in opposite directions."""
    mass: Matrix
    """The smaller of both changes, summed over the weights."""
    opposed_mass: Matrix

    @classmethod
    def of(cls, count: int) -> "Sums":
        """Return sums of nothing."""
        return cls(*(np.zeros((count, count)) for _ in range(5)))

    def add(self, other: "Sums") -> None:
        """Add the sums of other weights."""
        for each in fields(self):
            mine: Matrix = getattr(self, each.name)
            mine += getattr(other, each.name)

    @property
    def cosines(self) -> Matrix:
        """The cosine of every two vectors; NaN with one that is zero there."""
        return cosines_of(self.products)

    @property
    def conflicts(self) -> Matrix:
        """Of the weights that both change, the share moved in opposite directions."""
        return _divide(self.opposed, self.shared)

    @property
    def conflicting_mass(self) -> Matrix:
        """The same, a weight counted by the smaller of both changes: what really cancels."""
        return _divide(self.opposed_mass, self.mass)


def cosines_of(products: Matrix) -> Matrix:
    """Return the cosine of every two vectors by their inner products; NaN with one of zeros."""
    norms = np.sqrt(np.diag(products))
    return _divide(products, np.outer(norms, norms))


def _divide(over: Matrix, under: Matrix) -> Matrix:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = over / under
    return found


@dataclass(slots=True)
class Alignment:
    """Geometry of vectors in the weights."""

    total: Sums
    layers: dict[str, Sums] = field(default_factory=dict)
    """By layer, in the order of the model; embeddings and head by the name of their module."""


def layer_of(name: str) -> str:
    """Return the layer of a tensor, as in `layer 7`, or the module of one outside the layers."""
    number = next((part for part in name.split(".") if part.isdecimal()), None)
    return f"layer {int(number)}" if number is not None else group_of(name)


def layer_order(layer: str) -> tuple[int, int, str]:
    """Sort layers by number, behind what stands outside of them."""
    head, _, number = layer.rpartition(" ")
    return (1, int(number), "") if head == "layer" else (0, 0, layer)


def align(vectors: Sequence[TensorSource], etas: Sequence[float]) -> Alignment:
    """Compare every two of η·φ, reading each tensor once and a block at a time.

    A vector is zero where it holds no tensor. Inner products of two low-rank vectors come from
    their factors.
    """
    count = len(vectors)
    layers: dict[str, Sums] = {}
    for name in sorted({name for vector in vectors for name in vector.names}):
        holders = [place for place in range(count) if name in set(vectors[place].names)]
        shapes = {vectors[place].shape(name) for place in holders}
        if len(shapes) > 1:
            raise VectorError(
                f"{name!r} has another shape in one vector than in another: "
                f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}."
            )
        sums = layers.setdefault(layer_of(name), Sums.of(count))
        sums.add(_align_tensor(name, vectors, etas, holders))
    ordered = {layer: layers[layer] for layer in sorted(layers, key=layer_order)}
    total = Sums.of(count)
    for sums in ordered.values():
        total.add(sums)
    return Alignment(total, ordered)


def _align_tensor(
    name: str, vectors: Sequence[TensorSource], etas: Sequence[float], holders: Sequence[int]
) -> Sums:
    sums = Sums.of(len(vectors))
    at = np.ix_(holders, holders)
    for start, stop in blocks(math.prod(vectors[holders[0]].shape(name))):
        rows = torch.stack([vectors[h].block(name, start, stop) * etas[h] for h in holders])
        wide, signs = rows.double(), rows.sign()
        shared = (signs.abs() @ signs.abs().T).double().numpy()
        agreeing = (signs @ signs.T).double().numpy()
        sums.products[at] += (wide @ wide.T).numpy()
        sums.shared[at] += shared
        sums.opposed[at] += (shared - agreeing) / 2
        # min(|a|, |b|) is half of |a| + |b| less their distance. Where signs differ, the distance
        # of a and b is the sum of the sizes, else it is that of the sizes.
        sizes = wide.abs()
        apart, sizes_apart = (torch.cdist(each, each, p=1).numpy() for each in (wide, sizes))
        lengths = sizes.sum(1).numpy()
        off = ~np.eye(len(holders), dtype=bool)
        sums.mass[at] += off * (lengths[:, None] + lengths - sizes_apart) / 2
        sums.opposed_mass[at] += off * (apart - sizes_apart) / 2
    for first, second in product(holders, repeat=2):
        left, right = vectors[first], vectors[second]
        if isinstance(left, LowRankVector) and isinstance(right, LowRankVector):
            exact = inner(left.factors(name), right.factors(name))
            sums.products[first, second] = exact * etas[first] * etas[second]
    return sums


@dataclass(frozen=True, slots=True)
class Directions:
    """The leading singular directions of one vector in one weight, in float64."""

    left: torch.Tensor
    """Orthonormal columns, one a direction; of the outputs."""
    values: torch.Tensor
    right: torch.Tensor
    """The same of the inputs."""

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.values)

    def scaled(self, eta: float) -> "Directions":
        """Return the directions of η·φ; a sign goes to the left."""
        sign = -1.0 if eta < 0 else 1.0
        return Directions(self.left * sign, self.values * abs(eta), self.right)


def leading_directions(vector: TensorSource, name: str, rank: int) -> Directions | None:
    """Return the `rank` leading directions of a matrix; None where the vector is zero there.

    A low-rank vector is decomposed by its factors, without making a matrix of them.
    """
    if name not in set(vector.names):
        return None
    if isinstance(vector, LowRankVector):
        left, values, right = decompose(vector.factors(name))
    else:
        parts = truncate(vector.tensor(name), rank).factors.wide()
        # Each side carries the square root of a singular value.
        roots = parts.b.norm(dim=0).clamp(min=_TINY), parts.a.norm(dim=1).clamp(min=_TINY)
        left, values, right = parts.b / roots[0], roots[0] * roots[1], parts.a.T / roots[1]
    kept = int((values[:rank] > max(_TINY, float(values[0]) * _NOISE)).sum())
    return Directions(left[:, :kept], values[:kept], right[:, :kept]) if kept else None


def overlap(one: Directions, other: Directions) -> tuple[float, float]:
    """Return what two subspaces share, from 0 to 1, and what random ones would on average.

    It is the mean squared cosine of the principal angles, averaged over outputs and inputs.
    """
    smaller, larger = sorted((one.rank, other.rank))
    shared = expected = 0.0
    for left, right in ((one.left, other.left), (one.right, other.right)):
        shared += float((left.T @ right).square().sum()) / smaller / 2
        expected += larger / left.shape[0] / 2
    return shared, expected


@dataclass(frozen=True, slots=True)
class Interaction:
    """Inner products of the directions of several vectors in one weight."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    owners: torch.Tensor
    """The place of the vector that each direction belongs to."""
    shape: tuple[int, int]

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Directions]]) -> "Interaction":
        """Put the directions of vectors side by side; with each goes the vector's place."""
        left = torch.cat([part.left for _, part in parts], 1)
        right = torch.cat([part.right for _, part in parts], 1)
        owners = torch.tensor([place for place, part in parts for _ in range(part.rank)])
        values = torch.cat([part.values for _, part in parts])
        shape = (left.shape[0], right.shape[0])
        return cls(left.T @ left, values, right.T @ right, owners, shape)

    def sti(self, places: Sequence[int] | None = None) -> torch.Tensor:
        """Return the interference of all vectors, or of those at `places`; batches stay batches."""
        left, values, right, owners = self.left, self.values, self.right, self.owners
        if places is not None:
            kept = torch.isin(owners, torch.tensor(list(places)))
            left, right = left[..., kept, :][..., kept], right[..., kept, :][..., kept]
            values, owners = values[kept], owners[kept]
        # The directions of one vector are orthonormal: within it the difference is rounding.
        between = owners[:, None] != owners[None, :]
        product = ((left * between) * values) @ (right * between)
        found: torch.Tensor = product.abs().sum((-2, -1))
        return found


@dataclass(frozen=True, slots=True)
class RandomPairs:
    """Random subspaces of the shapes and spectra of any two of several vectors in one weight.

    The interference of two is ‖A·Σ₂·Bᵀ‖₁ + ‖Aᵀ·Σ₁·B‖₁, with A and B the inner products of the left
    and of the right directions. Each half takes the spectrum of one vector, so that with one draw
    of A and B the work grows with the vectors and not with their pairs.
    """

    left: torch.Tensor
    """A of every draw, as large as the highest rank."""
    right: torch.Tensor
    spectra: Mapping[int, torch.Tensor]
    """Singular values by the place of the vector."""
    _halves: dict[tuple[int, int, bool], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def draw(
        cls,
        spectra: Mapping[int, torch.Tensor],
        shape: tuple[int, int],
        draws: int,
        generator: np.random.Generator,
    ) -> "RandomPairs":
        """Draw the inner products of two random frames on both sides of a weight."""
        rank = max(map(len, spectra.values()))
        left, right = (
            _random_products(rows, (rank, rank), draws, generator)[:, :rank, rank:]
            for rows in shape
        )
        return cls(left, right, {place: values.float() for place, values in spectra.items()})

    def sti(self, first: int, second: int) -> torch.Tensor:
        """Return the interference of every draw, with the spectra of two vectors."""
        ranks = len(self.spectra[first]), len(self.spectra[second])
        return (self._half(second, ranks[0], False) + self._half(first, ranks[1], True)).double()

    def _half(self, place: int, rank: int, turned: bool) -> torch.Tensor:
        key = (place, rank, turned)
        if key not in self._halves:
            values = self.spectra[place]
            left, right = (
                (side.mT if turned else side)[:, :rank, : len(values)]
                for side in (self.left, self.right)
            )
            self._halves[key] = ((left * values) @ right.mT).abs().sum((1, 2))
        return self._halves[key]


def random_sti(real: Interaction, draws: int, generator: np.random.Generator) -> torch.Tensor:
    """Return the interference of as many random sets of subspaces, some at a time."""
    step = max(1, _MOST_PRODUCTS // len(real.owners) ** 2)
    sizes = [min(step, draws - start) for start in range(0, draws, step)]
    parts = [random_interactions(real, size, generator).sti() for size in sizes]
    return torch.cat(parts).double()


def random_interactions(
    real: Interaction, draws: int, generator: np.random.Generator
) -> Interaction:
    """Draw the null: subspaces of the same shapes and spectra, turned at random."""
    ranks = [int((real.owners == place).sum()) for place in dict.fromkeys(real.owners.tolist())]
    left, right = (_random_products(rows, ranks, draws, generator) for rows in real.shape)
    return Interaction(left, real.values.float(), right, real.owners, real.shape)


def _random_products(
    rows: int, ranks: Sequence[int], draws: int, generator: np.random.Generator
) -> torch.Tensor:
    """Return the inner products of random orthonormal frames side by side, of every draw.

    Those of Gaussian columns are distributed as those of their triangular factor (Bartlett 1933),
    so no frame as tall as the weight is made.
    """
    core = _gaussian_core(rows, sum(ranks), draws, generator)
    frame = torch.cat([torch.linalg.qr(part).Q for part in torch.split(core, list(ranks), 2)], 2)
    return frame.mT @ frame


def _gaussian_core(
    rows: int, columns: int, draws: int, generator: np.random.Generator
) -> torch.Tensor:
    """Return matrices whose columns have the inner products of Gaussian ones of `rows` numbers.

    In float32: what is random needs no more, and it takes most of the time of many vectors.
    """
    height = min(rows, columns)
    core = generator.standard_normal((draws, height, columns), dtype=np.float32)
    if rows > columns:
        places = np.arange(columns)
        core = np.triu(core, 1)
        core[:, places, places] = np.sqrt(generator.chisquare(rows - places, (draws, columns)))
    return torch.from_numpy(core)
