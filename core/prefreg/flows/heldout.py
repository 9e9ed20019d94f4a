"""The pairs that were held out of the training of a version, read again."""

from typing import Any

from prefreg.axes import Axis, PreferencePair
from prefreg.data.pairs import build_pairs
from prefreg.errors import DataError
from prefreg.flows.rows import open_rows
from prefreg.registry import VersionRecord


def heldout_pairs(record: VersionRecord, axis: Axis) -> tuple[PreferencePair, ...]:
    """Read the data of a run again and return the pairs that were held out of its training.

    Raises:
        DataError: They cannot be read again, are others now, or none was held out.
    """
    data, parts = record.metadata.get("data") or {}, parts_of(record)
    training = record.metadata.get("training") or {}
    if not parts or "seed" not in training:
        raise DataError("the version was not trained here, so it has no held-out pairs")
    if strange := [part["source"] for part in parts if part["source"] not in axis.sources]:
        raise DataError(f"its data came from {strange[0]!r}, which is no source of the axis")
    origin = open_rows(
        axis,
        data=[_named(part) for part in parts],
        base=record.base.name,
        limit=sum(part["rows"] for part in parts),
        revision=None,
        seed=int(training["seed"]),
        accept_licence=any(part.get("licence_accepted") for part in parts),
    )
    found = build_pairs(
        origin.pairs,
        axis_name=axis.name,
        seed=int(training["seed"]),
        length_balanced=bool(data.get("length_balanced")),
    )
    if found.fingerprint != data.get("fingerprint"):
        raise DataError("the plugin makes other pairs now than when the vector was trained")
    if not found.heldout:
        raise DataError("no pairs were held out of its training")
    return found.heldout


def parts_of(record: VersionRecord) -> list[dict[str, Any]]:
    """Return what a run recorded of each source that it read."""
    return (record.metadata.get("data") or {}).get("sources") or []


def _named(part: dict[str, Any]) -> str:
    revision = f"@{part['revision']}" if part.get("revision") else ""
    return f"{part['source']}{revision}" + (f":{part['weight']}" if part.get("weight") else "")
