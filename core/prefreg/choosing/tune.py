"""A study: from a target and constraints to the setting that is recommended, and why.

KL is looked at first, on a part of the prompts, where a setting may violate it. Winners are
measured again on prompts that the search never asked, and only what is likely to meet every
constraint there is recommended.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefreg.choosing.choosing_request import TuneRequest
from prefreg.choosing.gauges import Array
from prefreg.choosing.search import (
    LIKELY,
    GeometrySearch,
    Goal,
    Search,
    outside_hull,
)
from prefreg.choosing.study import Interval, Kept, Study, Trial, Wish, part_prompts
from prefreg.composition.resolve import refuse_mixed_contrasts
from prefreg.errors import DataError, Interrupted, UsageError
from prefreg.evaluation.candidates import digest
from prefreg.evaluation.evaluate import Requirement, parse_requirements
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import open_dials
from prefreg.evaluation.figures import RESERVED
from prefreg.progress import Progress
from prefreg.registry import Access
from prefreg.terms import Term, parse_reference

_TARGET = re.compile(r"\s*([a-z][a-z0-9_.-]*)\s*=\s*(max|min)\s*")
_TARGET_FORM = "Write NAME=max or NAME=min, as in helpful=max or kl=min."
_DOUBT = 0.25
"""How likely a setting must violate the bound on KL for that to be looked at first."""
_FRESH = 4
"""Winners that are measured on fresh prompts, of a budget that is large enough."""
_FRESH_TIMES = 4
"""Fresh prompts, over those of the search: what is recommended shall be known well."""
_BOLD, _CAUTIOUS = 0.5, 0.9
"""How probably fresh prompts shall confirm a winner: the first, and the last where none was."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """A setting on fresh prompts."""

    trial: Trial
    probability: float
    """That other prompts would meet every constraint."""
    figures: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a study found."""

    dials: tuple[str, ...]
    """The versions that are turned."""
    axes: tuple[str, ...]
    target: str
    subject_to: str
    best: Recommended
    base: tuple[Interval, ...]
    goals: tuple[Goal, ...]
    bounds: Mapping[str, str]
    """Each constraint by its figure, as it was asked for."""
    front: tuple[Trial, ...]
    """The settings likely to be feasible that none beats in every goal, the best first."""
    trials: tuple[Trial, ...]
    shown: tuple[tuple[Interval, ...], ...]
    """The figures of each trial."""
    study: str | None
    prompts: int
    fresh_prompts: int
    warnings: tuple[str, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is recommended, as compose takes it."""
        pairs = zip(self.dials, self.best.trial.etas, strict=True)
        found = [(*parse_reference(dial), eta) for dial, eta in pairs if eta]
        return tuple(Term(axis, eta, version) for axis, version, eta in found)

    @property
    def compose_line(self) -> str:
        """The command that composes what is recommended."""
        return " ".join(["prefreg compose", *map(str, self.terms)])

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        best = self.best
        return {
            "target": self.target,
            "subject_to": self.subject_to,
            "best": {
                "terms": dict(zip(self.axes, best.trial.etas, strict=True)),
                "versions": list(self.dials),
                "probability": best.probability,
                "figures": {each.name: each.to_json() for each in best.figures},
                "compose": self.compose_line,
            },
            "base": {each.name: each.to_json() for each in self.base},
            "front": [each.to_json(self.axes) for each in self.front],
            "evaluations": len(self.trials),
            "trials": [each.to_json(self.axes) for each in self.trials],
            "study": self.study,
            "prompts": self.prompts,
            "fresh_prompts": self.fresh_prompts,
            "interval": "95 %, over groups of prompts, for this φ",
            "warnings": list(self.warnings),
        }


def parse_target(text: str) -> list[Goal]:
    """Read what is made as large or small as can be."""
    goals = []
    for part in text.split(","):
        found = _TARGET.fullmatch(part)
        if not found:
            raise UsageError(f"{part.strip()!r} is no target. {_TARGET_FORM}")
        goals.append(Goal(found[1], 1 if found[2] == "max" else -1))
    if len({goal.name for goal in goals}) < len(goals):
        raise UsageError(f"A figure is named twice in {text!r}.")
    return goals


def refuse_contradictions(wishes: Sequence[Requirement]) -> None:
    """Refuse bounds on one figure that no value meets."""
    for first in wishes:
        for second in wishes:
            opposed = first.operator[0] == ">" and second.operator[0] == "<"
            strict = "=" not in first.operator + second.operator or first.bound > second.bound
            if first.name == second.name and opposed and first.bound >= second.bound and strict:
                raise UsageError(f"{first} and {second} contradict each other: no value is both.")


def tune(
    access: Access,
    wanted: TuneRequest,
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Tuned:
    """Find the setting that serves the target best among those likely to meet the constraints.

    Raises:
        UsageError: The target or a constraint is malformed, they contradict each other, or the
            budget is too small.
        DataError: A figure cannot be measured or does not move, a dial has no range, or no setting
            is likely to meet the constraints; the message has the nearest.
    """
    goals = parse_target(wanted.target)
    requirements = parse_requirements(wanted.subject_to) if wanted.subject_to.strip() else ()
    refuse_contradictions(requirements)
    study, kept = open_study(access, wanted, request, goals, requirements, progress)
    search = _make_search(study, wanted, request.seed)
    return run(study, search, wanted, kept, progress)


def open_study(
    access: Access,
    wanted: TuneRequest,
    request: EvaluationRequest,
    goals: Sequence[Goal],
    requirements: Sequence[Requirement],
    progress: Progress | None = None,
) -> tuple[Study, Kept | None]:
    """Open the dials, the prompts of the search and fresh ones."""
    dials = [Term(axis, 1.0, version) for axis, version in map(parse_reference, wanted.axes)]
    names = [goal.name for goal in goals] + [each.name for each in requirements]
    scored = [name.partition(".")[0] for name in names if name not in RESERVED]
    evaluator = open_dials(access, dials, request, progress)
    own = [term.record.axis for term in evaluator.terms]
    known = [alias for term in evaluator.terms for alias in term.record.axis_aliases]
    if more := [axis for axis in scored if axis not in (*own, *known) and "." not in axis]:
        request = replace(request, axes=tuple(dict.fromkeys((*own, *more))))
        evaluator = open_dials(access, dials, request, progress)
    refuse_mixed_contrasts([term.record for term in evaluator.terms])
    count = len(own)
    if wanted.budget < least_budget(count):
        raise UsageError(
            f"--budget {wanted.budget} is too small to learn how {count} dials act: give at least "
            f"{least_budget(count)}."
        )
    evaluator.coupled = True
    again = replace(request, seed=request.seed + 1, prompts=_FRESH_TIMES * request.prompts)
    other = open_dials(access, dials, again, progress)
    searched, fresh = part_prompts(evaluator.asked, other.asked)
    evaluator.asked = searched
    twin = replace(evaluator.asking(fresh), request=other.request, pairs=other.pairs, _tokens={})
    study = Study.open(evaluator, twin, goals, requirements)
    if wanted.study is None:
        return study, None
    first = evaluator.terms[0].record
    key = digest(
        [
            [term.record.sha256 for term in evaluator.terms],
            evaluator.drawing,
            sorted(study.names),
        ]
    )
    protocol = f"{', '.join(study.names)}; {evaluator.describe_prompts()}, seed {request.seed}"
    kept = Kept(access, wanted.study, key, first.axis, first.number, protocol, study.axes)
    return study, kept


def least_budget(dials: int) -> int:
    """Return the smallest budget: the base, a few settings a dial, and two fresh ones."""
    return 2 * dials + 4


def _make_search(study: Study, wanted: TuneRequest, seed: int) -> Search:
    dials = len(study.low)
    first = max(dials + 2, min(wanted.budget // 4, 2 * dials + 4))
    if wanted.backend == "optuna":
        from prefreg.choosing.optuna_search import OptunaSearch

        return OptunaSearch(study.goals, study.bounds, dials, seed)
    times = len(study.fresh.asked) / len(study.evaluator.asked)
    return GeometrySearch(
        study.goals, study.bounds, study.priors(), dials, first, seed, fresh_times=times
    )


def run(
    study: Study,
    search: Search,
    wanted: TuneRequest,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Measure up to the budget, and then the winners on fresh prompts."""
    known = kept.trials() if kept else []
    study.trials = list(known)
    for trial in known:
        search.tell(study.measured(trial), fresh=trial.fresh)

    def note(trials: Sequence[Trial]) -> None:
        study.trials += trials
        for trial in trials:
            search.tell(study.measured(trial), fresh=trial.fresh)
        if kept:
            kept.add(trials)
        if progress is not None:
            progress("settings", min(len(study.trials), wanted.budget), wanted.budget)

    reserve = max(2, min(_FRESH, wanted.budget // 8))
    try:
        if not study.trials:
            note([study.measure((0.0,) * len(study.low))])
        while len(study.trials) < wanted.budget - reserve:
            count = min(wanted.at_once, wanted.budget - reserve - len(study.trials))
            note([_measure(study, search, point) for point in search.ask(count)])
            _require_movement(study)
        best = _choose(study, search, note, wanted.budget)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. {len(study.trials)} of {wanted.budget} settings are measured and kept: "
            "the same command goes on from there."
        ) from None
    base = next(each for each in study.trials if not any(each.etas))
    return Tuned(
        dials=tuple(str(term.record) for term in study.evaluator.terms),
        axes=study.axes,
        target=wanted.target,
        subject_to=wanted.subject_to,
        best=best,
        base=study.intervals(base),
        goals=tuple(study.goals),
        bounds=_bounds_by_figure(study.wishes),
        front=study.front(),
        trials=tuple(study.trials),
        shown=tuple(map(study.intervals, study.trials)),
        study=wanted.study,
        prompts=len(study.evaluator.asked),
        fresh_prompts=len(study.fresh.asked),
        warnings=tuple(_warnings(study, best.trial)),
    )


def _measure(study: Study, search: Search, point: Array) -> Trial:
    etas = study.etas(point)
    doubtful = False
    if isinstance(search, GeometrySearch) and any(b.name == "kl" for b in search.bounds):
        place = next(n for n, bound in enumerate(search.bounds) if bound.name == "kl")
        doubtful = 1 - float(search.feasibility(point[None])[0, place]) > _DOUBT
    return study.measure(etas, doubtful=doubtful)


def _require_movement(study: Study) -> None:
    """Refuse a target that no setting moves."""
    full = [each for each in study.trials if len(each.readings) == len(study.names)]
    if len(full) < 2 * len(study.low) + 1:
        return
    for goal in study.goals:
        readings = [each.readings[goal.name] for each in full]
        levels = np.array([each.level for each in readings])
        errors = np.array([max(each.error, 1e-9) for each in readings])
        mean = float(np.average(levels, weights=errors**-2))
        if (((levels - mean) / errors) ** 2).mean() < 0.05:
            value = study.interval(goal.name, readings[0])
            raise DataError(
                f"No dial moves {goal.name!r}: it is {value.value:.3g} [{value.low:.3g}, "
                f"{value.high:.3g}] at the base and the same at {len(full) - 1} other settings. "
                "Choose another target, or turn other axes."
            )


def _choose(
    study: Study, search: Search, note: Callable[[Sequence[Trial]], None], budget: int
) -> Recommended:
    """Measure winners on fresh prompts until the budget is spent, and return the best of them.

    The first is chosen boldly, and each one more cautiously until fresh prompts confirm one.
    """
    tried, most, caution = 0, max(1, budget - len(study.trials) - 1), 0.0
    while len(study.trials) < budget or not any(each.fresh for each in study.trials):
        known = [each for each in study.trials if each.fresh]
        confirmed = any(study.probability(each) >= LIKELY for each in known)
        caution = 0.0 if confirmed else max(caution, tried / most)
        etas = _winner(study, search, _BOLD + caution * (_CAUTIOUS - _BOLD))
        if any(each.etas == etas for each in known):
            if confirmed or caution >= 1:
                break
            caution = 1.0
            continue
        note([study.measure_fresh(etas)])
        tried += 1
    fresh = [each for each in study.trials if each.fresh]
    likely = [each for each in fresh if study.probability(each) >= LIKELY]
    if not likely:
        raise DataError(_say_infeasible(study, search, fresh))
    best = max(likely, key=study.worth)
    return Recommended(best, study.probability(best), study.intervals(best))


def _winner(study: Study, search: Search, least: float) -> tuple[float, ...]:
    """Return the setting to measure on fresh prompts next."""
    fresh = {each.etas for each in study.trials if each.fresh}
    if isinstance(search, GeometrySearch):
        return study.etas(search.winner(least))
    # A search without surrogates: the best of what was measured, the likeliest where none is good.
    full = [each for each in study.trials if len(each.readings) == len(study.names)]
    rest = [each for each in full if each.etas not in fresh] or full
    likely = [each for each in rest if study.probability(each) >= LIKELY]
    if likely:
        return max(likely, key=study.worth).etas
    return max(rest, key=study.probability).etas


def _bounds_by_figure(wishes: Sequence[Wish]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for wish in wishes:
        requirement = wish.requirement
        found.setdefault(wish.gauge.name, []).append(f"{requirement.operator}{requirement.bound:g}")
    return {name: ", ".join(bounds) for name, bounds in found.items()}


def _warnings(study: Study, best: Trial) -> list[str]:
    searched = [study.scaled(each.etas) for each in study.trials if not each.fresh]
    found = []
    if outside_hull(study.scaled(best.etas), np.array(searched)):
        found.append(
            "The setting lies outside the hull of those that the search measured, where surrogates "
            "extrapolate; it was measured itself on fresh prompts."
        )
    return found


def _say_infeasible(study: Study, search: Search, fresh: Sequence[Trial]) -> str:
    """Say that no setting is likely to do, what is in each other's way, and what comes nearest."""
    nearest = max(fresh, key=study.probability)
    told = ", ".join(
        f"{wish.gauge.name} {study.interval(wish.gauge.name, reading).value:.3g}"
        for wish in study.wishes
        if (reading := nearest.readings.get(wish.gauge.name)) is not None
    )
    terms = " ".join(
        f"{axis}:{eta:g}" for axis, eta in zip(study.axes, nearest.etas, strict=True) if eta
    )
    return (
        f"No setting is likely to meet {_blame(study, search)} on fresh prompts. The nearest is "
        f"{terms or 'the base'} with {told} (probability {study.probability(nearest):.2f}): relax "
        "a bound, ask more prompts, or raise --budget."
    )


def _blame(study: Study, search: Search) -> str:
    """Name the constraint that is out of reach, or the two that conflict."""
    everything = " and ".join(str(wish.requirement) for wish in study.wishes)
    if not isinstance(search, GeometrySearch):
        return everything
    points = np.random.default_rng(0).uniform(-1, 1, (4096, len(study.low)))
    points = np.vstack([points, [each.point for each in search.measured]])
    likely = search.feasibility(points)
    alone = likely.max(0)
    if alone.min() < 0.5:
        wish = study.wishes[int(alone.argmin())]
        return f"{wish.requirement}, which is out of reach even alone"
    pairs = [
        (float((likely[:, one] * likely[:, other]).max()), one, other)
        for one in range(len(alone))
        for other in range(one)
    ]
    if pairs and min(pairs)[0] < 0.5:
        _, one, other = min(pairs)
        first, second = study.wishes[other].requirement, study.wishes[one].requirement
        return f"{first} together with {second}, which conflict"
    return everything
