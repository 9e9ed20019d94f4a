"""Knowledge retention: multiple choice at η up to 8."""

import importlib.util
from collections.abc import Mapping
from functools import partial

from prefreg.errors import DataError
from prefreg.evaluation.figures import ABOVE_CHANCE, Metric
from prefreg.evaluation.knowledge import (
    choice_metrics,
    read_questions,
    require_tasks,
    task_metrics,
)
from prefreg.evaluation.paper.reproduce import ExperimentRun, Panel, SeedFigures, add_curves
from prefreg.evaluation.paper.run_folder import Findings, view
from prefreg.evaluation.plots import Curve
from prefreg.evaluation.statistics import Estimate, show

ETAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
BEYOND = (16.0, 32.0, 64.0)
"""Where it is looked for chance if that is not reached before."""
KEPT = 0.95
"""Of what the base knows, at η = 1."""

Values = dict[float, Estimate]


def _measure_directions(experiment: ExperimentRun, measured: SeedFigures, asked: str) -> Findings:
    """Read every metric along every direction and write down where it falls to chance."""
    directions: dict[str, tuple[str, ...]] = {axis: (axis,) for axis in experiment.axes}
    if len(experiment.axes) > 1:
        directions["all together"] = experiment.axes
    measured.visit([dict.fromkeys(axes, eta) for axes in directions.values() for eta in ETAS])
    found = Findings(experiment.recipe(None, f"{asked} Intervals: 95 %, {measured.over}."))
    lines: dict[str, dict[str, Values]] = {}
    for metric in measured.metrics.values():
        base = measured.value(metric, {})
        if metric.chance is not None and (base is None or base.low <= metric.chance + ABOVE_CHANCE):
            found.notes.append(
                f"{metric.name} is not measurable: the base is right in {show(base)}, where chance "
                f"is {metric.chance:.2f}, so there is nothing to forget."
            )
            continue
        lines[metric.name] = {
            label: _along(measured, metric, axes) for label, axes in directions.items()
        }
        _add_claims(found, metric, lines[metric.name])
        _add_table(found, metric, lines[metric.name])
    _draw(experiment, found, measured.metrics, lines)
    return found


def _along(measured: SeedFigures, metric: Metric, axes: tuple[str, ...]) -> Values:
    """Read a metric up to the last η, and beyond it as long as it is above chance there."""
    found: Values = {}
    for eta in (*ETAS, *BEYOND):
        value = measured.value(metric, dict.fromkeys(axes, eta))
        if value is not None:
            found[eta] = value
        above = metric.chance is not None and not (
            value is None or is_at_chance(value, metric.chance)
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


def _add_claims(found: Findings, metric: Metric, lines: Mapping[str, Values]) -> None:
    kept = found.data.setdefault(metric.name, {"unit": metric.unit, "chance": metric.chance})
    for label, values in lines.items():
        kept[label] = {"at": {f"{eta:g}": view(value) for eta, value in values.items()}}
        base, at_one = values.get(0.0), values.get(1.0)
        # A share has a zero to count from; a log-likelihood has none.
        if base is not None and at_one is not None and base.value > 0:
            found.claim(
                f"{label} at η = 1 keeps {KEPT:.0%} of the base's {metric.name}",
                at_one.value >= KEPT * base.value,
                f"{show(at_one)}, the base {show(base)}",
            )
        if metric.chance is None:
            continue
        fallen = falls_to_chance(values, metric.chance)
        kept[label]["falls_to_chance_at"] = fallen
        where = f"it does {f'from η = {fallen:g} on' if fallen else f'not at η = {max(values):g}'}"
        found.claim(
            f"{label}: {metric.name} falls to chance ({metric.chance:.2f}) at η = 8 or before",
            fallen is not None and fallen <= ETAS[-1],
            f"{show(values.get(ETAS[-1]))} at η = 8; {where}",
        )


def _add_table(found: Findings, metric: Metric, lines: Mapping[str, Values]) -> None:
    chance = "" if metric.chance is None else f"; chance is {metric.chance:.2f}"
    etas = sorted({eta for values in lines.values() for eta in values})
    rows = [(f"{eta:g}", *(show(values.get(eta)) for values in lines.values())) for eta in etas]
    found.table(f"{metric.name}, {metric.unit}{chance}", ("η", *lines), rows)


def _draw(
    experiment: ExperimentRun,
    found: Findings,
    metrics: Mapping[str, Metric],
    lines: Mapping[str, Mapping[str, Values]],
) -> None:
    panels = {}
    for name, values in lines.items():
        curves = [
            Curve(label, {eta: point for eta, point in points.items() if eta <= ETAS[-1]})
            for label, points in values.items()
        ]
        chance = metrics[name].chance
        if chance is not None:
            level = Estimate(chance, chance, chance, 0)
            ends = {ETAS[0]: level, ETAS[-1]: level}
            curves.append(Curve(f"chance, {chance:.2f}", ends, context=True))
        panels[name] = Panel(metrics[name].unit, curves)
    add_curves(
        found,
        experiment,
        panels,
        title="What is left as η grows",
        legend="A line turns one vector, or all by the same η; bands are 95 % intervals.",
        across="η",
    )


def run(experiment: ExperimentRun) -> Findings:
    """Ask what the base knows along every vector, and where that falls to chance."""
    file = experiment.request.questions
    if file is not None:
        questions = read_questions(file)[: experiment.request.prompts]
    elif (world := experiment.base.world) is not None:
        questions = world.kept_questions(experiment.request.prompts, split="test", seed=0)
    else:
        raise DataError(
            f"What {experiment.base.name} knows is not known here: give multiple-choice questions "
            "with --questions FILE.jsonl."
        )
    vectors = experiment.vectors()
    measured = experiment.measure(
        vectors,
        metrics=lambda evaluator: choice_metrics(
            questions, partial(evaluator.choices, questions=questions)
        ),
    )
    asked = f"{len(questions)} questions, scored by log-likelihood."
    return _measure_directions(experiment, measured, asked)


def run_commonsense(experiment: ExperimentRun) -> Findings:
    """Run the tasks along every vector."""
    asked = experiment.request
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            "The experiment 'commonsense' needs lm-eval: pip install 'prefreg[lm-eval]'. "
            "'retention' asks multiple-choice questions of a file without it."
        )
    require_tasks(asked.tasks, asked.task_path)
    measured = experiment.measure(
        experiment.vectors(),
        metrics=lambda evaluator: task_metrics(evaluator.tasks, evaluator.plain),
    )
    tasks = ", ".join(asked.tasks)
    return _measure_directions(experiment, measured, f"lm-eval on {tasks}.")
