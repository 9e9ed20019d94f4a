"""The correlation stress test: two axes are labelled on the same prompts, alike more and more."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prefreg.axes.axis import Axis, PreferencePair, SourceRequest
from prefreg.axes.base_world import BaseWorld
from prefreg.axes.isolation import label_rows, read_source
from prefreg.axes.plugins import find_axis
from prefreg.axes.row_sources import read_rows
from prefreg.data.pairs import PairSet, build_pairs, fingerprint_pairs, measure_length
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.consistency import cosines
from prefreg.evaluation.paper.catalogue import experiment_axes
from prefreg.evaluation.paper.reproduce import (
    ExperimentRun,
    Panel,
    SeedFigures,
    Vectors,
    add_curves,
)
from prefreg.evaluation.paper.run_folder import Findings, view
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.seed_runs import given_pairs, group_of
from prefreg.evaluation.statistics import Estimate, show, spearman
from prefreg.files import write_json_lines
from prefreg.registry import VersionRecord
from prefreg.training.add_axis import prepare
from prefreg.vectors import Vector
from prefreg.vectors.algebra import gram
from prefreg.vectors.stored import blocks

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
ETA = 0.5
"""Of each dial, so that two vectors that are the same are not turned beyond 1."""
ORTHOGONAL = 0.2
"""The largest cosine of vectors that count as apart."""
QUADRANTS = {
    "together": ((1.0, 1.0, 1.0), (-1.0, -1.0, -1.0)),
    "apart": ((1.0, 1.0, -1.0), (-1.0, -1.0, 1.0)),
}
"""Weight and signs of both dials: turned alike, and against each other."""
LONGER_PREFERRED = "longer_was_human_preferred"
FEWEST = 20
"""Fewer pairs of either kind are not worth a training."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Pairs as the first axis labels them, by whether the second one agrees.

    Where both lists are of the same prompts, in their order, so is every level of agreement.
    """

    agreeing: Sequence[PreferencePair]
    disagreeing: Sequence[PreferencePair]
    same_prompts: bool

    def at(self, rho: float, count: int, seed: int) -> dict[PreferencePair, bool]:
        """Draw `count` pairs whose labels agree with probability (1 + ρ)/2: pair to agreement."""
        draw = random.Random(f"correlation/{rho:g}/{seed}")
        wanted = round(count * (1 + rho) / 2)
        if self.same_prompts:
            chosen = set(draw.sample(range(count), wanted))
            pairs = [
                (self.agreeing[place], True)
                if place in chosen
                else (self.disagreeing[place], False)
                for place in range(count)
            ]
        else:
            pairs = [(pair, True) for pair in draw.sample(list(self.agreeing), wanted)]
            rest = draw.sample(list(self.disagreeing), count - wanted)
            pairs += [(pair, False) for pair in rest]
        return dict(pairs)

    def cut(self) -> tuple["Crossing", tuple[PairSet, PairSet]]:
        """Take a tenth of the groups out for measuring, labelled by each axis."""
        whole = dict.fromkeys(self.agreeing, True) | dict.fromkeys(self.disagreeing, False)
        held = set(build_pairs(whole, axis_name="held-out", seed=0).heldout)
        groups = {group_of(pair) for pair in held}

        def rest(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
            return [pair for pair in pairs if group_of(pair) not in groups]

        kept = {pair: agrees for pair, agrees in whole.items() if pair in held}
        sets = pair_sets(kept, ("first", "second"), 0)
        return Crossing(rest(self.agreeing), rest(self.disagreeing), self.same_prompts), sets

    @property
    def most(self) -> int:
        """Return the largest count that every level of agreement can have."""
        return min(len(self.agreeing), len(self.disagreeing))


def cross_world(
    world: BaseWorld, first: str, second: str, *, seed: int, limit: int | None
) -> Crossing:
    """Make pairs of a world, every level of agreement on the same prompts."""
    rows = list(world.crossed_rows(first, second, seed=seed, limit=limit))

    def pairs(which: str) -> list[PreferencePair]:
        return [
            PreferencePair.from_texts(
                prompt=row.prompt, chosen=answers[0], rejected=answers[1], group=row.group
            )
            for row in rows
            for answers in [getattr(row, which)]
        ]

    return Crossing(pairs("agreeing"), pairs("disagreeing"), True)


def cross_pack(path: Path, *, by_length: bool) -> Crossing:
    """Read pairs of which the longer answer is chosen, and whether people preferred it.

    The first axis is that of the length, or else that of the people.
    """
    agreeing: list[PreferencePair] = []
    disagreeing: list[PreferencePair] = []
    for _, row in read_rows(path):
        preferred = row.get(LONGER_PREFERRED)
        if isinstance(preferred, bool):
            pair = PreferencePair.from_row(row)
            if preferred:
                agreeing.append(pair)
            else:
                disagreeing.append(pair if by_length else pair.switched())
    return _natural(agreeing, disagreeing, f"{path} (column {LONGER_PREFERRED!r})")


def cross_source(first: Axis, second: Axis, *, limit: int | None, seed: int) -> Crossing:
    """Label the rows of the first axis's source by both rules; ties of either are left out."""
    name = next(iter(first.sources))
    rows = list(read_source(first, name, SourceRequest(limit, None, seed)).rows)
    agreeing, disagreeing = [], []
    for one, other in zip(label_rows(first, rows), label_rows(second, rows), strict=True):
        if one is None or other is None:
            continue
        if one == other:
            agreeing.append(one)
        elif one == other.switched():
            disagreeing.append(one)
    return _natural(agreeing, disagreeing, f"{name}, labelled by {first.name} and {second.name}")


def _natural(
    agreeing: list[PreferencePair], disagreeing: list[PreferencePair], where: str
) -> Crossing:
    if min(len(agreeing), len(disagreeing)) < FEWEST:
        raise DataError(
            f"{where}: {len(agreeing)} pairs agree and {len(disagreeing)} do not; at least "
            f"{FEWEST} of either are needed. Take other data or axes."
        )
    return Crossing(agreeing, disagreeing, False)


def pair_sets(
    chosen: dict[PreferencePair, bool], names: tuple[str, str], seed: int
) -> tuple[PairSet, PairSet]:
    """Make the pairs of both axes: the same prompts in the same order, the same ones held out."""
    first = build_pairs(chosen, axis_name=names[0], seed=seed)

    def relabelled(pairs: Iterable[PreferencePair]) -> tuple[PreferencePair, ...]:
        return tuple(pair if chosen[pair] else pair.switched() for pair in pairs)

    train, heldout = relabelled(first.train), relabelled(first.heldout)
    second = PairSet(
        train,
        heldout,
        fingerprint_pairs([*train, *heldout]),
        replace(first.audit, **asdict(measure_length([*train, *heldout]))),
    )
    return first, second


def write_pairs(pairs: PairSet, path: Path) -> None:
    """Write all pairs of a set down, as a file that `add-axis --data` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, (pair.to_row() for pair in (*pairs.train, *pairs.heldout)))


@dataclass(frozen=True, slots=True)
class Level:
    """The vectors of one level of agreement, and how they lie to each other."""

    rho: float
    vectors: Vectors
    pairs: int
    reached: list[float]
    """ρ of the pairs that were trained on, by seed."""
    cosines: list[float]
    """Of the two axes, by seed."""
    differences: list[float] | None
    """At ρ = ±1, the largest difference of a number of φ from ± the other one, by seed."""


def run(experiment: ExperimentRun) -> Findings:
    """Train both axes at every level and seed, and turn their dials alike and apart."""
    first, second = experiment.axes
    cross, heldout = _crossing(experiment)
    levels = [_train(experiment, rho, cross) for rho in LEVELS]
    opened = experiment.measure(levels[0].vectors, heldout)
    found = Findings(experiment.recipe(opened, f"Dials at ±{ETA:g}."))
    measured = [replace(opened, vectors=level.vectors) for level in levels]
    for one in measured:
        one.visit([{first: a, second: b} for a in (-ETA, ETA) for b in (-ETA, ETA)] + [{}])
    _add_identity(found, levels)
    _add_cosines(found, levels)
    steering = {
        axis: _add_steering(found, levels, measured, axis, other)
        for axis, other in experiment.directions
    }
    _draw(experiment, found, levels, steering)
    if experiment.base.world is not None and experiment.request.data is None:
        by_people, by_length = experiment_axes("correlation")
        found.claim(
            f"real check: {by_people} and {by_length} by whether people preferred the longer "
            "answer",
            None,
            "skipped, as it needs real pairs: give --data PACK and --base",
        )
    return found


def _crossing(
    experiment: ExperimentRun,
) -> tuple[Callable[[int], Crossing], dict[str, HeldOut] | None]:
    """Choose where the labels of both axes come from, and what is held out of them."""
    first, second = experiment.axes
    if experiment.request.data is not None:
        by_people, by_length = experiment_axes("correlation")
        if {first, second} != {by_people, by_length}:
            raise UsageError(
                "A pack says of longer answers whether people preferred them: leave --axes out, or "
                f"write --axes {by_people},{by_length}."
            )
        path = experiment.pack_file(by_length, "train")
        natural = cross_pack(path, by_length=first == by_length)
        return lambda seed: natural, None
    limit = experiment.request.limit
    if (world := experiment.base.world) is not None:
        return lambda seed: cross_world(world, first, second, seed=seed, limit=limit), None
    axes = [find_axis(name).installed.axis for name in experiment.axes]
    rest, kept = cross_source(axes[0], axes[1], limit=limit, seed=experiment.seeds[0]).cut()
    heldout = {}
    for name, pairs in zip(experiment.axes, kept, strict=True):
        write_pairs(pairs, experiment.folder / "pairs" / f"heldout-{name}.jsonl")
        both = (*pairs.train, *pairs.heldout)
        heldout[name] = HeldOut(both[: experiment.request.prompts], f"held out, for {name}")
    return lambda seed: rest, heldout


def _train(experiment: ExperimentRun, rho: float, cross: Callable[[int], Crossing]) -> Level:
    vectors: dict[tuple[str, int], VersionRecord] = {}
    reached, turned, differences, count = [], [], [], 0
    for seed in experiment.seeds:
        crossing = cross(seed)
        count = min(crossing.most, experiment.request.limit or crossing.most)
        chosen = crossing.at(rho, count, seed)
        sets = pair_sets(chosen, (experiment.axes[0], experiment.axes[1]), seed)
        reached.append(2 * float(np.mean([chosen[pair] for pair in sets[0].train])) - 1)
        for axis, pairs in zip(experiment.axes, sets, strict=True):
            name = f"rho{rho:+g}-seed{seed}-{axis}.jsonl"
            write_pairs(pairs, experiment.folder / "pairs" / name)
            request = replace(experiment.axis_request(axis, seed), note=f"ρ = {rho:g}")
            given = given_pairs((*pairs.train, *pairs.heldout), name)
            # Both axes have their pairs in the same order.
            prepared = replace(prepare(experiment.own, request, None, given), pairs=pairs)
            vectors[axis, seed] = experiment.obtain(prepared)
        both = [vectors[axis, seed] for axis in experiment.axes]
        cosine, difference = _compare(experiment, both, 1.0 if rho > 0 else -1.0)
        turned.append(cosine)
        differences.append(difference)
    certain = abs(rho) == 1
    return Level(rho, vectors, count, reached, turned, differences if certain else None)


def _compare(
    experiment: ExperimentRun, records: Sequence[VersionRecord], sign: float
) -> tuple[float, float]:
    """Return the cosine of two vectors, and how far one is from ± the other, number by number."""
    with experiment.own.reading() as store:
        sources = [(each, store.vector_source(each)) for each in records]
    with opened_vectors(sources) as (one, other):
        products = np.sum([each.numpy() for each in gram([one, other]).values()], axis=0)
        return float(cosines(products)[0, 1]), _distance(one, other, sign)


def _distance(one: Vector, other: Vector, sign: float) -> float:
    if sorted(one.names) != sorted(other.names):
        return float("inf")
    furthest = 0.0
    for name in one.names:
        for start, stop in blocks(int(np.prod(one.shape(name)))):
            both = (one.block(name, start, stop), sign * other.block(name, start, stop))
            furthest = max(furthest, float(torch.sub(*both).abs().max()))
    return furthest


def _add_identity(found: Findings, levels: Sequence[Level]) -> None:
    for level in levels:
        if level.differences is None:
            continue
        same = "the same" if level.rho > 0 else "the negative of each other"
        found.claim(
            f"at ρ = {level.rho:g} and equal seed the vectors are {same}, bit for bit",
            not any(level.differences),
            f"largest difference of a number {max(level.differences):.3g}, over "
            f"{len(level.differences)} seeds",
        )


def _add_cosines(found: Findings, levels: Sequence[Level]) -> None:
    seeds = list(zip(*(level.cosines for level in levels), strict=True))
    rising = [spearman([round(value, 6) for value in values]) for values in seeds]
    middle = next(level for level in levels if level.rho == 0)
    found.claim(
        "the cosine of the vectors rises with ρ at every step and seed",
        min(rising) == 1,
        ", ".join(f"{np.mean(level.cosines):.2f} at {level.rho:g}" for level in levels),
    )
    found.claim(
        f"labels without correlation give vectors apart, |cos| ≤ {ORTHOGONAL}",
        max(map(abs, middle.cosines)) <= ORTHOGONAL,
        ", ".join(f"{value:.3f}" for value in middle.cosines) + " by seed",
    )
    found.data["levels"] = [
        {
            "rho": level.rho,
            "pairs": level.pairs,
            "reached": level.reached,
            "cosines": level.cosines,
            "differences": level.differences,
            "versions": {
                f"{axis}, seed {seed}": str(record)
                for (axis, seed), record in level.vectors.items()
            },
        }
        for level in levels
    ]
    rows = [
        (
            f"{level.rho:g}",
            str(level.pairs),
            ", ".join(f"{value:.3f}" for value in level.reached),
            ", ".join(f"{value:.3f}" for value in level.cosines),
        )
        for level in levels
    ]
    headers = ("ρ asked", "pairs", "ρ of the training pairs, by seed", "cosine of φ, by seed")
    found.table("How the vectors lie to each other", headers, rows)


def _add_steering(
    found: Findings, levels: Sequence[Level], measured: Sequence[SeedFigures], axis: str, other: str
) -> Mapping[str, Mapping[float, Estimate]]:
    metric = measured[0].own(axis)
    kept: dict[str, dict[float, Estimate]] = {name: {} for name in QUADRANTS}
    for level, one in zip(levels, measured, strict=True):
        for name, parts in QUADRANTS.items():
            value = one.contrast(
                metric,
                [(weight, {axis: a * ETA, other: b * ETA}) for weight, a, b in parts],
            )
            if value is not None:
                kept[name][level.rho] = value
    inner = [kept[name].get(rho) for name in QUADRANTS for rho in LEVELS if abs(rho) < 1]
    known = [each for each in inner if each is not None]
    least = min(known, key=lambda each: each.value, default=None)
    found.claim(
        f"up to |ρ| = 0.5, {axis} is steered with the {other} dial alike and against it",
        all(each.low > 0 for each in known) if known else None,
        f"{metric.name} moves by {show(least)} {metric.unit} where it moves least",
    )
    found.data[axis] = {
        "figure": metric.name,
        "unit": metric.unit,
        **{
            name: {f"{rho:g}": view(v) for rho, v in values.items()}
            for name, values in kept.items()
        },
    }
    rows = [(f"{rho:g}", *(show(kept[name].get(rho)) for name in QUADRANTS)) for rho in LEVELS]
    title = f"What both dials do to {metric.name}, {metric.unit}"
    headers = ("ρ", "both up, less both down", f"{axis} up and {other} down, less the reverse")
    found.table(title, headers, rows)
    return kept


def _draw(
    experiment: ExperimentRun,
    found: Findings,
    levels: Sequence[Level],
    steering: Mapping[str, Mapping[str, Mapping[float, Estimate]]],
) -> None:
    points = {
        level.rho: Estimate(float(np.mean(found)), min(found), max(found), len(found))
        for level in levels
        for found in [level.cosines]
    }
    panels = {
        "orthogonality": Panel(
            "cosine of the two vectors", [Curve("mean and range over seeds", points)]
        )
    }
    for axis, other in experiment.directions:
        labels = {"together": f"{other} dial alike", "apart": f"{other} dial against it"}
        curves = [Curve(labels[name], values) for name, values in steering[axis].items()]
        kept = found.data[axis]
        panels[f"steering {axis}"] = Panel(f"change of {kept['figure']}, {kept['unit']}", curves)
    add_curves(
        found,
        experiment,
        panels,
        title="Labels that agree more and more",
        legend="Bands are 95 % intervals, or the range over seeds.",
        across="ρ = 2·P(labels agree) − 1",
    )
