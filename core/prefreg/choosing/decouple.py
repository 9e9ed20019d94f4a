"""Decoupled dials: η from the effects that are wanted on each axis, measured as it goes.

One linear solve is not enough, as effects bend: damped Gauss–Newton measures J anew at every step,
keeps inside the ranges of the dials, and pays for a step in nats, the metric of the functional
geometry. What it reaches is a mean over prompts, and so what single prompts do is told beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np

from prefreg.choosing.gauges import Array, Effect, Gauge, Panel
from prefreg.composition.resolve import RANGE, newest
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.dial_effects import find_geometry
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.statistics import Estimate, draw_weights, grouped_mean
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term, brief_eta, format_eta

MOST_STEPS = 4
"""Times that J is measured."""
ON_TARGET = 0.2
"""Of what is asked: as far may an effect be from it."""
OFF_TARGET = 0.1
"""Calibrated units that an axis asked to stay may move."""
_ENOUGH = 0.25
"""Of what is allowed: as near is near enough to stop."""
_CONDITION = 0.1
"""The smallest singular value of J over the largest, below which noise would be solved for."""
_STEP_NATS = 1.0
"""That a step may cost at most, at first."""
_DAMPING = 0.01
_DRAWS = 400
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class PerPrompt:
    """What single prompts do under a dial or a setting; a mean hides it."""

    axis: str
    spread: float | None
    """Standard deviation over groups of prompts of ∂m/∂η of the axis's own dial, in units of its
    mean; None where the groups are too small to tell it from chance."""
    moved: int
    """Prompts whose answer scores otherwise than the base's."""
    against: int
    """Of those, the ones that moved against the request, or down where none was wanted."""
    p: float
    """Of so uneven a split if both ways were alike (McNemar's exact test)."""

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        wrong = self.against / self.moved if self.moved else None
        return {
            "axis": self.axis,
            "spread": self.spread,
            "moved": self.moved,
            "against": self.against,
            "share_against": wrong,
            "p": self.p,
        }


@dataclass(frozen=True, slots=True)
class Aim:
    """One axis with the effect that is wanted and what was reached."""

    axis: str
    unit: str
    wanted: float
    effect: Effect

    @property
    def reached(self) -> bool:
        """Whether what was measured can be what is wanted: 20 % of it, or .1 where none is."""
        room = max(ON_TARGET * abs(self.wanted), OFF_TARGET)
        return self.effect.low <= self.wanted + room and self.effect.high >= self.wanted - room

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        found: dict[str, Any] = {"axis": self.axis, "unit": self.unit, "wanted": self.wanted}
        return found | {"effect": self.effect.to_json(), "reached": self.reached}


@dataclass(frozen=True, slots=True)
class Step:
    """One setting on the way, with how far its effects were from what is wanted."""

    etas: tuple[float, ...]
    effects: tuple[float, ...]
    distance: float


@dataclass(frozen=True, slots=True)
class Decoupled:
    """The coefficients that have the effects asked for, and what they do."""

    terms: tuple[Term, ...]
    formula: str
    aims: tuple[Aim, ...]
    steps: tuple[Step, ...]
    per_prompt: tuple[PerPrompt, ...]
    kl: Estimate
    condition: float
    prompts: int

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "terms": {term.axis: term.eta for term in self.terms},
            "formula": self.formula,
            "aims": [aim.to_json() for aim in self.aims],
            "steps": [
                {"etas": list(step.etas), "effects": list(step.effects), "distance": step.distance}
                for step in self.steps
            ],
            "per_prompt": [each.to_json() for each in self.per_prompt],
            "kl": self.kl.to_json(),
            "condition": self.condition,
            "prompts": self.prompts,
            "interval": "90 %, over groups of prompts, for this φ",
        }


def range_of(record: VersionRecord) -> tuple[float, float]:
    """Return the valid range that is kept with a version.

    Raises:
        DataError: None was measured.
    """
    kept = newest(record, RANGE)
    if kept is None:
        raise DataError(
            f"{record} has no stored range, within which η could be sought: run `prefreg range "
            f"{record}` first."
        )
    return float(kept["low"]), float(kept["high"])


@dataclass
class Dialling:
    """The search for the η of some effects, with everything that it needs to measure."""

    evaluator: Evaluator
    gauges: tuple[Gauge, ...]
    """One an axis, as the dials are ordered."""
    low: Array
    high: Array
    gram: Array
    """Nats: ½ηᵀGη is about what a setting costs."""
    panel: Panel = field(init=False)

    def __post_init__(self) -> None:
        self.panel = Panel(self.evaluator)

    @classmethod
    def open(cls, evaluator: Evaluator) -> "Dialling":
        """Find the ranges, the figures and the geometry of the dials of an evaluator."""
        panel = Panel(evaluator)
        records = [term.record for term in evaluator.terms]
        ranges = np.array([range_of(record) for record in records])
        gauges = tuple(panel.effect_gauge(record.axis) for record in records)
        gram = find_geometry(evaluator).gram
        return cls(evaluator, gauges, ranges[:, 0], ranges[:, 1], gram)

    def effects(self, candidate: Candidate) -> tuple[Effect, ...]:
        """Measure what a setting does to every axis, in calibrated units."""
        plain = self.evaluator.plain
        if not candidate.versions:
            return tuple(Effect(0.0, 0.0, 1) for _ in self.gauges)
        return tuple(gauge.effect(candidate, plain) for gauge in self.gauges)

    def slopes(self, candidate: Candidate) -> list[Array]:
        """Measure J at a setting: of each axis, what each group of prompts adds to its row."""
        return [
            gauge.slopes(candidate, self.panel.scores(gauge, candidate)) for gauge in self.gauges
        ]

    def estimate(self, at: Array, first: Sequence[Array], here: Sequence[Array]) -> Array:
        """Estimate the effects of a setting in two ways, each by its own noise.

        Directly, as the difference of two levels; and along the straight way from the base, by
        the slopes at both of its ends. Near the base the second has much less noise.
        """
        effects = self.effects(self.evaluator.at(at.tolist()))
        found = []
        for effect, begin, end in zip(effects, first, here, strict=True):
            along = (begin + end) / 2 @ at
            spread = len(along) * float(along.var(ddof=1))
            # What slopes that change unevenly on the way would add.
            bend = float((end - begin).sum(0) @ at) / 6
            direct, way = (1 / (noise + 1e-12) for noise in (effect.error**2, spread + bend**2))
            share = direct / (direct + way)
            found.append(share * effect.value + (1 - share) * float(along.sum()))
        return np.array(found)

    def step(self, jacobian: Array, residual: Array, at: Array, nats: float) -> Array:
        """Return the setting that a damped step leads to, inside the ranges.

        The damping grows until the step costs at most `nats`.
        """
        damping = _DAMPING
        while True:
            matrix = jacobian.T @ jacobian + damping * self.gram
            change = solve_in_box(matrix, jacobian.T @ residual, self.low - at, self.high - at)
            if 0.5 * change @ self.gram @ change <= nats or damping > 1e6:
                return np.asarray(at + change)
            damping *= 2

    def seek(self, wanted: Array, *, most: int = MOST_STEPS) -> tuple[Array, list[Step]]:
        """Walk to the setting whose effects are the nearest to what is wanted."""
        at = np.zeros(len(wanted))
        best, least = at, float("inf")
        steps: list[Step] = []
        first = self.slopes(self.evaluator.plain)
        jacobian = np.stack([each.sum(0) for each in first])
        nats = _STEP_NATS
        for measured in range(most + 1):
            here = self.slopes(self.evaluator.at(at.tolist())) if measured else first
            effects = self.estimate(at, first, here)
            miss = (effects - wanted) / np.maximum(ON_TARGET * np.abs(wanted), OFF_TARGET)
            distance = float(np.abs(miss).max())
            steps.append(Step(tuple(at.tolist()), tuple(effects.tolist()), distance))
            if distance < least:
                best, least, reached = at, distance, effects
                jacobian = np.stack([each.sum(0) for each in here])
            else:
                nats /= 4  # it went too far: a shorter step from the best one
            if least < _ENOUGH or measured == most:
                break
            # What is asked to stay weighs as its tolerance says.
            weights = 1 / np.maximum(ON_TARGET * np.abs(wanted), OFF_TARGET)
            following = self.step(
                jacobian * weights[:, None], (wanted - reached) * weights, best, nats
            )
            at = np.array([float(f"{eta:.{_DIGITS}g}") for eta in following])
            if np.allclose(at, best, atol=1e-3):
                break
        return best, steps

    def conditioning(self) -> tuple[float, float]:
        """Return σ_min/σ_max of J at the base, and its lower bound of 95 % over groups.

        Columns are per √nat of a dial, so that the length of φ does not count.
        """
        rows = self.slopes(self.evaluator.plain)
        scale = 1 / np.sqrt(np.maximum(np.diag(self.gram), 1e-12))

        def ratio(jacobian: Array) -> float:
            values = np.linalg.svd(jacobian * scale, compute_uv=False)
            return float(values[-1] / values[0]) if values[0] else 0.0

        drawn = [
            draw_weights(len(each), _DRAWS, (0, place)) @ each for place, each in enumerate(rows)
        ]
        ratios = [ratio(np.stack([each[draw] for each in drawn])) for draw in range(_DRAWS)]
        return ratio(np.stack([each.sum(0) for each in rows])), float(np.quantile(ratios, 0.05))


def solve_in_box(matrix: Array, right: Array, low: Array, high: Array) -> Array:
    """Minimise ½xᵀMx − bᵀx between bounds, for M positive definite, one coordinate at a time."""
    found = np.clip(np.zeros(len(right)), low, high)
    for _ in range(2000):
        before = found.copy()
        for place in range(len(found)):
            others = right[place] - matrix[place] @ found + matrix[place, place] * found[place]
            found[place] = np.clip(others / matrix[place, place], low[place], high[place])
        if np.abs(found - before).max() < 1e-10:
            break
    return found


def decouple(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Decoupled:
    """Find the η whose effects are those of the terms, each in calibrated units; 0 is to stay.

    Raises:
        UsageError: Nothing shall move.
        DataError: A dial has no range or nothing measures it, the dials cannot be told apart, or
            the effects are not reached; the message has the nearest point that is.
    """
    if not any(term.eta for term in terms):
        raise UsageError(
            "--decouple needs an effect that is wanted, as in harmless:1 helpful:0, where 0 means "
            "that an axis shall stay."
        )
    turned = [Term(term.axis, 1.0, term.reference) for term in terms]
    evaluator = open_dials(access, turned, request, progress)
    evaluator.coupled = True
    dialling = Dialling.open(evaluator)
    wanted = _wanted(access, terms, evaluator)
    condition, bound = dialling.conditioning()
    if bound <= _CONDITION and len(wanted) > 1:
        raise DataError(
            f"These dials cannot be told apart on {len(evaluator.asked)} prompts: the smallest "
            f"singular value of J is {condition:.2f} of the largest, and may be {bound:.2f}, where "
            f"more than {_CONDITION} is needed. Leave out an axis, or ask for more prompts."
        )
    etas, steps = dialling.seek(wanted)
    found = describe(dialling, wanted, etas, steps, condition)
    if missed := [aim for aim in found.aims if not aim.reached]:
        raise DataError(_say_missed(found, missed))
    return found


def _wanted(access: Access, terms: Sequence[Term], evaluator: Evaluator) -> Array:
    with access.reading() as store:
        effects = {store.canonical(term.axis) or term.axis: term.eta for term in terms}
    return np.array([effects[term.record.axis] for term in evaluator.terms])


def describe(
    dialling: Dialling, wanted: Array, etas: Array, steps: Sequence[Step], condition: float
) -> Decoupled:
    """Measure everything that is told of a setting."""
    evaluator = dialling.evaluator
    candidate = evaluator.at(etas.tolist())
    axes = [term.record.axis for term in evaluator.terms]
    effects = dialling.effects(candidate)
    aims = [
        Aim(axis, str(gauge.unit), float(want), effect)
        for axis, gauge, want, effect in zip(axes, dialling.gauges, wanted, effects, strict=True)
    ]
    slopes = dialling.slopes(evaluator.plain)
    per_prompt = [
        _per_prompt(dialling, place, candidate, float(wanted[place]), slopes[place][:, place])
        for place in range(len(axes))
    ]
    nats = evaluator.answers(candidate).nats
    return Decoupled(
        terms=tuple(
            Term(term.record.axis, float(eta), str(term.record.number))
            for term, eta in zip(evaluator.terms, etas, strict=True)
        ),
        formula=candidate.formula,
        aims=tuple(aims),
        steps=tuple(steps),
        per_prompt=tuple(per_prompt),
        kl=grouped_mean(nats, evaluator.groups),
        condition=condition,
        prompts=len(evaluator.asked),
    )


def _per_prompt(
    dialling: Dialling, place: int, candidate: Candidate, wanted: float, slopes: Array
) -> PerPrompt:
    evaluator, gauge = dialling.evaluator, dialling.gauges[place]
    changes = gauge.changes(candidate, evaluator.plain)
    changes = changes[np.isfinite(changes) & (changes != 0)]
    moved = len(changes)
    against = int((changes * (wanted if wanted else 1.0) < 0).sum())
    return PerPrompt(
        axis=evaluator.terms[place].record.axis,
        spread=spread_of_slopes(dialling, place),
        moved=moved,
        against=against,
        p=sign_test(against, moved),
    )


def spread_of_slopes(dialling: Dialling, place: int) -> float | None:
    """Return the spread over groups of prompts of an axis's slope by its own dial, over its mean.

    The slope of one group is mostly chance. Each group is cut into two halves, whose covariance
    over groups has no chance in it.
    """
    gauge, evaluator = dialling.gauges[place], dialling.evaluator
    scores = dialling.panel.scores(gauge, evaluator.plain)
    if scores is None:
        return None
    rows, groups = gauge.rows(evaluator.plain), list(gauge.metric.groups)
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        if rows[number, 1]:
            members.setdefault(group, []).append(number)
    mean = rows[:, 0].sum() / rows[:, 1].sum()
    products = (rows[:, 0] - mean) * (scores[:, place] - scores[:, place].mean())
    halves = np.array(
        [
            [products[each[0::2]].mean(), products[each[1::2]].mean()]
            for each in members.values()
            if len(each) > 1
        ]
    )
    if len(halves) < 5:
        return None
    covariance = float(np.cov(halves.T)[0, 1])
    level = float(halves.mean())
    return float(np.sqrt(max(0.0, covariance)) / abs(level)) if level else None


def sign_test(hits: int, count: int) -> float:
    """Return the probability of so uneven a split of `count` by chance, two-sided and exact."""
    if not count:
        return 1.0
    fewer = min(hits, count - hits)
    tail = sum(comb(count, each) for each in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _say_missed(found: Decoupled, missed: Sequence[Aim]) -> str:
    told = "; ".join(
        f"{aim.axis} {aim.effect.value:+.2f} [{aim.effect.low:+.2f}, {aim.effect.high:+.2f}] for "
        f"{format_eta(aim.wanted)}"
        for aim in missed
    )
    nearest = ", ".join(f"{aim.axis} {aim.effect.value:+.2f}" for aim in found.aims)
    terms = " ".join(f"{term.axis}:{brief_eta(term.eta)}" for term in found.terms if term.eta)
    return (
        f"These effects are not reached inside the ranges of the dials: {told}. The nearest point "
        f"is {terms or 'the base'}, with {nearest}: ask for less, for other effects on those axes, "
        "or compose that."
    )
