"""The picture of a study: every setting with its intervals, and the front."""

from pathlib import Path

from prefreg.choosing.study import Interval, Trial
from prefreg.choosing.tune import Tuned
from prefreg.errors import UsageError
from prefreg.evaluation.plots import Point, draw_pareto
from prefreg.evaluation.statistics import Estimate
from prefreg.terms import brief_eta


def draw_front(found: Tuned, destination: Path) -> None:
    """Draw two figures of every setting: both goals, or the goal and the first constraint.

    Raises:
        UsageError: The study has only one figure.
    """
    names = list(dict.fromkeys([*(goal.name for goal in found.goals), *found.bounds]))
    if len(names) < 2:
        raise UsageError("A front is of two figures: give a second target or a constraint.")
    y, x = names[:2]
    signs = {goal.name: goal.sign for goal in found.goals}
    bound = found.bounds.get(x, "")
    x_sign = signs.get(x, -1 if bound.startswith("<") else 1)
    points = []
    for trial, intervals in zip(found.trials, found.shown, strict=True):
        by_name = {each.name: each for each in intervals}
        if x in by_name and y in by_name:
            label = _label(found, trial)
            shade = 1.0 if trial is found.best.trial else 0.5 if trial.fresh else 0.0
            points.append(Point(label, _estimate(by_name[x]), _estimate(by_name[y]), shade))
    held = f" ({x}{bound} is asked)" if bound else ""
    draw_pareto(
        points,
        destination,
        x_label=x,
        y_label=y,
        shade_label="0 searched, .5 fresh prompts, 1 recommended",
        title=f"{found.target}" + (f" subject to {found.subject_to}" if found.subject_to else ""),
        caption=f"{len(found.trials)} settings of {', '.join(found.dials)}{held}; 95 % intervals.",
        x_sign=x_sign,
        y_sign=signs[y],
    )


def _label(found: Tuned, trial: Trial) -> str:
    parts = zip(found.axes, trial.etas, strict=True)
    return " ".join(f"{axis}:{brief_eta(eta)}" for axis, eta in parts if eta) or "base"


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.value, interval.low, interval.high, 0)
