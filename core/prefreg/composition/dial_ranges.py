"""What was measured of a dial and kept with its version: its range, and its calibrated scale."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from prefreg.composition.resolve import ResolvedTerm, resolve_stored
from prefreg.errors import RegistryError, UsageError
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term, format_eta

RANGE, CALIBRATION = "range", "calibration"
"""The kinds of measurement under which they are kept; the newest of a kind counts."""


def newest(record: VersionRecord, kind: str) -> Any | None:
    """Return the newest measurement of a kind; None where there is none."""
    return next((each.value for each in reversed(record.measurements) if each.kind == kind), None)


def range_warnings(terms: Iterable[ResolvedTerm]) -> list[str]:
    """Say which terms lie beyond the range that was measured of their version."""
    warnings = []
    for term in terms:
        kept = newest(term.record, RANGE)
        if kept is None or kept["low"] <= term.eta <= kept["high"]:
            continue
        side = kept["above" if term.eta > 0 else "below"]
        low, high = format_eta(kept["low"]), format_eta(kept["high"])
        why = f": {side['reason']}" if side["reason"] else ", beyond which nothing was measured"
        warnings.append(
            f"{term.record} at {format_eta(term.eta)} is outside its range of {low} to {high}{why}."
        )
    return warnings


def translate(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> tuple[Term, ...]:
    """Turn calibrated coefficients into raw ones, each by the scale kept with its version."""
    with access.reading() as store:
        found = resolve_stored(store, terms, base, at)
    raw, goals = [], dict[str, list[str]]()
    for term in found:
        kept = newest(term.record, CALIBRATION)
        if kept is None:
            raise RegistryError(
                f"{term.record} is not calibrated. Run `prefreg calibrate {term.record}`, or "
                "compose with raw coefficients."
            )
        raw.append(_raw(term, kept))
        goals.setdefault(kept["goal"], []).append(str(term.record))
    if len(goals) > 1:
        said = "; ".join(f"{', '.join(names)} to {goal}" for goal, names in goals.items())
        raise UsageError(
            f"These are calibrated to different effects: {said}. Calibrate them alike."
        )
    return tuple(raw)


def _raw(term: ResolvedTerm, kept: Mapping[str, Any]) -> Term:
    record = term.record
    scale = kept["positive" if term.eta > 0 else "negative"]["eta"]
    if scale is None and term.eta:
        side = "+" if term.eta > 0 else "−"
        raise RegistryError(
            f"{record} has no scale on its {side} side, where its effect does not reach one unit. "
            "Compose it with a raw coefficient, or calibrate it to a smaller --target."
        )
    return Term(record.axis, abs(term.eta) * scale if term.eta else 0.0, str(record.number))
