"""More than three axes: one after the other is added to a composition, all at the same η."""

from collections.abc import Sequence

from prefreg.evaluation.evaluation_request import Comparing, InterferenceRequest
from prefreg.evaluation.interference import Sti, measure_interference
from prefreg.evaluation.paper.findings import Claim, Findings, Table, show, view
from prefreg.evaluation.paper.lab import Laboratory, Measuring, Panel, add_curves
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate
from prefreg.terms import Term

ETAS = (0.5, 1.0)
MALFORMED = 0.02
"""The share that a sound composition may have."""


def run(lab: Laboratory) -> Findings:
    """Stack the axes in their order at each η, and compare with each dial alone."""
    measured = lab.measure(lab.vectors())
    stacks = [lab.axes[:size] for size in range(1, len(lab.axes) + 1)]
    settings = [dict.fromkeys(stack, eta) for eta in ETAS for stack in stacks]
    settings += [{axis: eta} for eta in ETAS for axis in lab.axes]
    measured.visit([*settings, {}])
    found = Findings(lab.recipe(measured, "Axes are added in this order."))
    for eta in ETAS:
        _add_effects(found, measured, lab.axes, eta)
        _add_costs(found, measured, stacks, eta)
    _add_interference(found, lab, measured, stacks)
    _draw(lab, measured, found, stacks)
    return found


def _add_effects(found: Findings, measured: Measuring, axes: Sequence[str], eta: float) -> None:
    """Compare what each dial does alone with what all of them together do to its figure."""
    rows, kept = [], {}
    for axis in axes:
        gauge = measured.own(axis)
        everything = dict.fromkeys(axes, eta)
        alone = measured.contrast(gauge, [(1, {axis: eta}), (-1, {})])
        together = measured.contrast(gauge, [(1, everything), (-1, {})])
        of_dial = measured.contrast(gauge, [(1, everything), (-1, everything | {axis: 0.0})])
        rows.append((axis, f"{gauge.name}, {gauge.unit}", *map(show, (alone, together, of_dial))))
        kept[axis] = {
            "alone": view(alone),
            "together": view(together),
            "of_the_dial": view(of_dial),
        }
        found.claims.append(
            Claim(
                f"all {len(axes)} at η = {eta:g}: {gauge.name} is above that of the base",
                None if together is None else together.low > 0,
                f"{show(together)} {gauge.unit}, {show(alone)} with its dial alone",
            )
        )
    found.data[f"eta {eta:g}"] = kept
    headers = (
        "axis", "figure", "its dial alone, less the base", "all dials, less the base",
        "all dials, less all but its own",
    )  # fmt: skip
    found.tables.append(Table(f"What is left of each dial at η = {eta:g}", headers, tuple(rows)))


def _add_costs(
    found: Findings, measured: Measuring, stacks: Sequence[Sequence[str]], eta: float
) -> None:
    rows = []
    for stack in stacks:
        setting = dict.fromkeys(stack, eta)
        values = [measured.value(measured.gauges[name], setting) for name in ("kl", "malformed")]
        rows.append((str(len(stack)), stack[-1], *map(show, values)))
    worst = measured.value(measured.gauges["malformed"], dict.fromkeys(stacks[-1], eta))
    found.claims.append(
        Claim(
            f"all {len(stacks[-1])} at η = {eta:g}: at most {MALFORMED:.0%} of the answers are "
            "malformed",
            None if worst is None else worst.value <= MALFORMED,
            f"{show(worst, 3)}",
        )
    )
    headers = ("axes", "added last", "kl, nats per answer", "malformed, share of answers")
    found.tables.append(Table(f"What stacking costs at η = {eta:g}", headers, tuple(rows)))


def _add_interference(
    found: Findings, lab: Laboratory, measured: Measuring, stacks: Sequence[Sequence[str]]
) -> None:
    """Take the paper's interference in the weights for the first seed, beside its null."""
    rows, kept = [], {}
    for stack in stacks[1:]:
        sti = _interference(lab, measured, stack)
        if sti is not None:
            kept[str(len(stack))] = {"sti": sti.value, "null": sti.null, "ratio": sti.ratio}
            figures = (sti.value, sti.null, sti.ratio)
            rows.append((str(len(stack)), *(f"{value:.2f}" for value in figures)))
    found.data["interference"] = kept
    headers = ("axes", "interference (STI)", "of random subspaces", "ratio")
    title = f"Singular task interference, seed {lab.seeds[0]}"
    found.tables.append(Table(title, headers, tuple(rows)))


def _interference(lab: Laboratory, measured: Measuring, stack: Sequence[str]) -> Sti | None:
    records = [measured.vectors[axis, lab.seeds[0]] for axis in stack]
    terms = [Term(record.axis, 1.0, str(record.number)) for record in records]
    request = InterferenceRequest(tuple(terms), lab.request.base, Comparing(draws=50))
    return measure_interference(lab.own, request).geometry.sti


def _draw(
    lab: Laboratory, measured: Measuring, found: Findings, stacks: Sequence[Sequence[str]]
) -> None:
    panels = {}
    for axis in lab.axes:
        gauge = measured.own(axis)
        curves = [Curve(f"η = {eta:g}", _points(measured, axis, stacks, eta)) for eta in ETAS]
        panels[axis] = Panel(gauge.unit, curves)
    add_curves(
        found,
        lab,
        panels,
        title="Axes stacked one after the other",
        legend="Each panel is the figure of one axis; bands are 95 % intervals.",
        across="number of axes that are on",
    )


def _points(
    measured: Measuring, axis: str, stacks: Sequence[Sequence[str]], eta: float
) -> dict[float, Estimate]:
    gauge = measured.own(axis)
    settings: dict[float, dict[str, float]] = {0.0: {}}
    settings |= {float(len(stack)): dict.fromkeys(stack, eta) for stack in stacks}
    values = {size: measured.value(gauge, setting) for size, setting in settings.items()}
    return {size: value for size, value in values.items() if value is not None}
