"""Controllability: two dials together on a grid of 5 by 5 settings."""

from itertools import product

import numpy as np

from prefreg.evaluation.paper.findings import Claim, Drawn, Findings, Table, show, view
from prefreg.evaluation.paper.lab import Gauge, Laboratory, Measuring
from prefreg.evaluation.plots import HeatMap, draw_heatmaps
from prefreg.evaluation.statistics import spearman
from prefreg.evaluation.sweep import Grid, Turned, sweep

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def run(lab: Laboratory) -> Findings:
    """Measure every setting of both dials for every seed."""
    measured = lab.measure(lab.vectors())
    first, second = lab.axes
    settings = [{first: one, second: other} for one, other in product(ETAS, ETAS)]
    measured.visit(settings)
    found = Findings(lab.recipe(measured))
    for axis, other in ((first, second), (second, first)):
        _add_dial(found, measured, axis, other)
    _draw(lab, measured, found)
    _report(lab, measured, found)
    return found


def _add_dial(found: Findings, measured: Measuring, axis: str, other: str) -> None:
    gauge, foreign = measured.own(axis), measured.own(other)
    share = 1 / len(ETAS)
    ends = [(sign * share, {axis: sign, other: eta}) for sign in (1.0, -1.0) for eta in ETAS]
    effect, leak = measured.contrast(gauge, ends), measured.contrast(foreign, ends)
    rising, lines = [], 0
    for eta in ETAS:
        means = [measured.by_seed(gauge, {axis: one, other: eta}) for one in ETAS]
        for values in zip(*means, strict=True):
            rising.append(spearman(list(values)))
            lines += 1
    smallest = [
        measured.contrast(gauge, [(1, {axis: 1.0, other: eta}), (-1, {axis: -1.0, other: eta})])
        for eta in ETAS
    ]
    known = [each for each in smallest if each is not None]
    least = min(known, key=lambda each: each.value, default=None)
    share_risen = float(np.mean([value >= 0.9 for value in rising]))
    found.claims.append(
        Claim(
            f"the {axis} dial raises {gauge.name} wherever the {other} dial stands",
            None if least is None else all(each.low > 0 for each in known),
            f"on average {show(effect)} {gauge.unit} from −1 to 1, at the least {show(least)}",
        )
    )
    found.claims.append(
        Claim(
            f"{gauge.name} rises with its dial step by step (Spearman .9 or more)",
            share_risen >= 0.9,
            f"{share_risen:.2f} of {lines} lines of a seed and a place of the other dial",
        )
    )
    found.data[axis] = {
        "figure": gauge.name,
        "unit": gauge.unit,
        "effect": view(effect),
        "smallest": view(least),
        "on_the_other": view(leak),
        "rising": share_risen,
        "at": {
            f"{one:g},{eta:g}": view(measured.value(gauge, {axis: one, other: eta}))
            for one, eta in product(ETAS, ETAS)
        },
    }
    row = (axis, show(effect), show(least), f"{share_risen:.2f}", show(leak))
    headers = (
        "dial", "its own figure, from −1 to 1", "the same where it is smallest",
        "share of lines that rise", "figure of the other axis",
    )  # fmt: skip
    rows = (*(found.tables[0].rows if found.tables else ()), row)
    found.tables = [Table("What each dial does, over all places of the other", headers, rows)]


def _draw(lab: Laboratory, measured: Measuring, found: Findings) -> None:
    first, second = lab.axes
    gauges = [measured.own(first), measured.own(second)]
    gauges += [measured.gauges[name] for name in ("kl", "malformed")]
    maps = [_map(measured, gauge, first, second) for gauge in gauges]
    path, title = lab.folder / "grid.png", f"{first} against {second}"
    draw_heatmaps(
        [each for each in maps if each.cells],
        path,
        across=first,
        up=second,
        title=title,
        caption=found.recipe,
    )
    found.pictures.append(
        Drawn(path, title, "Each cell is a setting, with its 95 % interval below the figure.")
    )


def _map(measured: Measuring, gauge: Gauge, first: str, second: str) -> HeatMap:
    cells = {
        (one, other): measured.value(gauge, {first: one, second: other})
        for one, other in product(ETAS, ETAS)
    }
    return HeatMap(
        gauge.name, gauge.unit, {key: value for key, value in cells.items() if value is not None}
    )


def _report(lab: Laboratory, measured: Measuring, found: Findings) -> None:
    """Write the sweep of the first seed with all its figures; everything is in the cache."""
    seed = lab.seeds[0]
    records = [measured.vectors[axis, seed] for axis in lab.axes]
    turned = tuple(Turned(each.axis, str(each.number), ETAS) for each in records)
    target = lab.folder / f"sweep-seed-{seed}"
    sweep(lab.own, Grid(turned, ()), measured.evaluator.request, target, overwrite=target.exists())
    found.notes.append(f"{target.name}/report.html has every figure of seed {seed}.")
