"""Steering: each vector alone both ways, and two dials together on a grid of 5 by 5 settings."""

from itertools import product

import numpy as np

from prefreg.evaluation.paper.reproduce import ExperimentRun, Panel, SeedFigures, add_curves
from prefreg.evaluation.paper.run_folder import Findings, view
from prefreg.evaluation.plots import Curve, HeatMap, Picture, draw_heatmaps
from prefreg.evaluation.statistics import show, spearman
from prefreg.evaluation.sweep import Grid, Turned, sweep

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def run_extraction(experiment: ExperimentRun) -> Findings:
    """Turn each dial alone over a range and see what its own metric does."""
    measured = experiment.measure(experiment.vectors())
    measured.visit([{axis: eta} for axis in experiment.axes for eta in ETAS])
    found = Findings(experiment.recipe(measured))
    headers = (
        "axis", "figure", "η = −1", "η = 0", "η = 1", "from −1 to 1", "lowest Spearman of a seed",
        "KL at −1 and 1, nats per answer",
    )  # fmt: skip
    rows = [_add_dial_alone(found, measured, axis) for axis in experiment.axes]
    found.table("Each dial alone", headers, rows)
    _draw_alone(experiment, measured, found)
    return found


def _add_dial_alone(found: Findings, measured: SeedFigures, axis: str) -> tuple[str, ...]:
    """Write down what a dial does, and return its row of the table."""
    metric, kl = measured.own(axis), measured.metrics["kl"]
    at = {eta: measured.value(metric, {axis: eta}) for eta in ETAS}
    cost = {eta: measured.value(kl, {axis: eta}) for eta in (-1.0, 1.0)}
    up = measured.contrast(metric, [(1, {axis: 1.0}), (-1, {})])
    down = measured.contrast(metric, [(1, {axis: -1.0}), (-1, {})])
    whole = measured.contrast(metric, [(1, {axis: 1.0}), (-1, {axis: -1.0})])
    seeds = zip(*(measured.by_seed(metric, {axis: eta}) for eta in ETAS), strict=True)
    rising = [spearman(list(values)) for values in seeds]
    found.claim(
        f"{axis}: η = 1 raises {metric.name} and η = −1 lowers it",
        None if up is None or down is None else up.low > 0 and down.high < 0,
        f"{show(up)} and {show(down)} {metric.unit}",
    )
    found.data[axis] = {
        "figure": metric.name,
        "unit": metric.unit,
        "at": {f"{eta:g}": view(value) for eta, value in at.items()},
        "up": view(up),
        "down": view(down),
        "effect": view(whole),
        "spearman": rising,
        "kl": {f"{eta:g}": view(value) for eta, value in cost.items()},
    }
    return (
        axis,
        f"{metric.name}, {metric.unit}",
        *(show(at[eta]) for eta in (-1.0, 0.0, 1.0)),
        show(whole),
        f"{min(rising):.2f}",
        f"{show(cost[-1.0])} and {show(cost[1.0])}",
    )


def _draw_alone(experiment: ExperimentRun, measured: SeedFigures, found: Findings) -> None:
    panels = {}
    for axis in experiment.axes:
        metric = measured.own(axis)
        points = measured.values(metric, {eta: {axis: eta} for eta in ETAS})
        panels[axis] = Panel(metric.unit, [Curve(metric.name, points)])
    legend = "Each panel turns one dial; bands are 95 % intervals."
    add_curves(found, experiment, panels, title="Each vector alone", legend=legend)


def run_grid(experiment: ExperimentRun) -> Findings:
    """Measure every setting of both dials for every seed."""
    measured = experiment.measure(experiment.vectors())
    first, second = experiment.axes
    settings = [{first: one, second: other} for one, other in product(ETAS, ETAS)]
    measured.visit(settings)
    found = Findings(experiment.recipe(measured))
    headers = (
        "dial", "its own figure, from −1 to 1", "the same where it is smallest",
        "share of lines that rise", "figure of the other axis",
    )  # fmt: skip
    rows = [_add_dial(found, measured, *both) for both in experiment.directions]
    found.table("What each dial does, over all places of the other", headers, rows)
    _draw_grid(experiment, measured, found)
    _report(experiment, measured, found)
    return found


def _add_dial(found: Findings, measured: SeedFigures, axis: str, other: str) -> tuple[str, ...]:
    """Write down what a dial does wherever the other stands, and return its row of the table."""
    metric, foreign = measured.own(axis), measured.own(other)
    share = 1 / len(ETAS)
    ends = [(sign * share, {axis: sign, other: eta}) for sign in (1.0, -1.0) for eta in ETAS]
    effect, leak = measured.contrast(metric, ends), measured.contrast(foreign, ends)
    rising = []
    for eta in ETAS:
        means = [measured.by_seed(metric, {axis: one, other: eta}) for one in ETAS]
        rising += [spearman(list(values)) for values in zip(*means, strict=True)]
    smallest = [
        measured.contrast(metric, [(1, {axis: 1.0, other: eta}), (-1, {axis: -1.0, other: eta})])
        for eta in ETAS
    ]
    known = [each for each in smallest if each is not None]
    least = min(known, key=lambda each: each.value, default=None)
    share_risen = float(np.mean([value >= 0.9 for value in rising]))
    found.claim(
        f"the {axis} dial raises {metric.name} wherever the {other} dial stands",
        None if least is None else all(each.low > 0 for each in known),
        f"on average {show(effect)} {metric.unit} from −1 to 1, at the least {show(least)}",
    )
    found.claim(
        f"{metric.name} rises with its dial step by step (Spearman .9 or more)",
        share_risen >= 0.9,
        f"{share_risen:.2f} of {len(rising)} lines of a seed and a place of the other dial",
    )
    found.data[axis] = {
        "figure": metric.name,
        "unit": metric.unit,
        "effect": view(effect),
        "smallest": view(least),
        "on_the_other": view(leak),
        "rising": share_risen,
        "at": {
            f"{one:g},{eta:g}": view(measured.value(metric, {axis: one, other: eta}))
            for one, eta in product(ETAS, ETAS)
        },
    }
    return (axis, show(effect), show(least), f"{share_risen:.2f}", show(leak))


def _draw_grid(experiment: ExperimentRun, measured: SeedFigures, found: Findings) -> None:
    first, second = experiment.axes
    metrics = [measured.own(first), measured.own(second)]
    metrics += [measured.metrics[name] for name in ("kl", "malformed")]
    settings = {(one, other): {first: one, second: other} for one, other in product(ETAS, ETAS)}
    maps = [
        HeatMap(metric.name, metric.unit, measured.values(metric, settings)) for metric in metrics
    ]
    path, title = experiment.folder / "grid.png", f"{first} against {second}"
    draw_heatmaps(
        [each for each in maps if each.cells],
        path,
        across=first,
        up=second,
        title=title,
        caption=found.recipe,
    )
    found.pictures.append(
        Picture(path, title, "Each cell is a setting, with its 95 % interval below the figure.")
    )


def _report(experiment: ExperimentRun, measured: SeedFigures, found: Findings) -> None:
    """Write the sweep of the first seed with all its figures; everything is in the cache."""
    seed = experiment.seeds[0]
    records = [measured.vectors[axis, seed] for axis in experiment.axes]
    turned = tuple(Turned(each.axis, str(each.number), ETAS) for each in records)
    target = experiment.folder / f"sweep-seed-{seed}"
    sweep(
        experiment.own,
        Grid(turned, ()),
        measured.evaluator.request,
        target,
        overwrite=target.exists(),
    )
    found.notes.append(f"{target.name}/report.html has every figure of seed {seed}.")
