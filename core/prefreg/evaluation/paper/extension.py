"""Extension: a third axis is added; are the old vectors and their dials what they were?"""

from collections.abc import Mapping

from prefreg.evaluation.paper.findings import Claim, Findings, Table, show, view
from prefreg.evaluation.paper.lab import Laboratory, Measuring, Panel, add_curves
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate
from prefreg.registry import VersionRecord

THIRD = (-1.0, 0.0, 1.0)
KEPT = 0.5
"""The share of its effect that an old dial shall keep."""


def run(lab: Laboratory) -> Findings:
    """Train two axes, then the third, and turn the old dials with the new one on."""
    *old, new = lab.axes
    before = lab.vectors(old)
    vectors = before | lab.vectors([new])
    measured = lab.measure(vectors)
    corners = [{old[0]: one, old[1]: other} for one in (-1.0, 1.0) for other in (-1.0, 1.0)]
    measured.visit([{**corner, new: eta} for corner in corners for eta in THIRD] + [{}])
    found = Findings(lab.recipe(measured))
    _add_hashes(found, lab, before, new)
    panels = {
        axis: _add_dial(found, measured, axis, other, new)
        for axis, other in ((old[0], old[1]), (old[1], old[0]))
    }
    _add_new(found, measured, old, new)
    _add_costs(found, measured, old, new)
    _draw(lab, found, panels, new)
    return found


def _add_hashes(
    found: Findings, lab: Laboratory, before: Mapping[tuple[str, int], VersionRecord], new: str
) -> None:
    """Read the old vectors again, with their bytes, after the new one was stored."""
    with lab.own.reading() as store:
        damaged = store.verify()
        after = {
            key: store.resolve(record.axis, str(record.number)) for key, record in before.items()
        }
    same = [after[key].sha256 == record.sha256 for key, record in before.items()]
    found.data["hashes"] = {str(after[key]): after[key].sha256 for key in before}
    found.claims.append(
        Claim(
            f"adding {new} leaves every stored byte of the old vectors as it was",
            all(same) and not damaged,
            f"{sum(same)} of {len(same)} vectors have the sha256 that they had",
        )
    )


def _add_dial(
    found: Findings, measured: Measuring, axis: str, other: str, new: str
) -> dict[float, Estimate]:
    gauge = measured.own(axis)

    def parts(eta: float, weight: float = 0.5) -> list[tuple[float, dict[str, float]]]:
        return [
            (sign * weight, {axis: sign, other: place, new: eta})
            for sign in (1.0, -1.0)
            for place in (-1.0, 1.0)
        ]

    effects = {eta: measured.contrast(gauge, parts(eta)) for eta in THIRD}
    # Its sign says whether more than the share is kept: effect with the new dial − share · without.
    lost = {
        eta: measured.contrast(gauge, parts(eta) + parts(0.0, -0.5 * KEPT)) for eta in (-1.0, 1.0)
    }
    change = {eta: measured.contrast(gauge, parts(eta) + parts(0.0, -0.5)) for eta in (-1.0, 1.0)}
    alone = effects[0.0]
    known = [each for each in lost.values() if each is not None]
    found.claims.append(
        Claim(
            f"the {axis} dial keeps more than {KEPT:.0%} of its effect with {new} at −1 and at 1",
            all(each.low > 0 for each in known) if known and alone else None,
            f"{show(effects[-1.0])}, {show(alone)} and {show(effects[1.0])} {gauge.unit} with "
            f"{new} at −1, 0 and 1",
        )
    )
    found.data[axis] = {
        "figure": gauge.name,
        "unit": gauge.unit,
        "effect": {f"{eta:g}": view(each) for eta, each in effects.items()},
        "change": {f"{eta:g}": view(each) for eta, each in change.items()},
    }
    return {eta: each for eta, each in effects.items() if each is not None}


def _add_new(found: Findings, measured: Measuring, old: list[str], new: str) -> None:
    gauge = measured.own(new)
    parts = [
        (sign / 4, {old[0]: one, old[1]: other, new: sign})
        for sign in (1.0, -1.0)
        for one in (-1.0, 1.0)
        for other in (-1.0, 1.0)
    ]
    effect = measured.contrast(gauge, parts)
    found.claims.append(
        Claim(
            f"the new dial moves {gauge.name} wherever the old ones stand",
            None if effect is None else effect.low > 0,
            f"on average {show(effect)} {gauge.unit} from −1 to 1",
        )
    )
    found.data[new] = {"figure": gauge.name, "unit": gauge.unit, "effect": view(effect)}


def _add_costs(found: Findings, measured: Measuring, old: list[str], new: str) -> None:
    rows = []
    for eta in THIRD:
        setting = {old[0]: 1.0, old[1]: 1.0, new: eta}
        figures = {name: measured.value(gauge, setting) for name, gauge in measured.gauges.items()}
        written = " ".join(f"{axis}:{value:g}" for axis, value in setting.items())
        rows.append((written, *(show(figures[name]) for name in measured.gauges)))
        found.data[written] = {name: view(value) for name, value in figures.items()}
    found.tables.append(Table("Both old dials at 1", ("setting", *measured.gauges), tuple(rows)))


def _draw(
    lab: Laboratory, found: Findings, effects: Mapping[str, Mapping[float, Estimate]], new: str
) -> None:
    panels = {
        axis: Panel(
            f"{found.data[axis]['unit']}, what the dial moves",
            [Curve(f"{axis} from −1 to 1", points)],
        )
        for axis, points in effects.items()
    }
    add_curves(
        found,
        lab,
        panels,
        title=f"The old dials with {new} turned",
        legend="Bands are 95 % intervals; level means untouched.",
        across=f"η of {new}",
    )
