"""Steering: each vector alone both ways, and two dials together on a grid of 5 by 5 settings."""

from itertools import product

import numpy as np

from prefreg.evaluation.paper.reproduce import ExperimentRun, Panel, SeedFigures, add_curves
from prefreg.evaluation.paper.run_folder import Claim, Findings, Table, view
from prefreg.evaluation.plots import Curve, HeatMap, Picture, draw_heatmaps
from prefreg.evaluation.statistics import show, spearman
from prefreg.evaluation.sweep import Grid, Turned, sweep

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def run_extraction(experiment: ExperimentRun) -> Findings:
    """Turn each dial alone over a range and see what its own metric does."""
    measured = experiment.measure(experiment.vectors())
    measured.visit([{axis: eta} for axis in experiment.axes for eta in ETAS])
    found = Findings(experiment.recipe(measured))
    for axis in experiment.axes:
        _add_dial_alone(found, measured, axis)
    found.tables.append(_table_of_dials(found))
    _draw_alone(experiment, measured, found)
    return found


def _add_dial_alone(found: Findings, measured: SeedFigures, axis: str) -> None:
    metric, kl = measured.own(axis), measured.metrics["kl"]
    at = {eta: measured.value(metric, {axis: eta}) for eta in ETAS}
    up = measured.contrast(metric, [(1, {axis: 1.0}), (-1, {})])
    down = measured.contrast(metric, [(1, {axis: -1.0}), (-1, {})])
    whole = measured.contrast(metric, [(1, {axis: 1.0}), (-1, {axis: -1.0})])
    seeds = list(zip(*(measured.by_seed(metric, {axis: eta}) for eta in ETAS), strict=True))
    found.claims.append(
        Claim(
            f"{axis}: η = 1 raises {metric.name} and η = −1 lowers it",
            None if up is None or down is None else up.low > 0 and down.high < 0,
            f"{show(up)} and {show(down)} {metric.unit}",
        )
    )
    found.data[axis] = {
        "figure": metric.name,
        "unit": metric.unit,
        "at": {f"{eta:g}": view(value) for eta, value in at.items()},
        "up": view(up),
        "down": view(down),
        "effect": view(whole),
        "spearman": [spearman(list(values)) for values in seeds],
        "kl": {f"{eta:g}": view(measured.value(kl, {axis: eta})) for eta in (-1.0, 1.0)},
    }


def _table_of_dials(found: Findings) -> Table:
    def written(value: dict[str, float] | None) -> str:
        return "-" if value is None else "{value:.2f} [{low:.2f}, {high:.2f}]".format(**value)

    rows = [
        (
            axis,
            f"{kept['figure']}, {kept['unit']}",
            *(written(kept["at"][eta]) for eta in ("-1", "0", "1")),
            written(kept["effect"]),
            f"{min(kept['spearman']):.2f}",
            f"{written(kept['kl']['-1'])} and {written(kept['kl']['1'])}",
        )
        for axis, kept in found.data.items()
    ]
    headers = (
        "axis", "figure", "η = −1", "η = 0", "η = 1", "from −1 to 1", "lowest Spearman of a seed",
        "KL at −1 and 1, nats per answer",
    )  # fmt: skip
    return Table("Each dial alone", headers, tuple(rows))


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
    for axis, other in experiment.directions:
        _add_dial(found, measured, axis, other)
    _draw_grid(experiment, measured, found)
    _report(experiment, measured, found)
    return found


def _add_dial(found: Findings, measured: SeedFigures, axis: str, other: str) -> None:
    metric, foreign = measured.own(axis), measured.own(other)
    share = 1 / len(ETAS)
    ends = [(sign * share, {axis: sign, other: eta}) for sign in (1.0, -1.0) for eta in ETAS]
    effect, leak = measured.contrast(metric, ends), measured.contrast(foreign, ends)
    rising, lines = [], 0
    for eta in ETAS:
        means = [measured.by_seed(metric, {axis: one, other: eta}) for one in ETAS]
        for values in zip(*means, strict=True):
            rising.append(spearman(list(values)))
            lines += 1
    smallest = [
        measured.contrast(metric, [(1, {axis: 1.0, other: eta}), (-1, {axis: -1.0, other: eta})])
        for eta in ETAS
    ]
    known = [each for each in smallest if each is not None]
    least = min(known, key=lambda each: each.value, default=None)
    share_risen = float(np.mean([value >= 0.9 for value in rising]))
    found.claims.append(
        Claim(
            f"the {axis} dial raises {metric.name} wherever the {other} dial stands",
            None if least is None else all(each.low > 0 for each in known),
            f"on average {show(effect)} {metric.unit} from −1 to 1, at the least {show(least)}",
        )
    )
    found.claims.append(
        Claim(
            f"{metric.name} rises with its dial step by step (Spearman .9 or more)",
            share_risen >= 0.9,
            f"{share_risen:.2f} of {lines} lines of a seed and a place of the other dial",
        )
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
    row = (axis, show(effect), show(least), f"{share_risen:.2f}", show(leak))
    headers = (
        "dial", "its own figure, from −1 to 1", "the same where it is smallest",
        "share of lines that rise", "figure of the other axis",
    )  # fmt: skip
    rows = (*(found.tables[0].rows if found.tables else ()), row)
    found.tables = [Table("What each dial does, over all places of the other", headers, rows)]


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
