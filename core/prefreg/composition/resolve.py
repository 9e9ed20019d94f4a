"""From terms to stored versions on one base model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.bundled import DEFAULT_BASE, find_bundled
from prefreg.data.templates import DAY
from prefreg.errors import BaseModelError, RegistryError, UsageError, VectorError, listed
from prefreg.registry import Access, BaseIdentity, BaseRecord, Store, VersionRecord
from prefreg.terms import Term, brief_eta

_PREFIX = 8
"""How many digits of a fingerprint name a base; messages show twelve."""


MOST_TERMS = 1000
"""Of a composition: looking up each takes its time."""


@dataclass(frozen=True, slots=True)
class ResolvedTerm:
    """A stored version with its coefficient."""

    record: VersionRecord
    eta: float
    since: int | None = None
    """As in `Term`."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The versions of a composition, in canonical order, and the base they are added to."""

    base: BaseModel
    terms: tuple[ResolvedTerm, ...]


def resolve_terms(
    store: Store,
    terms: Sequence[Term],
    base: str | None = None,
    *,
    force_base: bool = False,
    at: datetime | None = None,
) -> Resolution:
    """Find the versions that terms name, on the base given or on the one base that has them all.

    `at` asks for the versions that they named at a moment.
    """
    terms = _expand(store, terms, at)
    if base is not None:
        model = resolve_base(base)
        weights = None if force_base else model.fingerprint.weights
        return Resolution(model, resolve_on(store, terms, weights, at))
    record = only_base(store, terms, at)
    return Resolution(find_base(record), resolve_on(store, terms, record.weights, at))


def resolve_on(
    store: Store,
    terms: Sequence[Term],
    weights: str | None,
    at: datetime | None = None,
    *,
    phases: bool = False,
) -> tuple[ResolvedTerm, ...]:
    """Find the versions of terms on the base with this fingerprint, ordered by axis.

    Terms that act on a part of an answer are refused without `phases`.
    """
    terms = _expand(store, terms, at, phases=phases)
    found = [
        ResolvedTerm(
            store.resolve(term.axis, term.reference, base=weights, at=at), term.eta, term.since
        )
        for term in terms
    ]
    return tuple(sorted(found, key=lambda term: term.record.axis))


def resolve_stored(
    store: Store, terms: Sequence[Term], base: str | None = None, at: datetime | None = None
) -> tuple[ResolvedTerm, ...]:
    """Find the versions of terms as `resolve_terms` does, but leave the base model unopened."""
    weights = weights_of(store, base)
    if weights is None:
        weights = only_base(store, terms, at).weights
    return resolve_on(store, terms, weights, at)


def refuse_mixed_contrasts(records: Sequence[VersionRecord]) -> None:
    """Check that all vectors are of pairs, or all of positive poles alone."""
    single = [str(record) for record in records if record.contrast == "positive-only"]
    if single and len(single) < len(records):
        raise VectorError(
            f"{listed(single)} came from a positive pole alone, the other vectors from pairs, so "
            "a coefficient does not mean the same for both. Import the negative poles too, or "
            "compose with --mix-contrasts."
        )


def only_base(store: Store, terms: Sequence[Term], at: datetime | None = None) -> BaseRecord:
    """Find the one base that has a version of every term."""
    terms = _expand(store, terms, at)
    candidates = store.bases()
    found = [(base, _find_all(store, terms, base, at)) for base in candidates]
    fitting = [base for base, versions in found if versions is not None]
    # The registry's own come before those that ship with prefreg.
    used = {each.base.weights for each in store.summaries() if not each.starter}
    own = [
        base
        for base, versions in found
        if versions is not None
        and (any(not each.record.starter for each in versions) or not terms)
        and base.weights in used
    ]
    chosen = own or fitting
    if len(chosen) > 1:  # what nobody has installed is not meant
        chosen = [base for base in chosen if _is_installed(base)] or chosen
    if len(chosen) > 1 and not own:  # of what ships, the base that is meant where none is given
        chosen = [base for base in chosen if base.name == DEFAULT_BASE] or chosen
    if len(chosen) == 1:
        return chosen[0]
    if not candidates:
        raise RegistryError("The registry holds no vector yet. Add one with `prefreg add-axis`.")
    if not fitting:
        for term in terms:
            store.resolve(
                term.axis, term.reference, at=at
            )  # an unknown axis or version is told first
        raise RegistryError(
            "No base model has a vector for every term: "
            + "; ".join(f"{term.axis} on {_bases_of(store, term)}" for term in terms)
            + "."
        )
    names = ", ".join(map(base_spec, chosen))
    raise RegistryError(f"Several base models fit; choose one with --base: {names}.")


def _is_installed(base: BaseRecord) -> bool:
    bundled = find_bundled(base.name)
    return bundled is None or bundled.problem() is None


def find_base(record: BaseRecord) -> BaseModel:
    """Open the base model that a registry knows, and check that its content is the same."""
    spec = base_spec(record)
    if record.path is not None and spec == record.path and not Path(spec).exists():
        raise BaseModelError(
            f"The base model is no longer at {spec}. If it has moved, give --base NEWPATH."
        )
    model = resolve_base(spec)
    if model.fingerprint.weights != record.weights:
        raise BaseModelError(
            f"The base model at {spec} has changed: its weights are "
            f"{model.fingerprint.weights[:12]}, the vectors belong to {record.weights[:12]}."
        )
    return model


def weights_of(store: Store, base: str | None) -> str | None:
    """Return the fingerprint of a base: one that the registry knows, else one that is opened."""
    if base is None:
        return None
    known = [
        record.weights
        for record in store.bases()
        if base in (record.name, record.path, base_spec(record))
        or (len(base) >= _PREFIX and record.weights.startswith(base))
    ]
    if len(known) > 1:
        raise RegistryError(
            f"Several bases are called {base!r}. Give one by its fingerprint: {', '.join(known)}."
        )
    return known[0] if known else resolve_base(base).fingerprint.weights


def base_spec(record: BaseIdentity) -> str:
    """Return what `--base` takes to name this base again."""
    return f"{record.name}@{record.revision}" if record.revision else record.name


def identify(model: BaseModel) -> BaseIdentity:
    """Describe a base model as the registry records it."""
    found = model.fingerprint
    return BaseIdentity(
        name=model.name,
        revision=model.revision,
        path=model.name if Path(model.name).is_absolute() else None,
        weights=found.weights,
        tokenizer=found.tokenizer,
        template=found.template,
        parameters=found.parameters,
        dtype=found.dtype,
    )


def _expand(
    store: Store, terms: Sequence[Term], at: datetime | None, *, phases: bool = False
) -> tuple[Term, ...]:
    if len(terms) > MOST_TERMS:
        raise UsageError(f"A composition takes at most {MOST_TERMS} terms, not {len(terms)}.")
    found = store.expand(terms, at)
    if not phases and (partly := [term for term in found if term.since is not None]):
        raise UsageError(
            f"{partly[0]} acts on a part of an answer, and these weights are to act on all of it: "
            f"leave {partly[0].phase} out, or use `prefreg serve` or `prefreg chat`."
        )
    return found


def _find_all(
    store: Store, terms: Sequence[Term], base: BaseRecord, at: datetime | None
) -> tuple[ResolvedTerm, ...] | None:
    try:
        return resolve_on(store, terms, base.weights, at)
    except RegistryError:
        return None


def _bases_of(store: Store, term: Term) -> str:
    bases = {base_spec(record.base) for record in store.summaries(term.axis)}
    return " and ".join(sorted(bases))


RANGE, CALIBRATION, EVALUATION = "range", "calibration", "evaluation"
"""The kinds of measurement under which they are kept; the newest of a kind counts."""


def newest(record: VersionRecord, kind: str) -> Any | None:
    """Return the newest measurement of a kind; None where there is none."""
    return next((each.value for each in reversed(record.measurements) if each.kind == kind), None)


FURTHEST_POLES = 8.0
"""Where the ranges of the shipped vectors end: at 2 to 8 times the length of the trained pole."""


class Weighted(Protocol):
    """A version with its coefficient."""

    @property
    def record(self) -> VersionRecord:
        """Return the version."""

    @property
    def eta(self) -> float:
        """Return its coefficient."""


def range_warnings(terms: Iterable[Weighted]) -> list[str]:
    """Say which terms lie beyond the range of their version or, without one, far from its poles.

    The record has the lengths of the poles, at which training has looked.
    """
    told = [
        outside_range(term.record, term.eta) or _far_warning(term.record, term.eta)
        for term in terms
    ]
    return [each for each in told if each]


def outside_range(record: VersionRecord, eta: float) -> str | None:
    """Say whether a coefficient lies beyond the range of a version, where one was measured."""
    kept = newest(record, RANGE)
    if kept is None or kept["low"] <= eta <= kept["high"]:
        return None
    side = kept["above" if eta > 0 else "below"]
    low, high = brief_eta(kept["low"]), brief_eta(kept["high"])
    why = f": {side['reason']}" if side["reason"] else ", beyond which nothing was measured"
    return f"{record} at {brief_eta(eta)} is outside its range of {low} to {high}{why}."


def _far_warning(record: VersionRecord, eta: float) -> str | None:
    geometry = record.metadata.get("geometry") or {}
    norm = geometry.get("norm")
    if not norm or newest(record, RANGE) is not None:
        return None
    pole = geometry.get("positive_norm" if eta > 0 else "negative_norm") or norm
    times = abs(eta) * norm / pole
    if times <= FURTHEST_POLES:
        return None
    return (
        f"{record} at {brief_eta(eta)} is {times:.3g} times as far from the base as its trained "
        f"pole, so its KL is about {times * times:.3g} times the pole's. "
        f"`prefreg range {record}` measures how far it may go."
    )


def translate(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> tuple[Term, ...]:
    """Turn calibrated coefficients into raw ones, each by the scale kept with its version."""
    if presets := [str(term) for term in terms if term.preset]:
        raise UsageError(f"{presets[0]} holds raw coefficients already: leave calibration out.")
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
    eta = abs(term.eta) * scale if term.eta else 0.0
    return Term(record.axis, eta, str(record.number), term.since)


def trained_options(records: Iterable[VersionRecord]) -> dict[str, Any]:
    """Return what the chat template was told when versions were trained; the latest day of several.

    Raises:
        UsageError: They were told different things.
    """
    first, common, days = None, dict[str, Any](), []
    for record in records:
        found = record.template_options
        if found is None:
            continue
        days += [found.pop(DAY)] if DAY in found else []
        if first is None:
            first, common = record, found
        elif found != common:
            raise UsageError(
                f"The chat template was told {json.dumps(common)} for {first}, and "
                f"{json.dumps(found)} for {record}: say which it shall be told now, as in "
                "--template-option enable_thinking=false."
            )
    return common | ({DAY: max(days)} if days else {})
