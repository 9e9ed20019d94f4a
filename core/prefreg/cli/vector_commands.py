"""Look at what is stored: vectors, show, bases, alias, rm."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli import completing
from prefreg.cli.options import (
    AT,
    FOLDER,
    REFERENCE,
    Common,
    Reference,
    WholeRange,
    base_option,
    command,
    request_options,
)
from prefreg.cli.printing import describe_disk, distinct_size, plural, progress_bars
from prefreg.cli.tables import sections, table
from prefreg.cli.version_text import describe_version
from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.wording import percent

if TYPE_CHECKING:
    from prefreg.evaluation.compare import Comparison, FieldDifference
    from prefreg.registry import VersionRecord, VersionSummary

_NEWEST = 20
"""Changes of aliases that are shown unless all are asked for."""


@command("vectors")
@click.argument("axis", required=False, shell_complete=completing.STORED_AXES)
def vectors(common: Common, axis: str | None) -> None:
    """List the stored versions, of AXIS or of all axes."""
    registry = common.open_registry()
    records = registry.summaries(axis)
    rows = [
        (
            str(record),
            ",".join(record.aliases) or "-",
            record.base.name,
            record.kind,
            record.dtype,
            human_size(record.size),
            f"{record.created:%Y-%m-%d %H:%M}",
            ",".join(record.tags) or "-",
            "starter" if record.starter else "registry",
            "; ".join(filter(None, (record.form_of and f"form of {record.form_of}", record.note))),
        )
        for record in records
    ]
    headers = (
        "VERSION", "ALIASES", "BASE", "KIND", "DTYPE", "SIZE", "CREATED", "TAGS", "FROM", "NOTE",
    )  # fmt: skip
    size, disk = distinct_size(records), registry.disk_use()
    text = "No vectors yet. Add one with `prefreg add-axis`."
    if rows:
        count = plural(len(rows), "version")
        listed = table(headers, rows, spare=("DTYPE", "TAGS", "KIND", "CREATED", "ALIASES"))
        text = f"{listed}\n\n{count}, {human_size(size)}. {describe_disk(disk)}"
    data = {
        "vectors": [record.summary() for record in records],
        "bytes": size,
        "disk": disk.to_json(),
    }
    common.emit("vectors", data, text, asked=True)


@command("show")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@base_option("Base model: its name, folder, hub id or fingerprint.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw how its poles were trained.",
)
@AT
def show(
    common: Common, reference: Reference, base: str | None, plot: Path | None, at: datetime | None
) -> None:
    """Show the full record of one version; the newest without @V."""
    registry = common.open_registry()
    record, disk = registry.show(*reference, base=base, at=at), registry.disk_use()
    if plot is not None:
        from prefreg import api

        api.plot_version(record, plot)
        common.note(f"Drew {plot}.")
    text = f"{describe_version(record)}\n\n{describe_disk(disk)}"
    common.emit("show", record.to_json() | {"disk": disk.to_json()}, text, asked=True)


@command("bases")
def bases(common: Common) -> None:
    """List the bases that have a name, how to get one, and those that the registry knows.

    Any folder of transformers' form, GGUF file or hub id is a base too.
    """
    from prefreg import api

    named, broken = api.bundled_bases(), api.broken_bases()
    registry = common.open_registry()
    records, disk = registry.bases(), registry.disk_use()
    on_base: dict[str, list[VersionSummary]] = {}
    for version in registry.summaries():
        on_base.setdefault(version.base.weights, []).append(version)
    counted = [
        (
            record,
            len(on_base.get(record.weights, ())),
            distinct_size(on_base.get(record.weights, ())),
        )
        for record in records
    ]
    rows = [
        (
            record.name,
            (record.revision or "-")[:12],
            f"{record.parameters:,}",
            record.dtype,
            record.weights[:12],
            versions,
            human_size(size),
            record.path or "-",
        )
        for record, versions, size in counted
    ]
    headers = ("BASE", "REVISION", "PARAMETERS", "DTYPE", "WEIGHTS", "VERSIONS", "SIZE", "PATH")
    text = "No vectors yet. `prefreg add-axis` adds one."
    if rows:
        text = f"{table(headers, rows, spare=('DTYPE', 'REVISION'))}\n\n{describe_disk(disk)}"
    problems = {name: base.problem() for name, base in named.items()}
    states = {name: "absent" if problem else "ready" for name, problem in problems.items()}
    offered = [
        (name, states[name], base.licence or "-", problems[name] or base.summary)
        for name, base in named.items()
    ]
    shown = table(("NAMED BASE", "STATE", "LICENCE", "WHAT IT IS"), offered)
    text = "\n".join([f"{shown}\n\n{text}", *(f"broken: {each}" for each in broken)])
    data = {
        "bundled": [
            {
                "name": name,
                "state": states[name],
                "problem": problems[name],
                "summary": base.summary,
                "licence": base.licence or None,
                "get": base.get or None,
                "plugin": base.owner,
            }
            for name, base in named.items()
        ],
        "broken": list(broken),
        "bases": [
            record.to_json() | {"versions": versions, "bytes": size}
            for record, versions, size in counted
        ],
        "disk": disk.to_json(),
    }
    common.emit("bases", data, text, asked=True)


@command("alias")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@click.argument("alias", required=False)
@click.option("--delete", is_flag=True, help="Delete the alias; its history is kept.")
@base_option("With --delete, where several bases have the alias.")
@AT
@click.option("--all", "everything", is_flag=True, help="Show the whole history.")
def alias(
    common: Common,
    reference: Reference,
    alias: str | None,
    delete: bool,
    base: str | None,
    at: datetime | None,
    everything: bool,
) -> None:
    """Point ALIAS at a version, or show the history of an axis' aliases without one.

    `prefreg alias helpful@3 stable` names version 3; `prefreg alias helpful@stable --delete`
    deletes the name. `prefreg alias helpful@stable` shows the history of one alias, and --at
    where it stood. Of a long history the newest changes are shown, and all with --json.
    """
    for option, given in (("--at", at is not None), ("--all", everything)):
        if given and (alias or delete):
            raise UsageError(f"{option} looks at the history; an alias can be changed only now.")
    if base is not None and not delete:
        raise UsageError("--base goes with --delete: a version says which base an alias is for.")
    if delete:
        _delete_alias(common, reference, alias, base)
    elif alias is None:
        _show_history(common, reference, at, None if everything else _NEWEST)
    else:
        record = common.open_registry().alias(reference[0], _number(reference), alias)
        data = {"axis": record.axis, "alias": alias, "version": record.number}
        common.emit("alias", data, f"{record.axis}@{alias} is now {record}.")


def _delete_alias(
    common: Common, reference: Reference, alias: str | None, base: str | None
) -> None:
    axis, version = reference
    name = alias or version
    if name is None or name.isdigit():
        raise UsageError("Say which alias to delete, as in `prefreg alias helpful@stable`.")
    common.open_registry().unalias(axis, name, base=base)
    common.emit("alias", {"axis": axis, "alias": name, "version": None}, f"Deleted {name}.")


def _show_history(
    common: Common, reference: Reference, at: datetime | None, most: int | None
) -> None:
    axis, name = reference
    if name is not None and name.isdigit():
        raise UsageError(f"Say what to call it, as in `prefreg alias {axis}@{name} stable`.")
    events = common.open_registry().alias_history(axis, name, at=at)
    rows = [
        (
            f"{event.created:%Y-%m-%d %H:%M}",
            event.alias,
            event.action,
            event.number or "-",
            event.base.name,
        )
        for event in (events if most is None else events[-most:])
    ]
    headers = ("WHEN", "ALIAS", "ACTION", "VERSION", "BASE")
    text = table(headers, rows) if rows else f"No version of {axis} was ever given an alias."
    if earlier := len(events) - len(rows):
        what = axis if name is None else f"{axis}@{name}"
        text += f"\n{plural(earlier, 'earlier change')}: `prefreg alias {what} --all` shows all."
    common.emit(
        "alias", {"axis": axis, "history": [event.to_json() for event in events]}, text, asked=True
    )


@command("rm")
@click.argument("reference", type=REFERENCE, metavar="AXIS@V")
@click.option("--force", is_flag=True, help="Remove it even if an alias names it.")
def rm(common: Common, reference: Reference, force: bool) -> None:
    """Remove a version. Its number is never used again."""
    record = common.open_registry().remove(reference[0], _number(reference), force=force)
    data = {"axis": record.axis, "version": record.number, "sha256": record.sha256}
    common.emit("rm", data, f"Removed {record}.")


def _number(reference: Reference) -> int:
    axis, version = reference
    if version is None or not version.isdigit():
        raise UsageError(f"Give the version by its number, as in {axis}@1.")
    return int(version)


_LONGEST = 24
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
        "first": found.first.summary(),
        "second": found.second.summary(),
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
    common.emit("diff", data, _describe_difference(found), asked=True)


def _describe_difference(found: "Comparison") -> str:
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
            rows += [
                (each.field, _brief_value(each.first), _brief_value(each.second))
                for each in members
            ]
    return rows


def _family(field: str) -> str:
    parts = field.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else ""


def _brief_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value) or "-"
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    return plural(len(value), "value") if isinstance(value, list) else f"{text[: _LONGEST - 1]}…"


@command("compress")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@request_options(
    "CompressionRequest",
    leave="axis reference",
    dtype={"type": str, "metavar": "bf16"},
    topk={"metavar": "SHARE"},
    rank={"metavar": "RANK"},
)
def compress(common: Common, version: Reference, **options: Any) -> None:
    """Store a smaller form of a version, under the next number, with the measured error.

    The version stays, and is what its axis's name means, unless --promote is given. Give exactly
    one of --dtype, --int8, --topk and --rank.
    """
    axis, reference = version
    registry = common.open_registry()
    record = registry.compress(axis, reference, **options)
    before = registry.show(axis, record.metadata["compression"]["of"].rpartition("@")[2])
    data = record.summary() | {"compression": record.metadata["compression"]}
    common.emit("compress", data, _describe_compressed(before, record))


def _describe_compressed(before: "VersionRecord", record: "VersionRecord") -> str:
    found = record.metadata["compression"]
    margin = found["margin"]
    fields: dict[str, object] = {
        "compressed": f"{before} ({before.kind} {before.dtype}, {human_size(before.size)})",
        "to": f"{record} ({record.kind} {record.dtype}, {human_size(record.size)})",
        "relative error": f"{percent(found['relative_error'])} of φ",
        "norm ratio": f"{found['norm_ratio']:.4f}",
        "cosine": "not defined" if found["cosine"] is None else f"{found['cosine']:.4f}",
        "held-out margin": f"not measured: {margin['reason']}"
        if "reason" in margin
        else f"{margin['compressed']:.3f} of {margin['original']:.3f} nats at η = 1, "
        f"{margin['pairs']} pairs",
        "named": f"{record}, a form of {before}; --promote makes it what {record.axis!r} means"
        if record.form_of
        else f"{record}, which {record.axis!r} means from now on",
    }
    if found["dropped"]:
        count = len(found["dropped"]["weights"])
        share = found["dropped"]["share_of_error"]
        fields["dropped"] = (
            f"{count} weights that are no matrices, {share:.1%} of the squared error"
        )
    return sections(fields)


@command("transport")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@request_options(
    "TransportRequest",
    leave="axis reference",
    to={"metavar": "BASE2"},
    least={"metavar": "SHARE"},
    pairs={"type": WholeRange(1)},
    data={"metavar": "FILE"},
)
def transport(common: Common, version: Reference, **options: Any) -> None:
    """Store a version as one of another fine-tune of its base's architecture.

    Measured is how much of the held-out margin that it moves on its own base it moves on the new
    one; exit code 3 says that it is less than --least, and that nothing was stored.
    """
    from prefreg import TransportRequest

    axis, reference = version
    request = TransportRequest(axis, reference=reference, **options)
    with progress_bars(common) as progress:
        record = common.open_registry().transport(request, progress=progress)
    found = record.metadata["transport"]
    kept, before, after = (found["margin"][key] for key in ("kept", "before", "after"))
    fields = {
        "transported": f"{found['of']} of {found['base']['name']}",
        "to": f"{record} of {record.base.name}",
        "held-out margin": f"{after['value']:.2f} of {before['value']:.2f} nats a unit of η, "
        f"{kept['value']:.2f} [{kept['low']:.2f}, {kept['high']:.2f}] kept, "
        f"{plural(found['margin']['pairs'], 'pair')}",
    }
    data = record.summary() | {"transport": found}
    common.emit("transport", data, sections(fields))


@command("import")
@click.argument("name")
@request_options(
    "ImportRequest",
    leave="name",
    plus={"type": FOLDER, "metavar": "DIR"},
    minus={"type": FOLDER, "metavar": "DIR"},
    task_vector={"type": click.Path(path_type=Path, exists=True), "metavar": "PATH"},
)
def import_vector(common: Common, name: str, **options: Any) -> None:
    """Store the difference of two trained models as a version of the axis NAME.

    The poles are two checkpoints or two PEFT adapters, trained from one base; a task vector is
    their difference, taken already. NAME need not be an installed axis.
    """
    record = common.open_registry().import_vector(name, **options)
    text = f"Imported {record} on {record.base.name} ({record.kind}, {human_size(record.size)})."
    common.emit("import", record.to_json(), text)


LOOKING = [vectors, show, diff, bases]
NAMING = [alias, rm]
MAKING = [compress, transport, import_vector]
