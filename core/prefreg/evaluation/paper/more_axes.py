"""More axes: a third is added to two, and one after the other to a composition.

Extension asks whether the old vectors and their dials are what they were; stacking, what is left of
each dial and what it costs, all of them at the same η.
"""

from collections.abc import Mapping, Sequence

from prefreg.evaluation.evaluation_request import Comparing, InterferenceRequest
from prefreg.evaluation.interference import measure_interference
from prefreg.evaluation.paper.reproduce import (
    ExperimentRun,
    Panel,
    SeedFigures,
    Vectors,
    add_curves,
)
from prefreg.evaluation.paper.run_folder import Findings, view
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate, show
from prefreg.evaluation.weight_geometry import Sti
from prefreg.terms import Term

THIRD = (-1.0, 0.0, 1.0)
KEPT = 0.5
"""The share of its effect that an old dial shall keep."""
ETAS = (0.5, 1.0)
MALFORMED = 0.02
"""The share that a sound composition may have."""


def run_extension(experiment: ExperimentRun) -> Findings:
    """Train two axes, then the third, and turn the old dials with the new one on."""
    *old, new = experiment.axes
    before = experiment.vectors(old)
    vectors = before | experiment.vectors([new])
    measured = experiment.measure(vectors)
    corners = [{old[0]: one, old[1]: other} for one in (-1.0, 1.0) for other in (-1.0, 1.0)]
    measured.visit([{**corner, new: eta} for corner in corners for eta in THIRD] + [{}])
    found = Findings(experiment.recipe(measured))
    _add_hashes(found, experiment, before, new)
    panels = {
        axis: _add_dial(found, measured, axis, other, new) for axis, other in experiment.directions
    }
    _add_new(found, measured, old, new)
    _add_setting_costs(found, measured, old, new)
    _draw_old_dials(experiment, found, panels, new)
    return found


def _add_hashes(
    found: Findings,
    experiment: ExperimentRun,
    before: Vectors,
    new: str,
) -> None:
    """Read the old vectors again, with their bytes, after the new one was stored."""
    with experiment.own.reading() as store:
        damaged = store.verify()
        after = {
            key: store.resolve(record.axis, str(record.number)) for key, record in before.items()
        }
    same = [after[key].sha256 == record.sha256 for key, record in before.items()]
    found.data["hashes"] = {str(after[key]): after[key].sha256 for key in before}
    found.claim(
        f"adding {new} leaves every stored byte of the old vectors as it was",
        all(same) and not damaged,
        f"{sum(same)} of {len(same)} vectors have the sha256 that they had",
    )


def _add_dial(
    found: Findings, measured: SeedFigures, axis: str, other: str, new: str
) -> dict[float, Estimate]:
    metric = measured.own(axis)

    def parts(eta: float, weight: float = 0.5) -> list[tuple[float, dict[str, float]]]:
        return [
            (sign * weight, {axis: sign, other: place, new: eta})
            for sign in (1.0, -1.0)
            for place in (-1.0, 1.0)
        ]

    effects = {eta: measured.contrast(metric, parts(eta)) for eta in THIRD}
    # Its sign says whether more than the share is kept: effect with the new dial − share · without.
    lost = {
        eta: measured.contrast(metric, parts(eta) + parts(0.0, -0.5 * KEPT)) for eta in (-1.0, 1.0)
    }
    change = {eta: measured.contrast(metric, parts(eta) + parts(0.0, -0.5)) for eta in (-1.0, 1.0)}
    alone = effects[0.0]
    known = [each for each in lost.values() if each is not None]
    found.claim(
        f"the {axis} dial keeps more than {KEPT:.0%} of its effect with {new} at −1 and at 1",
        all(each.low > 0 for each in known) if known and alone else None,
        f"{show(effects[-1.0])}, {show(alone)} and {show(effects[1.0])} {metric.unit} with "
        f"{new} at −1, 0 and 1",
    )
    found.data[axis] = {
        "figure": metric.name,
        "unit": metric.unit,
        "effect": {f"{eta:g}": view(each) for eta, each in effects.items()},
        "change": {f"{eta:g}": view(each) for eta, each in change.items()},
    }
    return {eta: each for eta, each in effects.items() if each is not None}


def _add_new(found: Findings, measured: SeedFigures, old: list[str], new: str) -> None:
    metric = measured.own(new)
    parts = [
        (sign / 4, {old[0]: one, old[1]: other, new: sign})
        for sign in (1.0, -1.0)
        for one in (-1.0, 1.0)
        for other in (-1.0, 1.0)
    ]
    effect = measured.contrast(metric, parts)
    found.claim(
        f"the new dial moves {metric.name} wherever the old ones stand",
        None if effect is None else effect.low > 0,
        f"on average {show(effect)} {metric.unit} from −1 to 1",
    )
    found.data[new] = {"figure": metric.name, "unit": metric.unit, "effect": view(effect)}


def _add_setting_costs(found: Findings, measured: SeedFigures, old: list[str], new: str) -> None:
    rows = []
    for eta in THIRD:
        setting = {old[0]: 1.0, old[1]: 1.0, new: eta}
        figures = {
            name: measured.value(metric, setting) for name, metric in measured.metrics.items()
        }
        written = " ".join(f"{axis}:{value:g}" for axis, value in setting.items())
        rows.append((written, *(show(figures[name]) for name in measured.metrics)))
        found.data[written] = {name: view(value) for name, value in figures.items()}
    found.table("Both old dials at 1", ("setting", *measured.metrics), rows)


def _draw_old_dials(
    experiment: ExperimentRun,
    found: Findings,
    effects: Mapping[str, Mapping[float, Estimate]],
    new: str,
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
        experiment,
        panels,
        title=f"The old dials with {new} turned",
        legend="Bands are 95 % intervals; level means untouched.",
        across=f"η of {new}",
    )


def run_stacking(experiment: ExperimentRun) -> Findings:
    """Stack the axes in their order at each η, and compare with each dial alone."""
    measured = experiment.measure(experiment.vectors())
    stacks = [experiment.axes[:size] for size in range(1, len(experiment.axes) + 1)]
    settings = [dict.fromkeys(stack, eta) for eta in ETAS for stack in stacks]
    settings += [{axis: eta} for eta in ETAS for axis in experiment.axes]
    measured.visit([*settings, {}])
    found = Findings(experiment.recipe(measured, "Axes are added in this order."))
    for eta in ETAS:
        _add_effects(found, measured, experiment.axes, eta)
        _add_costs(found, measured, stacks, eta)
    _add_interference(found, experiment, measured, stacks)
    _draw_stacks(experiment, measured, found, stacks)
    return found


def _add_effects(found: Findings, measured: SeedFigures, axes: Sequence[str], eta: float) -> None:
    """Compare what each dial does alone with what all of them together do to its figure."""
    rows, kept = [], {}
    for axis in axes:
        metric = measured.own(axis)
        everything = dict.fromkeys(axes, eta)
        alone = measured.contrast(metric, [(1, {axis: eta}), (-1, {})])
        together = measured.contrast(metric, [(1, everything), (-1, {})])
        of_dial = measured.contrast(metric, [(1, everything), (-1, everything | {axis: 0.0})])
        rows.append((axis, f"{metric.name}, {metric.unit}", *map(show, (alone, together, of_dial))))
        kept[axis] = {
            "alone": view(alone),
            "together": view(together),
            "of_the_dial": view(of_dial),
        }
        found.claim(
            f"all {len(axes)} at η = {eta:g}: {metric.name} is above that of the base",
            None if together is None else together.low > 0,
            f"{show(together)} {metric.unit}, {show(alone)} with its dial alone",
        )
    found.data[f"eta {eta:g}"] = kept
    headers = (
        "axis", "figure", "its dial alone, less the base", "all dials, less the base",
        "all dials, less all but its own",
    )  # fmt: skip
    found.table(f"What is left of each dial at η = {eta:g}", headers, rows)


def _add_costs(
    found: Findings, measured: SeedFigures, stacks: Sequence[Sequence[str]], eta: float
) -> None:
    rows = []
    for stack in stacks:
        setting = dict.fromkeys(stack, eta)
        values = [measured.value(measured.metrics[name], setting) for name in ("kl", "malformed")]
        rows.append((str(len(stack)), stack[-1], *map(show, values)))
    worst = measured.value(measured.metrics["malformed"], dict.fromkeys(stacks[-1], eta))
    found.claim(
        f"all {len(stacks[-1])} at η = {eta:g}: at most {MALFORMED:.0%} of the answers are "
        "malformed",
        None if worst is None else worst.value <= MALFORMED,
        f"{show(worst, 3)}",
    )
    headers = ("axes", "added last", "kl, nats per answer", "malformed, share of answers")
    found.table(f"What stacking costs at η = {eta:g}", headers, rows)


def _add_interference(
    found: Findings,
    experiment: ExperimentRun,
    measured: SeedFigures,
    stacks: Sequence[Sequence[str]],
) -> None:
    """Take the paper's interference in the weights for the first seed, beside its null."""
    rows, kept = [], {}
    for stack in stacks[1:]:
        sti = _interference(experiment, measured, stack)
        if sti is not None:
            kept[str(len(stack))] = {"sti": sti.value, "null": sti.null, "ratio": sti.ratio}
            figures = (sti.value, sti.null, sti.ratio)
            rows.append((str(len(stack)), *(f"{value:.2f}" for value in figures)))
    found.data["interference"] = kept
    headers = ("axes", "interference (STI)", "of random subspaces", "ratio")
    title = f"Singular task interference, seed {experiment.seeds[0]}"
    found.table(title, headers, rows)


def _interference(
    experiment: ExperimentRun, measured: SeedFigures, stack: Sequence[str]
) -> Sti | None:
    records = [measured.vectors[axis, experiment.seeds[0]] for axis in stack]
    terms = [Term(record.axis, 1.0, str(record.number)) for record in records]
    request = InterferenceRequest(tuple(terms), experiment.request.base, Comparing(draws=50))
    return measure_interference(experiment.own, request).geometry.sti


def _draw_stacks(
    experiment: ExperimentRun,
    measured: SeedFigures,
    found: Findings,
    stacks: Sequence[Sequence[str]],
) -> None:
    panels = {}
    for axis in experiment.axes:
        metric = measured.own(axis)
        curves = []
        for eta in ETAS:
            settings: dict[float, dict[str, float]] = {0.0: {}}
            settings |= {len(stack): dict.fromkeys(stack, eta) for stack in stacks}
            curves.append(Curve(f"η = {eta:g}", measured.values(metric, settings)))
        panels[axis] = Panel(metric.unit, curves)
    add_curves(
        found,
        experiment,
        panels,
        title="Axes stacked one after the other",
        legend="Each panel is the figure of one axis; bands are 95 % intervals.",
        across="number of axes that are on",
    )
