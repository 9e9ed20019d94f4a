"""What is wrong with a composition, by the paper's failure signatures, and what to do about it.

Each is decided from measurements alone: weak (an axis hardly moves), over-refusing (safe requests
are refused), incoherent (answers fall apart).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prefreg.terms import format_eta

WEAK = 0.25
"""Base standard deviations of the held-out margin below which an axis counts as not moved."""
REFUSING = 0.1
"""Share of safe requests refused, which a plain base of the paper stays below."""
MALFORMED = 0.02
UNMOVED = 0.6
"""Accuracy on held-out pairs that a pole which learned its preference has."""

Sign = Literal["weak", "over-refusing", "incoherent"]


@dataclass(frozen=True, slots=True)
class Finding:
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


def find_weakness(found: Strength) -> Finding | None:
    """Say why an axis does not move, if it does not."""
    if found.cast >= WEAK:
        return None
    at = f"{found.dial} moves its margin by {found.cast:+.2f} SD in this composition"
    if found.alone >= WEAK or found.alone - found.cast >= WEAK:
        axis = found.dial.partition("@")[0]
        other, back = found.against or ("", 0.0)
        named = f", which {other} alone moves by {back:+.2f}" if other and back < 0 else ""
        remedy = f"Lower {other.partition('@')[0]}" if named else "Lower the other coefficients"
        return Finding(
            "weak",
            found.dial,
            "lost in the cast",
            f"{at}, alone by {found.alone:+.2f}{named}.",
            f"{remedy}, raise {axis}, or compose with --method gram-schmidt --protect {axis}.",
        )
    if found.further >= WEAK:
        return Finding(
            "weak",
            found.dial,
            "η is small",
            f"{at}; at {format_eta(found.further_eta)} alone it is {found.further:+.2f}.",
            f"Raise η; `prefreg calibrate {found.dial}` says what one unit takes.",
        )
    poles = ""
    if found.accuracies is not None:
        low, high = sorted(found.accuracies)
        chance = ", hardly above chance" if low < UNMOVED else ""
        poles = f" The held-out accuracies of its poles are {low:.2f} and {high:.2f}{chance}."
    return Finding(
        "weak",
        found.dial,
        "the poles are unmoved",
        f"{at}, and alone at {format_eta(found.further_eta)} by {found.further:+.2f}.{poles}",
        "Train the axis longer or on more pairs (`prefreg add-axis`), and look at `prefreg show`.",
    )


def find_refusals(found: Shares, etas: Mapping[str, float]) -> Finding | None:
    """Say where refusals of safe requests come from, if there are too many."""
    if found.cast <= REFUSING:
        return None
    evidence = f"{found.cast:.0%} of the safe requests are refused, by the base {found.base:.0%}"
    if found.base > REFUSING and found.cast - found.base <= REFUSING:
        return Finding(
            "over-refusing",
            "the base",
            "already in the base",
            f"{evidence}.",
            "Fine-tune the base on answers to safe requests, or turn harmless below 0.",
        )
    dial = max(found.alone, key=lambda name: found.alone[name])
    alone, pole = found.alone[dial], found.at_pole.get(dial, 0.0)
    if alone - found.base <= REFUSING:
        return Finding(
            "over-refusing",
            "the composition",
            "the cast together",
            f"{evidence}; no dial alone reaches more than {alone:.0%}.",
            "Lower all coefficients in proportion, most of all "
            f"{dial.partition('@')[0]}, or compose with --method shrink.",
        )
    sign = "₊" if etas[dial] > 0 else "₋"
    if pole - found.base > REFUSING:
        return Finding(
            "over-refusing",
            dial,
            f"θ{sign} refuses already",
            f"{evidence}; {dial} alone {alone:.0%}, and {pole:.0%} about where its pole lies.",
            "Give its data safe requests that are answered, and train it again.",
        )
    return Finding(
        "over-refusing",
        dial,
        "η is large",
        f"{evidence}; {dial} alone {alone:.0%}, but {pole:.0%} about where its pole lies.",
        f"Lower its η from {format_eta(etas[dial])}.",
    )


def find_incoherence(
    found: Shares, etas: Mapping[str, float], outside: Sequence[str]
) -> Finding | None:
    """Say what breaks the answers, if they are; `outside` warns of dials beyond their range."""
    already = found.base if found.base > MALFORMED else 0.0
    if found.cast <= already + MALFORMED:
        return None
    evidence = f"{found.cast:.1%} of the answers are malformed, of the base's {found.base:.1%}"
    if outside:
        return Finding(
            "incoherent",
            outside[0].partition(" ")[0],
            "outside the range",
            f"{evidence}; {outside[0]}",
            "Stay inside the range.",
        )
    dial = max(found.alone, key=lambda name: found.alone[name])
    if found.alone[dial] > already + MALFORMED:
        return Finding(
            "incoherent",
            dial,
            "η is too large",
            f"{evidence}; {dial} alone {found.alone[dial]:.1%}.",
            f"Lower its η from {format_eta(etas[dial])}; `prefreg range {dial}` says how far it "
            "may go.",
        )
    return Finding(
        "incoherent",
        "the composition",
        "the sum is too far from the base",
        f"{evidence}; no dial alone breaks them.",
        "Lower all coefficients in proportion, or compose with --method shrink.",
    )
