"""Two versions side by side."""

from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import REFERENCE, Common, command, table
from prefreg.cli.views import version_summary

if TYPE_CHECKING:
    from prefreg.flows.compare import Comparison, FieldDifference

Reference = tuple[str, str | None]

_LONGEST = 32
_MANY = 12


@command("diff")
@click.argument("first", type=REFERENCE, metavar="AXIS@V")
@click.argument("second", type=REFERENCE, metavar="AXIS@V")
def diff(common: Common, first: Reference, second: Reference) -> None:
    """Show what differs between two versions, and the cosine of their vectors.

    Base, data, settings, seeds, metrics, geometry and hashes are compared, and all else that is
    on record. The cosine is that of two vectors on the same base.
    """
    texts = ["@".join(filter(None, reference)) for reference in (first, second)]
    found = common.open_registry().diff(*texts)
    data = {
        "first": version_summary(found.first),
        "second": version_summary(found.second),
        "cosine": found.cosine,
        "reason": found.reason,
        "same": list(found.agreeing),
        "differences": [
            {
                "group": each.group,
                "field": each.field,
                "first": each.first,
                "second": each.second,
            }
            for each in found.differences
        ],
    }
    common.emit("diff", data, _describe(found), asked=True)


def _describe(found: "Comparison") -> str:
    angle = f"no cosine: {found.reason}" if found.cosine is None else f"cosine {found.cosine:.6g}"
    lines = [f"{found.first} and {found.second}: {angle}."]
    if found.agreeing:
        lines.append(f"The same in both: {', '.join(found.agreeing)}.")
    groups: dict[str, list[FieldDifference]] = {}
    for each in found.differences:
        groups.setdefault(each.group, []).append(each)
    for group, differences in groups.items():
        rows = _rows(differences)
        lines += ["", table((group.upper(), str(found.first), str(found.second)), rows)]
    return "\n".join(lines)


def _rows(differences: "list[FieldDifference]") -> list[tuple[str, str, str]]:
    """Write one row a field; tables of many numbers, such as the norms of all tensors, as one."""
    families: dict[str, list[FieldDifference]] = {}
    for each in differences:
        families.setdefault(_family(each.field), []).append(each)
    rows = []
    for family, members in families.items():
        if family and len(members) > _MANY:
            rows.append((family, f"{len(members)} values differ", "(see --json)"))
        else:
            rows += [(each.field, _brief(each.first), _brief(each.second)) for each in members]
    return rows


def _family(field: str) -> str:
    parts = field.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else ""


def _brief(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value) or "-"
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    return f"{len(value)} entries" if isinstance(value, list) else f"{text[: _LONGEST - 1]}…"


COMMANDS = (diff,)
