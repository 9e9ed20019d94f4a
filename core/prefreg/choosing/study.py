"""The settings of some dials that are measured, on prompts to search with and on fresh ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefreg.choosing.decouple import range_of
from prefreg.choosing.gauges import Array, Gauge, Panel, Reading
from prefreg.choosing.search import Bound, Goal, Measured, normal_cdf
from prefreg.choosing.surrogate import Prior
from prefreg.errors import UsageError
from prefreg.evaluation.calibration import Unit
from prefreg.evaluation.dial_effects import find_geometry
from prefreg.evaluation.evaluate import Requirement
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import Asked
from prefreg.registry import Access

STUDY = "study"
"""The kind of measurement under which a study is kept, with the first of its versions."""
_GLANCE = 4
"""KL is looked at on every so-many-th prompt first."""
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """A bound in the figure's own unit."""

    requirement: Requirement
    gauge: Gauge

    @property
    def sign(self) -> int:
        """1 for at least, −1 for at most."""
        return 1 if self.requirement.operator in (">=", ">") else -1

    @property
    def bound(self) -> Bound:
        """The bound on the scale without ends."""
        level = self.gauge.level_of(self.requirement.bound)
        return Bound(self.gauge.name, self.sign, level)

    def likelihood(self, reading: Reading) -> float:
        """Return the probability that other prompts would meet it."""
        away = self.sign * (reading.level - self.bound.level)
        if reading.error <= 0:
            return float(away >= 0)
        return float(normal_cdf(np.array(away / reading.error)))


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting with its figures."""

    etas: tuple[float, ...]
    readings: Mapping[str, Reading]
    fresh: bool = False
    """Whether it was measured on prompts that the search did not ask."""

    def to_json(self, dials: Sequence[str]) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "terms": dict(zip(dials, self.etas, strict=True)),
            "fresh": self.fresh,
            "figures": {
                name: {"value": each.value, "level": each.level, "error": each.error}
                for name, each in self.readings.items()
            },
        }


def read_trial(kept: Mapping[str, Any], dials: Sequence[str]) -> Trial:
    """Read a setting as `to_json` writes it."""
    readings = {
        name: Reading(each["level"], each["error"], each["value"])
        for name, each in kept["figures"].items()
    }
    return Trial(tuple(kept["terms"][dial] for dial in dials), readings, bool(kept["fresh"]))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return it in a form that JSON can hold."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass
class Study:
    """The settings of some dials that are measured on one set of prompts."""

    evaluator: Evaluator
    fresh: Evaluator
    goals: list[Goal]
    wishes: list[Wish]
    low: Array
    high: Array
    panel: Panel
    fresh_panel: Panel
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        evaluator: Evaluator,
        fresh: Evaluator,
        goals: Sequence[Goal],
        requirements: Sequence[Requirement],
    ) -> "Study":
        """Find the figures and the ranges of the dials."""
        panel = Panel(evaluator)
        wishes = [Wish(each, panel.gauge(each.name)) for each in requirements]
        # Aliases become the names of the figures.
        named = [Goal(panel.gauge(goal.name).name, goal.sign) for goal in goals]
        ranges = np.array([range_of(term.record) for term in evaluator.terms])
        return cls(evaluator, fresh, named, wishes, ranges[:, 0], ranges[:, 1], panel, Panel(fresh))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the dials."""
        return tuple(term.record.axis for term in self.evaluator.terms)

    @property
    def names(self) -> list[str]:
        """The figures that matter."""
        wanted = [*(goal.name for goal in self.goals), *(wish.gauge.name for wish in self.wishes)]
        return list(dict.fromkeys(wanted))

    @property
    def bounds(self) -> list[Bound]:
        """The constraints on scales without ends."""
        return [wish.bound for wish in self.wishes]

    def scaled(self, etas: Sequence[float]) -> Array:
        """Return coefficients as −1…1 of their ranges."""
        return np.asarray(2 * (np.array(etas) - self.low) / (self.high - self.low) - 1)

    def etas(self, point: Array) -> tuple[float, ...]:
        """Return the coefficients of a point, with digits that people read."""
        raw = self.low + (point + 1) / 2 * (self.high - self.low)
        return tuple(float(f"{eta:.{_DIGITS}g}") if abs(eta) > 1e-3 else 0.0 for eta in raw)

    def priors(self) -> dict[str, Prior]:
        """Return what the functional geometry expects of each figure, from the base's answers.

        KL is ½ηᵀGη; any other figure is linear on its scale, by its slopes at the base.
        """
        gram = find_geometry(self.evaluator).gram
        plain = self.evaluator.plain
        found: dict[str, Prior] = {}
        for name in self.names:
            gauge = self.panel.gauge(name)
            if gauge.unit is Unit.NATS:
                found[name] = self._kl_prior(gauge, gram)
                continue
            scores = self.panel.scores(gauge, plain)
            level = gauge.read(plain).level
            known = scores is not None or name.endswith(".margin")
            slopes = gauge.slopes(plain, scores).sum(0) if known else np.zeros(len(self.low))
            found[name] = self._linear_prior(level, slopes)
        return found

    def _kl_prior(self, gauge: Gauge, gram: Array) -> Prior:
        tokens = 1.0
        if gauge.name == "kl_per_token":
            rows = gauge.rows(self.evaluator.plain)
            tokens = float(rows[:, 1].mean())

        def expected(points: Array) -> Array:
            etas = self.low + (points + 1) / 2 * (self.high - self.low)
            nats = 0.5 * np.einsum("ni,ij,nj->n", etas, gram, etas) / tokens
            return np.array([gauge.level_of(float(each)) for each in nats])

        return expected

    def _linear_prior(self, level: float, slopes: Array) -> Prior:
        def expected(points: Array) -> Array:
            etas = self.low + (points + 1) / 2 * (self.high - self.low)
            return np.asarray(level + etas @ slopes)

        return expected

    def measure(self, etas: tuple[float, ...], *, doubtful: bool = False) -> Trial:
        """Measure a setting; where KL is in doubt, first that, and nothing else if it is too large.

        Without coefficients it is the base.
        """
        candidate = self.evaluator.at(etas)
        wish = next((each for each in self.wishes if each.gauge.name == "kl"), None)
        if doubtful and wish is not None and wish.sign < 0:
            part = self.evaluator.asking(self.evaluator.asked[::_GLANCE])
            reading = Panel(part).gauge("kl").read(candidate)
            if wish.likelihood(reading) < 0.02:
                return Trial(etas, {"kl": reading})
        return Trial(etas, self._read(self.panel, self.evaluator, etas))

    def measure_fresh(self, etas: tuple[float, ...]) -> Trial:
        """Measure a setting on prompts that the search never asked."""
        return Trial(etas, self._read(self.fresh_panel, self.fresh, etas), fresh=True)

    def _read(
        self, panel: Panel, evaluator: Evaluator, etas: tuple[float, ...]
    ) -> dict[str, Reading]:
        candidate = evaluator.at(etas)
        found = {}
        for name in self.names:
            if name in ("kl", "kl_per_token") and not candidate.versions:
                gauge = panel.gauge(name)
                found[name] = Reading(gauge.level_of(0.0), 1e-3, 0.0)
            else:
                found[name] = panel.gauge(name).read(candidate)
        return found

    def measured(self, trial: Trial) -> Measured:
        """Return a trial as a search is told of it."""
        levels = {name: (each.level, each.error) for name, each in trial.readings.items()}
        return Measured(tuple(self.scaled(trial.etas).tolist()), levels)

    def probability(self, trial: Trial) -> float:
        """Return the probability that other prompts would meet every constraint."""
        found = 1.0
        for wish in self.wishes:
            reading = trial.readings.get(wish.gauge.name)
            found *= 0.0 if reading is None else wish.likelihood(reading)
        return found

    def worth(self, trial: Trial) -> float:
        """Return how good a trial is by the goals, over what all trials span."""
        shares = []
        for goal in self.goals:
            known = [
                goal.sign * each.readings[goal.name].level
                for each in self.trials
                if goal.name in each.readings
            ]
            own = goal.sign * trial.readings[goal.name].level
            span = max(known) - min(known)
            shares.append((own - min(known)) / span if span else 0.0)
        return float(np.prod(shares)) if len(shares) > 1 else shares[0]

    def interval(self, name: str, reading: Reading) -> Interval:
        """Return a reading in the figure's own unit, with its 95 % interval."""
        gauge = self.panel.gauge(name)
        ends = sorted(gauge.value_of(reading.level + z * reading.error) for z in (-1.96, 1.96))
        return Interval(
            name, reading.value, min(ends[0], reading.value), max(ends[1], reading.value)
        )

    def intervals(self, trial: Trial) -> tuple[Interval, ...]:
        """Return every figure of a trial with its interval."""
        return tuple(self.interval(name, each) for name, each in trial.readings.items())

    def front(self) -> tuple[Trial, ...]:
        """Return the feasible trials that none beats in all goals, the best first."""
        feasible = [
            each
            for each in self.trials
            if self.probability(each) >= 0.5
            and all(goal.name in each.readings for goal in self.goals)
        ]

        def levels(trial: Trial) -> Array:
            return np.array([g.sign * trial.readings[g.name].level for g in self.goals])

        kept = [
            each
            for each in feasible
            if not any(
                (levels(other) >= levels(each)).all() and (levels(other) > levels(each)).any()
                for other in feasible
            )
        ]
        return tuple(sorted(kept, key=self.worth, reverse=True))


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a study is kept: in the registry, beside the first of its versions."""

    access: Access
    name: str
    key: str
    """The hash of what is measured: versions, prompts and their protocol."""
    axis: str
    number: int
    protocol: str
    dials: tuple[str, ...]

    def trials(self) -> list[Trial]:
        """Return what an earlier part of the study measured.

        Raises:
            UsageError: A study of this name measured something else.
        """
        if not self.access.is_present():
            return []
        with self.access.reading() as store:
            record = store.resolve(self.axis, str(self.number))
        found: list[Trial] = []
        for each in record.measurements:
            if each.kind == STUDY and each.value["study"] == self.name:
                if each.value["key"] != self.key:
                    raise UsageError(
                        f"The study {self.name!r} is of other versions, prompts or figures. Give "
                        "this one another name."
                    )
                found += [read_trial(trial, self.dials) for trial in each.value["trials"]]
        return found

    def add(self, trials: Sequence[Trial]) -> None:
        """Append what was measured."""
        value = {
            "study": self.name,
            "key": self.key,
            "trials": [trial.to_json(self.dials) for trial in trials],
        }
        with self.access.writing() as store:
            store.measure(self.axis, self.number, STUDY, value, self.protocol)


def part_prompts(
    searched: Sequence[Asked], others: Sequence[Asked]
) -> tuple[list[Asked], list[Asked]]:
    """Return the prompts of the search, and fresh ones that it does not ask.

    Where there are too few others, every fourth group of prompts is kept from the search.
    """
    known = {(each.prompt, each.told) for each in searched}
    fresh = [each for each in others if (each.prompt, each.told) not in known]
    if 2 * len(fresh) >= len(searched):
        return list(searched), fresh
    groups = list(dict.fromkeys(each.group for each in searched))
    held = set(groups[3::4])
    return (
        [each for each in searched if each.group not in held],
        [each for each in searched if each.group in held],
    )
