"""The correlation stress test: two axes are labelled on the same prompts, alike more and more."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prefreg.axes.find import find_axis
from prefreg.errors import UsageError
from prefreg.evaluation.consistency import cosines
from prefreg.evaluation.paper.catalogue import experiment_axes
from prefreg.evaluation.paper.crossing import (
    Crossing,
    cross_pack,
    cross_source,
    cross_world,
    pair_sets,
    write_pairs,
)
from prefreg.evaluation.paper.findings import Claim, Findings, Table, show, view
from prefreg.evaluation.paper.lab import Laboratory, Measuring, Panel, add_curves
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate, spearman
from prefreg.registry import VersionRecord
from prefreg.training.add_axis import prepare
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.algebra import gram
from prefreg.vectors.dense import blocks

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


@dataclass(frozen=True, slots=True)
class Level:
    """The vectors of one level of agreement, and how they lie to each other."""

    rho: float
    vectors: Mapping[tuple[str, int], VersionRecord]
    pairs: int
    reached: list[float]
    """ρ of the pairs that were trained on, by seed."""
    cosines: list[float]
    """Of the two axes, by seed."""
    differences: list[float] | None
    """At ρ = ±1, the largest difference of a number of φ from ± the other one, by seed."""


def run(lab: Laboratory) -> Findings:
    """Train both axes at every level and seed, and turn their dials alike and apart."""
    first, second = lab.axes
    heldout: dict[str, Path] = {}
    cross = _crossing(lab, heldout)
    levels = [_train(lab, rho, cross) for rho in LEVELS]
    opened = lab.measure(levels[0].vectors, files=heldout or None)
    found = Findings(lab.recipe(opened, f"Dials at ±{ETA:g}."))
    measured = [
        Measuring(opened.evaluator, level.vectors, lab.seeds, lab.progress, opened.gauges)
        for level in levels
    ]
    for one in measured:
        one.visit([{first: a, second: b} for a in (-ETA, ETA) for b in (-ETA, ETA)] + [{}])
    _add_identity(found, levels)
    _add_cosines(found, levels)
    steering = {
        axis: _add_steering(found, levels, measured, axis, other)
        for axis, other in _directions(lab)
    }
    _draw(lab, found, levels, steering)
    if lab.base.world is not None and lab.request.data is None:
        by_people, by_length = experiment_axes("correlation")
        found.claims.append(
            Claim(
                f"real check: {by_people} and {by_length} by whether people preferred the longer "
                "answer",
                None,
                "skipped, as it needs real pairs: give --data PACK and --base",
            )
        )
    return found


def _crossing(lab: Laboratory, heldout: dict[str, Path]) -> Callable[[int], Crossing]:
    """Choose where the labels of both axes come from; what is held out is written to files."""
    first, second = lab.axes
    if lab.request.data is not None:
        by_people, by_length = experiment_axes("correlation")
        if {first, second} != {by_people, by_length}:
            raise UsageError(
                "A pack says of longer answers whether people preferred them: leave --axes out, or "
                f"write --axes {by_people},{by_length}."
            )
        natural = cross_pack(lab.pack_file(by_length, "train"), by_length=first == by_length)
    elif (world := lab.base.world) is not None:
        return lambda seed: cross_world(world, first, second, seed=seed, limit=lab.request.limit)
    else:
        axes = [find_axis(name).installed.axis for name in lab.axes]
        whole = cross_source(axes[0], axes[1], limit=lab.request.limit, seed=lab.seeds[0])
        natural, kept = whole.cut()
        for name, pairs in zip(lab.axes, kept, strict=True):
            heldout[name] = write_pairs(pairs, lab.folder / "pairs" / f"heldout-{name}.jsonl")
    return lambda seed: natural


def _train(lab: Laboratory, rho: float, cross: Callable[[int], Crossing]) -> Level:
    vectors: dict[tuple[str, int], VersionRecord] = {}
    reached, turned, differences, count = [], [], [], 0
    for seed in lab.seeds:
        crossing = cross(seed)
        count = min(crossing.most, lab.request.limit or crossing.most)
        chosen = crossing.at(rho, count, seed)
        sets = pair_sets(chosen, (lab.axes[0], lab.axes[1]), seed)
        reached.append(2 * float(np.mean([chosen[pair] for pair in sets[0].train])) - 1)
        for axis, pairs in zip(lab.axes, sets, strict=True):
            name = f"rho{rho:+g}-seed{seed}-{axis}.jsonl"
            file = write_pairs(pairs, lab.folder / "pairs" / name)
            request = replace(lab.axis_request(axis, seed, file), limit=None, note=f"ρ = {rho:g}")
            prepared = replace(prepare(lab.own, request, None), pairs=pairs)
            vectors[axis, seed] = lab.obtain(prepared, request)
        both = [vectors[axis, seed] for axis in lab.axes]
        cosine, difference = _compare(lab, both, 1.0 if rho > 0 else -1.0)
        turned.append(cosine)
        differences.append(difference)
    certain = abs(rho) == 1
    return Level(rho, vectors, count, reached, turned, differences if certain else None)


def _compare(lab: Laboratory, records: Sequence[VersionRecord], sign: float) -> tuple[float, float]:
    """Return the cosine of two vectors, and how far one is from ± the other, number by number."""
    with ExitStack() as stack, lab.own.reading() as store:
        one, other = (
            open_vector(store.vector_source(each), kind=each.kind, label=f"The vector of {each}")
            for each in records
        )
        stack.callback(one.close)
        stack.callback(other.close)
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
        found.claims.append(
            Claim(
                f"at ρ = {level.rho:g} and equal seed the vectors are {same}, bit for bit",
                not any(level.differences),
                f"largest difference of a number {max(level.differences):.3g}, over "
                f"{len(level.differences)} seeds",
            )
        )


def _add_cosines(found: Findings, levels: Sequence[Level]) -> None:
    seeds = list(zip(*(level.cosines for level in levels), strict=True))
    rising = [spearman([round(value, 6) for value in values]) for values in seeds]
    middle = next(level for level in levels if level.rho == 0)
    found.claims += [
        Claim(
            "the cosine of the vectors rises with ρ at every step and seed",
            min(rising) == 1,
            ", ".join(f"{np.mean(level.cosines):.2f} at {level.rho:g}" for level in levels),
        ),
        Claim(
            f"labels without correlation give vectors apart, |cos| ≤ {ORTHOGONAL}",
            max(map(abs, middle.cosines)) <= ORTHOGONAL,
            ", ".join(f"{value:.3f}" for value in middle.cosines) + " by seed",
        ),
    ]
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
    found.tables.append(Table("How the vectors lie to each other", headers, tuple(rows)))


def _add_steering(
    found: Findings, levels: Sequence[Level], measured: Sequence[Measuring], axis: str, other: str
) -> Mapping[str, Mapping[float, Estimate]]:
    gauge = measured[0].own(axis)
    kept: dict[str, dict[float, Estimate]] = {name: {} for name in QUADRANTS}
    for level, one in zip(levels, measured, strict=True):
        for name, parts in QUADRANTS.items():
            value = one.contrast(
                gauge,
                [(weight, {axis: a * ETA, other: b * ETA}) for weight, a, b in parts],
            )
            if value is not None:
                kept[name][level.rho] = value
    inner = [kept[name].get(rho) for name in QUADRANTS for rho in LEVELS if abs(rho) < 1]
    known = [each for each in inner if each is not None]
    least = min(known, key=lambda each: each.value, default=None)
    found.claims.append(
        Claim(
            f"up to |ρ| = 0.5, {axis} is steered with the {other} dial alike and against it",
            all(each.low > 0 for each in known) if known else None,
            f"{gauge.name} moves by {show(least)} {gauge.unit} where it moves least",
        )
    )
    found.data[axis] = {
        "figure": gauge.name,
        "unit": gauge.unit,
        **{
            name: {f"{rho:g}": view(v) for rho, v in values.items()}
            for name, values in kept.items()
        },
    }
    rows = [(f"{rho:g}", *(show(kept[name].get(rho)) for name in QUADRANTS)) for rho in LEVELS]
    title = f"What both dials do to {gauge.name}, {gauge.unit}"
    headers = ("ρ", "both up, less both down", f"{axis} up and {other} down, less the reverse")
    found.tables.append(Table(title, headers, tuple(rows)))
    return kept


def _draw(
    lab: Laboratory,
    found: Findings,
    levels: Sequence[Level],
    steering: Mapping[str, Mapping[str, Mapping[float, Estimate]]],
) -> None:
    points = {level.rho: _over_seeds(level.cosines) for level in levels}
    panels = {
        "orthogonality": Panel(
            "cosine of the two vectors", [Curve("mean and range over seeds", points)]
        )
    }
    for axis, other in _directions(lab):
        labels = {"together": f"{other} dial alike", "apart": f"{other} dial against it"}
        curves = [Curve(labels[name], values) for name, values in steering[axis].items()]
        kept = found.data[axis]
        panels[f"steering {axis}"] = Panel(f"change of {kept['figure']}, {kept['unit']}", curves)
    add_curves(
        found,
        lab,
        panels,
        title="Labels that agree more and more",
        legend="Bands are 95 % intervals, or the range over seeds.",
        across="ρ = 2·P(labels agree) − 1",
    )


def _directions(lab: Laboratory) -> list[tuple[str, str]]:
    """Return each axis with the other one."""
    first, second = lab.axes
    return [(first, second), (second, first)]


def _over_seeds(values: Sequence[float]) -> Estimate:
    """Return a mean with its range over seeds."""
    return Estimate(float(np.mean(values)), min(values), max(values), len(values))
