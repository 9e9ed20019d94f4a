"""The record of one version for people: what it is worth first, then all that is known of it."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.tables import heading, sections, table
from prefreg.files import human_size

if TYPE_CHECKING:
    from prefreg.registry import VersionRecord

_MANY = 20
"""More entries than these are counted instead of shown; --json has them."""
_FEW = 3
"""As many plain values within a part stand on its line."""
_INDENT = 2
_INTERVAL = {"value", "low", "high"}
_HASH = re.compile("[0-9a-f]{64}")


def describe_version(record: "VersionRecord") -> str:
    """Write the headline of a version, its record, and a section for each part of its metadata."""
    lines = [click.style(f"{record} on {record.base.name}", bold=True), sections(_worth(record))]
    lines += _titled("record", sections(_identity(record), indent=_INDENT))
    for name, value in record.metadata.items():
        lines += _section(name, value)
    for each in record.measurements:
        lines += _section(
            f"measured: {each.kind}", {"protocol": each.protocol} | _shown(each.value)
        )
    return "\n".join(lines)


def _worth(record: "VersionRecord") -> dict[str, str]:
    """Say how well the poles do what they were trained for, how they lie, and what they take."""
    reports: dict[str, Mapping[str, Any]] = {
        name: pole["report"]
        for name, pole in record.metadata.get("poles", {}).items()
        if isinstance(pole, Mapping) and pole.get("report")
    }
    facts: dict[str, str] = {}
    if reports:
        pairs = next(iter(reports.values())).get("pairs")
        by_pole = {
            "accuracy": [f"{one['accuracy']:.1%} ({name})" for name, one in reports.items()],
            "margin": [f"{one['mean_margin']:.3g} ({name})" for name, one in reports.items()],
        }
        facts["accuracy"] = f"{', '.join(by_pole['accuracy'])} of {pairs} held-out pairs"
        facts["margin"] = f"{', '.join(by_pole['margin'])} nats"
    cosine = record.metadata.get("geometry", {}).get("cosine_poles")
    if cosine is not None:
        facts["cosine"] = f"{cosine:.3f} between what the poles learnt; -1 is opposite"
    place = "inside" if record.inline else "beside"
    facts["size"] = (
        f"{human_size(record.size)} {place} the database ({record.kind}, {record.dtype})"
    )
    return facts


def _identity(record: "VersionRecord") -> dict[str, str]:
    base = record.base
    return {
        "also called": ", ".join(record.axis_aliases) or "-",
        "aliases": ", ".join(record.aliases) or "-",
        "tags": ", ".join(record.tags) or "-",
        "note": record.note or "-",
        "created": f"{record.created:%Y-%m-%d %H:%M:%S %Z}",
        "base": base.name + (f"@{base.revision}" if base.revision else ""),
        "base weights": base.weights,
        "sha256": record.sha256,
    }


def _shown(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _section(name: str, value: Any) -> Iterator[str]:
    """Write a heading with the plain values below it, then a section for each part within.

    Names are those of the JSON document, and the dotted ones those that `search --metric` takes.
    """
    parts = _shown(value)
    plain = {key: _plain(each) for key, each in parts.items() if _is_plain(each)}
    if plain:
        yield from _titled(name, sections(plain, indent=_INDENT))
    for key, each in parts.items():
        if _is_plain(each):
            continue
        title = f"{name}.{key}"
        if isinstance(each, dict):
            yield from _section(title, each)
        else:
            yield from _titled(title, _rows(each))


def _titled(title: str, text: str) -> tuple[str, str]:
    return "\n" + click.style(title, bold=True), text


def _is_plain(value: Any) -> bool:
    """Whether a value is written on one line: no table, and no part with parts."""
    if not isinstance(value, dict | list) or not value or len(value) > _MANY:
        return True
    if isinstance(value, list):
        return not all(isinstance(each, dict) for each in value)
    if value.keys() >= _INTERVAL:
        return True
    return len(value) <= _FEW and not any(isinstance(each, dict | list) for each in value.values())


def _rows(entries: list[dict[str, Any]]) -> str:
    """Write records with the same keys as a table."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    rows = [[_plain(entry.get(name)) for name in names] for entry in entries]
    headers = [heading(name) for name in names]
    return table(headers, rows, indent=_INDENT)


def _plain(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case str() if _HASH.fullmatch(value):
            return f"{value[:12]}…"
        case None | "":
            return "-"
        case dict() | list() if len(value) > _MANY:
            return f"{len(value)} values (see --json)"
        case list():
            return ", ".join(map(_plain, value)) or "-"
        case {"value": float(each), "low": float(low), "high": float(high)}:
            return f"{each:.3f} [{low:.3f}, {high:.3f}]"
        case dict():
            return ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) or "-"
    return str(value)
