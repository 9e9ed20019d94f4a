"""What is wrong with a composition, by the paper's failure signatures, and what to do about it.

Each is decided from measurements alone: weak (an axis hardly moves), over-refusing (safe requests
are refused), incoherent (answers fall apart).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import copysign
from typing import Any, Literal

import numpy as np

from prefreg.composition.resolve import outside_range
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Metric, deviation_of
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term, brief_eta

WEAK = 0.25
"""Base standard deviations of the held-out margin below which an axis counts as not moved."""
REFUSING = 0.1
"""Share of safe requests refused, which a plain base of the paper stays below."""
MALFORMED = 0.02
UNMOVED = 0.6
"""Accuracy on held-out pairs that a pole which learned its preference has."""

Sign = Literal["weak", "over-refusing", "incoherent"]


@dataclass(frozen=True, slots=True)
class Symptom:
    """One failure, its cause and its remedy."""

    sign: Sign
    subject: str
    """The version that it shows in, or the composition."""
    cause: str
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Strength:
    """How far an axis moves its own margin in the direction of η, in base standard deviations."""

    dial: str
    eta: float
    cast: float
    """In the whole composition."""
    alone: float
    """With this dial alone, at the same η."""
    further: float
    """With this dial alone, turned further."""
    further_eta: float
    against: tuple[str, float] | None = None
    """The other dial that moves this margin back the most at its own η, and by how much."""
    accuracies: tuple[float, float] | None = None
    """Of both poles on held-out pairs, as the training recorded them."""


@dataclass(frozen=True, slots=True)
class Shares:
    """A share of answers: of the base, the composition and each dial alone."""

    base: float
    cast: float
    alone: Mapping[str, float]
    at_pole: Mapping[str, float]
    """With each dial alone, about where the pole lies that it was trained to."""

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        alone, at_pole = (
            [{"dial": dial, "share": share} for dial, share in shares.items()]
            for shares in (self.alone, self.at_pole)
        )
        return {"base": self.base, "composition": self.cast, "alone": alone, "at_pole": at_pole}


def find_weakness(found: Strength) -> Symptom | None:
    """Say why an axis does not move, if it does not."""
    if found.cast >= WEAK:
        return None
    at = f"{found.dial} moves its margin by {found.cast:+.2f} SD in this composition"
    if found.alone >= WEAK or found.alone - found.cast >= WEAK:
        axis = found.dial.partition("@")[0]
        other, back = found.against or ("", 0.0)
        named = f", which {other} alone moves by {back:+.2f}" if other and back < 0 else ""
        remedy = f"Lower {other.partition('@')[0]}" if named else "Lower the other coefficients"
        return Symptom(
            "weak",
            found.dial,
            "lost in the cast",
            f"{at}, alone by {found.alone:+.2f}{named}.",
            f"{remedy}, raise {axis}, or compose with --method gram-schmidt --protect {axis}.",
        )
    if found.further >= WEAK:
        return Symptom(
            "weak",
            found.dial,
            "η is small",
            f"{at}; at {brief_eta(found.further_eta)} alone it is {found.further:+.2f}.",
            f"Raise η; `prefreg calibrate {found.dial}` says what one unit takes.",
        )
    poles = ""
    if found.accuracies is not None:
        low, high = sorted(found.accuracies)
        chance = ", hardly above chance" if low < UNMOVED else ""
        poles = f" The held-out accuracies of its poles are {low:.2f} and {high:.2f}{chance}."
    return Symptom(
        "weak",
        found.dial,
        "the poles are unmoved",
        f"{at}, and alone at {brief_eta(found.further_eta)} by {found.further:+.2f}.{poles}",
        "Train the axis longer or on more pairs (`prefreg add-axis`), and look at `prefreg show`.",
    )


def find_refusals(found: Shares, etas: Mapping[str, float]) -> Symptom | None:
    """Say where refusals of safe requests come from, if there are too many."""
    if found.cast <= REFUSING:
        return None
    evidence = f"{found.cast:.0%} of the safe requests are refused, by the base {found.base:.0%}"
    dial = max(found.alone, key=lambda name: found.alone[name])
    if found.base > REFUSING and found.cast - found.base <= REFUSING:
        return Symptom(
            "over-refusing",
            "the base",
            "already in the base",
            f"{evidence}.",
            "Fine-tune the base on answers to safe requests, or turn the dial with which it "
            f"refuses most, {dial}, the other way.",
        )
    alone, pole = found.alone[dial], found.at_pole.get(dial, 0.0)
    if alone - found.base <= REFUSING:
        return Symptom(
            "over-refusing",
            "the composition",
            "the cast together",
            f"{evidence}; no dial alone reaches more than {alone:.0%}.",
            "Lower all coefficients in proportion, most of all "
            f"{dial.partition('@')[0]}, or compose with --method shrink.",
        )
    sign = "₊" if etas[dial] > 0 else "₋"
    if pole - found.base > REFUSING:
        return Symptom(
            "over-refusing",
            dial,
            f"θ{sign} refuses already",
            f"{evidence}; {dial} alone {alone:.0%}, and {pole:.0%} about where its pole lies.",
            "Give its data safe requests that are answered, and train it again.",
        )
    return Symptom(
        "over-refusing",
        dial,
        "η is large",
        f"{evidence}; {dial} alone {alone:.0%}, but {pole:.0%} about where its pole lies.",
        f"Lower its η from {brief_eta(etas[dial])}.",
    )


def find_incoherence(
    found: Shares, etas: Mapping[str, float], outside: Sequence[str]
) -> Symptom | None:
    """Say what breaks the answers, if they are; `outside` warns of dials beyond their range."""
    already = found.base if found.base > MALFORMED else 0.0
    if found.cast <= already + MALFORMED:
        return None
    evidence = f"{found.cast:.1%} of the answers are malformed, of the base's {found.base:.1%}"
    if outside:
        return Symptom(
            "incoherent",
            outside[0].partition(" ")[0],
            "outside the range",
            f"{evidence}; {outside[0]}",
            "Stay inside the range.",
        )
    dial = max(found.alone, key=lambda name: found.alone[name])
    if found.alone[dial] > already + MALFORMED:
        return Symptom(
            "incoherent",
            dial,
            "η is too large",
            f"{evidence}; {dial} alone {found.alone[dial]:.1%}.",
            f"Lower its η from {brief_eta(etas[dial])}; `prefreg range {dial}` says how far it "
            "may go.",
        )
    return Symptom(
        "incoherent",
        "the composition",
        "the sum is too far from the base",
        f"{evidence}; no dial alone breaks them.",
        "Lower all coefficients in proportion, or compose with --method shrink.",
    )


_FURTHER = 2.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found of a composition; no finding means that nothing is wrong."""

    formula: str
    findings: tuple[Symptom, ...]
    strengths: tuple[Strength, ...]
    refusals: Shares | None
    malformed: Shares
    unmeasured: dict[str, str]
    prompts: int

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "formula": self.formula,
            "prompts": self.prompts,
            "findings": [asdict(finding) for finding in self.findings],
            "strengths": [asdict(strength) for strength in self.strengths],
            "refusals": self.refusals and self.refusals.to_json(),
            "malformed": self.malformed.to_json(),
            "unmeasured": self.unmeasured,
        }


def diagnose(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure a composition beside the base and each dial alone."""
    if not terms:
        raise UsageError("Give at least one TERM, as in helpful:1.")
    evaluator = open_dials(access, terms, request, progress)
    unmeasured: dict[str, str] = {}
    strengths = []
    for place, term in enumerate(evaluator.terms):
        try:
            strengths.append(_strength(evaluator, place))
        except DataError as error:
            unmeasured[str(term.record)] = str(error).rstrip(".")
    etas = {str(term.record): term.eta for term in evaluator.terms}
    of_answers = evaluator.answer_metrics()
    malformed, refusals = _shares(evaluator, of_answers["malformed"]), None
    if any(each.safe is True for each in evaluator.asked):
        refusals = _shares(evaluator, of_answers["refuses_safe"], at_pole=True)
    else:
        unmeasured["refusals"] = "no prompt is known to be safe: give prompts with a kind"
    found: list[Symptom | None] = [find_weakness(each) for each in strengths]
    if refusals is not None:
        found.append(find_refusals(refusals, etas))
    outside = [told for term in evaluator.terms if (told := outside_range(term.record, term.eta))]
    found.append(find_incoherence(malformed, etas, outside))
    return Diagnosis(
        formula=evaluator.at(evaluator.etas).formula,
        findings=tuple(finding for finding in found if finding),
        strengths=tuple(strengths),
        refusals=refusals,
        malformed=malformed,
        unmeasured=unmeasured,
        prompts=len(evaluator.asked),
    )


def _strength(evaluator: Evaluator, place: int) -> Strength:
    """Measure how far a dial moves its own held-out margin."""
    term = evaluator.terms[place]
    axis, sign = term.record.axis, copysign(1.0, term.eta)
    evaluator.require_pairs(axis)
    base = evaluator.margins(evaluator.plain, axis)
    deviation = deviation_of(base)
    if not deviation:
        raise DataError("its margin does not vary on the base")

    def moved(candidate: Candidate) -> float:
        change = (evaluator.margins(candidate, axis) - base).mean()
        return float(sign * change / deviation)

    further = sign * max(1.0, _FURTHER * abs(term.eta))
    others = {
        str(other.record): moved(evaluator.along(number, other.eta))
        for number, other in enumerate(evaluator.terms)
        if number != place
    }
    against = min(others.items(), key=lambda item: item[1]) if others else None
    return Strength(
        dial=str(term.record),
        eta=term.eta,
        cast=moved(evaluator.at(evaluator.etas)),
        alone=moved(evaluator.along(place, term.eta)),
        further=moved(evaluator.along(place, further)),
        further_eta=further,
        against=against,
        accuracies=_accuracies(term.record),
    )


def _accuracies(record: VersionRecord) -> tuple[float, float] | None:
    poles = record.metadata.get("poles") or {}
    try:
        return (
            float(poles["positive"]["report"]["accuracy"]),
            float(poles["negative"]["report"]["accuracy"]),
        )
    except (KeyError, TypeError):
        return None  # imported, or from a positive pole alone


def _shares(evaluator: Evaluator, metric: Metric, *, at_pole: bool = False) -> Shares:
    def share(candidate: Candidate) -> float:
        values = metric.read(candidate)
        return float(np.mean(values[np.isfinite(values)]))

    base, cast = share(evaluator.plain), share(evaluator.at(evaluator.etas))
    alone, poles = {}, {}
    for place, term in enumerate(evaluator.terms):
        alone[str(term.record)] = share(evaluator.along(place, term.eta))
        if at_pole:
            eta = pole_eta(term.record, copysign(1.0, term.eta))
            poles[str(term.record)] = share(evaluator.along(place, eta))
    return Shares(base, cast, alone, poles)


def pole_eta(record: VersionRecord, sign: float) -> float:
    """Return the coefficient at which θ_base + η·φ comes closest to the pole on this side.

    It is the projection of φ₊ or φ₋ on φ, from the norms and the angle that the version's record
    has; half of φ where it has none.
    """
    geometry = record.metadata.get("geometry") or {}
    keys = ("norm", "positive_norm", "negative_norm", "cosine_poles")
    values = [geometry.get(key) for key in keys]
    if any(not isinstance(value, int | float) for value in values) or not values[0]:
        return sign / 2
    whole, positive, negative, cosine = map(float, values)  # type: ignore[arg-type]
    own = positive if sign > 0 else negative
    return sign * (own**2 - positive * negative * cosine) / whole**2
