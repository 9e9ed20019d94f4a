"""Presets: named settings in versions, of which none is ever changed."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.errors import NotStoredError, RegistryError, UsageError, did_you_mean
from prefreg.registry.records import Preset, describe_moment
from prefreg.registry.schema import PresetRow
from prefreg.terms import AXIS_NAME, Term, parse_term


def append_preset(
    session: Session, name: str, terms: Sequence[Term], note: str | None, now: datetime
) -> Preset:
    """Save a setting under a name; what the newest version says already is found again."""
    standing = _standing(session, name)
    if standing and standing[-1].terms == tuple(terms) and note in (None, standing[-1].note):
        return standing[-1]
    text = " ".join(map(str, terms))
    row = PresetRow(name=name, number=_last(session, name) + 1, terms=text, note=note, created=now)
    session.add(row)
    session.flush()
    return _record(row)


def drop_preset(session: Session, name: str, location: str, now: datetime) -> Preset:
    """Remove a preset with all its versions, whose numbers are not used again."""
    newest = choose_preset(session, name, None, location)
    session.add(PresetRow(name=name, number=newest.number + 1, created=now))
    session.flush()
    return newest


def list_presets(session: Session, name: str | None = None) -> list[Preset]:
    """Return the newest version of every preset by name, or every version of one."""
    if name is not None:
        return _standing(session, name)
    names = session.scalars(select(PresetRow.name).distinct().order_by(PresetRow.name))
    return [found[-1] for each in names if (found := _standing(session, each))]


def choose_preset(
    session: Session,
    name: str,
    number: int | None,
    location: str,
    *,
    at: datetime | None = None,
) -> Preset:
    """Return a version of a preset, the newest (of a moment) without a number."""
    standing = _standing(session, name, at)
    if not standing and at is not None and _standing(session, name):
        raise RegistryError(f"There was no preset {name!r} on {describe_moment(at)}.")
    if not standing:
        raise unknown_preset(name, [each.name for each in list_presets(session)], location)
    if number is None:
        return standing[-1]
    for preset in standing:
        if preset.number == number:
            return preset
    known = ", ".join(str(each.number) for each in standing)
    raise NotStoredError(f"The preset {name!r} has no version {number}. It has: {known}.")


def unknown_preset(name: str, known: Sequence[str], location: str) -> NotStoredError:
    """Say that there is no such preset, beside those that there are."""
    there = f"It has: {', '.join(known)}." if known else "It has none yet."
    return NotStoredError(
        f"{location} has no preset {name!r}. {there}{did_you_mean(name, known)} "
        f"`prefreg preset save {name} TERM…` makes it."
    )


def check_preset_name(name: str) -> None:
    """Refuse what can be no name of a preset."""
    if not AXIS_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a preset: use a lower-case letter, then letters, digits, "
            "'_' or '-'."
        )


def refuse_presets(session: Session, names: Iterable[str]) -> None:
    """Refuse names for an axis that presets bear."""
    if "presets" in session.info.get("lacks", ()):
        return
    for name in names:
        if _standing(session, name):
            raise RegistryError(
                f"{name!r} is a preset here, so no axis can have that name. Use another, or "
                f"remove it with `prefreg preset rm {name}`."
            )


def _standing(session: Session, name: str, at: datetime | None = None) -> list[Preset]:
    """Return the versions since the preset was last removed, oldest first."""
    named = select(PresetRow).where(PresetRow.name == name).order_by(PresetRow.number)
    rows = session.scalars(named if at is None else named.where(PresetRow.created <= at)).all()
    removed = [place for place, row in enumerate(rows) if row.terms is None]
    return [_record(row) for row in rows[removed[-1] + 1 if removed else 0 :]]


def _last(session: Session, name: str) -> int:
    newest = select(PresetRow.number).where(PresetRow.name == name)
    return session.scalar(newest.order_by(PresetRow.number.desc()).limit(1)) or 0


def _record(row: PresetRow) -> Preset:
    try:
        terms = tuple(map(parse_term, (row.terms or "").split()))
    except UsageError as error:
        raise RegistryError(
            f"The preset {row.name}@{row.number} is damaged: {error} Save it again."
        ) from error
    return Preset(row.name, row.number, terms, row.note, row.created)
