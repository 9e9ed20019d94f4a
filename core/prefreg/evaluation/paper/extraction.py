"""Single-preference extraction: each vector alone, its own metric both ways."""

from prefreg.evaluation.paper.findings import Claim, Findings, Table, show, view
from prefreg.evaluation.paper.lab import Laboratory, Measuring, Panel, add_curves
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import spearman

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def run(lab: Laboratory) -> Findings:
    """Turn each dial alone over a range and see what its own metric does."""
    measured = lab.measure(lab.vectors())
    measured.visit([{axis: eta} for axis in lab.axes for eta in ETAS])
    found = Findings(lab.recipe(measured))
    for axis in lab.axes:
        _add_axis(found, measured, axis)
    found.tables.append(_table(found))
    _draw(lab, measured, found)
    return found


def _add_axis(found: Findings, measured: Measuring, axis: str) -> None:
    gauge, kl = measured.own(axis), measured.gauges["kl"]
    at = {eta: measured.value(gauge, {axis: eta}) for eta in ETAS}
    up = measured.contrast(gauge, [(1, {axis: 1.0}), (-1, {})])
    down = measured.contrast(gauge, [(1, {axis: -1.0}), (-1, {})])
    whole = measured.contrast(gauge, [(1, {axis: 1.0}), (-1, {axis: -1.0})])
    seeds = list(zip(*(measured.by_seed(gauge, {axis: eta}) for eta in ETAS), strict=True))
    found.claims.append(
        Claim(
            f"{axis}: η = 1 raises {gauge.name} and η = −1 lowers it",
            None if up is None or down is None else up.low > 0 and down.high < 0,
            f"{show(up)} and {show(down)} {gauge.unit}",
        )
    )
    found.data[axis] = {
        "figure": gauge.name,
        "unit": gauge.unit,
        "at": {f"{eta:g}": view(value) for eta, value in at.items()},
        "up": view(up),
        "down": view(down),
        "effect": view(whole),
        "spearman": [spearman(list(values)) for values in seeds],
        "kl": {f"{eta:g}": view(measured.value(kl, {axis: eta})) for eta in (-1.0, 1.0)},
    }


def _table(found: Findings) -> Table:
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


def _draw(lab: Laboratory, measured: Measuring, found: Findings) -> None:
    panels = {}
    for axis in lab.axes:
        gauge = measured.own(axis)
        points = {eta: measured.value(gauge, {axis: eta}) for eta in ETAS}
        kept = {eta: value for eta, value in points.items() if value is not None}
        panels[axis] = Panel(gauge.unit, [Curve(gauge.name, kept)])
    legend = "Each panel turns one dial; bands are 95 % intervals."
    add_curves(found, lab, panels, title="Each vector alone", legend=legend)
