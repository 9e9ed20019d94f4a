"""Knowledge retention: multiple choice at η up to 8."""

import importlib.util
from collections.abc import Mapping

from prefreg.errors import DataError
from prefreg.evaluation.choices import ABOVE_CHANCE, read_questions
from prefreg.evaluation.harness import require_tasks
from prefreg.evaluation.paper.findings import Claim, Findings, Table, show, view
from prefreg.evaluation.paper.lab import (
    Gauge,
    Laboratory,
    Measuring,
    Panel,
    add_curves,
    choice_gauges,
    task_gauges,
)
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate

ETAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
BEYOND = (16.0, 32.0, 64.0)
"""Where it is looked for chance if that is not reached before."""
KEPT = 0.95
"""Of what the base knows, at η = 1."""

Values = dict[float, Estimate]


def measure_dosage(lab: Laboratory, measured: Measuring, asked: str) -> Findings:
    """Read every gauge along every direction and write down where it falls to chance."""
    directions: dict[str, tuple[str, ...]] = {axis: (axis,) for axis in lab.axes}
    if len(lab.axes) > 1:
        directions["all together"] = lab.axes
    measured.visit([dict.fromkeys(axes, eta) for axes in directions.values() for eta in ETAS])
    found = Findings(lab.recipe(None, f"{asked} Intervals: 95 %, {measured.over}."))
    lines: dict[str, dict[str, Values]] = {}
    for gauge in measured.gauges.values():
        base = measured.value(gauge, {})
        if gauge.chance is not None and (base is None or base.low <= gauge.chance + ABOVE_CHANCE):
            found.notes.append(
                f"{gauge.name} is not measurable: the base is right in {show(base)}, where chance "
                f"is {gauge.chance:.2f}, so there is nothing to forget."
            )
            continue
        lines[gauge.name] = {
            label: _along(measured, gauge, axes) for label, axes in directions.items()
        }
        _add_claims(found, gauge, lines[gauge.name])
        _add_table(found, gauge, lines[gauge.name])
    _draw(lab, found, measured.gauges, lines)
    return found


def _along(measured: Measuring, gauge: Gauge, axes: tuple[str, ...]) -> Values:
    """Read a gauge up to the last η, and beyond it as long as it is above chance there."""
    found: Values = {}
    for eta in (*ETAS, *BEYOND):
        value = measured.value(gauge, dict.fromkeys(axes, eta))
        if value is not None:
            found[eta] = value
        above = gauge.chance is not None and not (
            value is None or is_at_chance(value, gauge.chance)
        )
        if eta >= ETAS[-1] and not above:
            break
    return found


def is_at_chance(value: Estimate, chance: float) -> bool:
    """Whether a figure is no more than .05 above chance."""
    return value.value <= chance + ABOVE_CHANCE


def falls_to_chance(values: Mapping[float, Estimate], chance: float) -> float | None:
    """Return the smallest η from which on no figure is more than .05 above chance."""
    found = None
    for eta in sorted(values, reverse=True):
        if not is_at_chance(values[eta], chance):
            break
        found = eta
    return found


def _add_claims(found: Findings, gauge: Gauge, lines: Mapping[str, Values]) -> None:
    kept = found.data.setdefault(gauge.name, {"unit": gauge.unit, "chance": gauge.chance})
    for label, values in lines.items():
        kept[label] = {"at": {f"{eta:g}": view(value) for eta, value in values.items()}}
        base, at_one = values.get(0.0), values.get(1.0)
        # A share has a zero to count from; a log-likelihood has none.
        if base is not None and at_one is not None and base.value > 0:
            found.claims.append(
                Claim(
                    f"{label} at η = 1 keeps {KEPT:.0%} of the base's {gauge.name}",
                    at_one.value >= KEPT * base.value,
                    f"{show(at_one)}, the base {show(base)}",
                )
            )
        if gauge.chance is None:
            continue
        fallen = falls_to_chance(values, gauge.chance)
        kept[label]["falls_to_chance_at"] = fallen
        where = f"it does {f'from η = {fallen:g} on' if fallen else f'not at η = {max(values):g}'}"
        found.claims.append(
            Claim(
                f"{label}: {gauge.name} falls to chance ({gauge.chance:.2f}) at η = 8 or before",
                fallen is not None and fallen <= ETAS[-1],
                f"{show(values.get(ETAS[-1]))} at η = 8; {where}",
            )
        )


def _add_table(found: Findings, gauge: Gauge, lines: Mapping[str, Values]) -> None:
    chance = "" if gauge.chance is None else f"; chance is {gauge.chance:.2f}"
    etas = sorted({eta for values in lines.values() for eta in values})
    rows = [(f"{eta:g}", *(show(values.get(eta)) for values in lines.values())) for eta in etas]
    found.tables.append(Table(f"{gauge.name}, {gauge.unit}{chance}", ("η", *lines), tuple(rows)))


def _draw(
    lab: Laboratory,
    found: Findings,
    gauges: Mapping[str, Gauge],
    lines: Mapping[str, Mapping[str, Values]],
) -> None:
    panels = {}
    for name, values in lines.items():
        curves = [
            Curve(label, {eta: point for eta, point in points.items() if eta <= ETAS[-1]})
            for label, points in values.items()
        ]
        chance = gauges[name].chance
        if chance is not None:
            level = Estimate(chance, chance, chance, 0)
            ends = {ETAS[0]: level, ETAS[-1]: level}
            curves.append(Curve(f"chance, {chance:.2f}", ends, context=True))
        panels[name] = Panel(gauges[name].unit, curves)
    add_curves(
        found,
        lab,
        panels,
        title="What is left as η grows",
        legend="A line turns one vector, or all by the same η; bands are 95 % intervals.",
        across="η",
    )


def run(lab: Laboratory) -> Findings:
    """Ask what the base knows along every vector, and where that falls to chance."""
    file = lab.request.questions
    if file is not None:
        questions = read_questions(file)[: lab.request.prompts]
    elif lab.base.world is not None:
        questions = lab.base.world.kept_questions(lab.request.prompts, split="test", seed=0)
    else:
        raise DataError(
            f"What {lab.base.name} knows is not known here: give multiple-choice questions with "
            "--questions FILE.jsonl."
        )
    vectors = lab.vectors()
    measured = lab.measure(vectors, gauges=lambda evaluator: choice_gauges(evaluator, questions))
    asked = f"{len(questions)} questions, scored by log-likelihood."
    return measure_dosage(lab, measured, asked)


def run_commonsense(lab: Laboratory) -> Findings:
    """Run the tasks along every vector."""
    asked = lab.request
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            "The experiment 'commonsense' needs lm-eval: pip install 'prefreg[lm-eval]'. "
            "'retention' asks multiple-choice questions of a file without it."
        )
    require_tasks(asked.tasks, asked.task_path)
    measured = lab.measure(lab.vectors(), gauges=task_gauges)
    tasks = ", ".join(asked.tasks)
    return measure_dosage(lab, measured, f"lm-eval on {tasks}.")
