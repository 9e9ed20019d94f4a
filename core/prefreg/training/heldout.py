"""The pairs of a run, found again by what the record of its version says of its data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefreg.axes.axis import Axis, PreferencePair
from prefreg.axes.plugins import load_axes
from prefreg.axes.row_sources import axis_of_rows
from prefreg.axes.yaml_axes import read_declaration
from prefreg.composition.resolve import find_base
from prefreg.data.mixture import WantedRows, open_wanted
from prefreg.data.pairs import PairSet, build_pairs
from prefreg.errors import AxisError, DataError
from prefreg.models.answering_base import AnsweringBase
from prefreg.registry import VersionRecord

_FILE = "file"
"""What a part is called that is no source of the axis."""


def parts_of(record: VersionRecord) -> list[dict[str, Any]]:
    """Return what a run recorded of each source that it read."""
    return (record.metadata.get("data") or {}).get("sources") or []


def heldout_pairs(
    record: VersionRecord, options: Mapping[str, Any] | None = None
) -> tuple[PreferencePair, ...]:
    """Read the data of a run again and return the pairs that were held out of its training.

    They tell the chat template the `options`, or else what the run told it.

    Raises:
        DataError: The data are gone, or others than they were.
    """
    heldout = pairs_of(record, options).heldout
    if not heldout:
        raise DataError("no pairs were held out of its training")
    return heldout


def pairs_of(record: VersionRecord, options: Mapping[str, Any] | None = None) -> PairSet:
    """Read the data of a run again and return all of its pairs, as `heldout_pairs` does."""
    data, parts = record.metadata.get("data") or {}, parts_of(record)
    training = record.metadata.get("training") or {}
    if not parts or "seed" not in training:
        raise DataError("the version was not trained here, so it has no held-out pairs")
    axis, seed = _axis_of(record), int(training["seed"])
    wanted = [_find(part, axis) for part in parts]
    # What the base answered is in the cache, else it is asked again.
    asked = AnsweringBase(lambda: find_base(record.base), options=record.template_options)
    mixture = open_wanted(
        axis,
        wanted,
        limit=sum(part["rows"] for part in parts),
        seed=seed,
        accept_licence=any(part.get("licence_accepted") for part in parts),
        asked=asked,
    )
    found = build_pairs(
        mixture.pairs,
        axis_name=axis.name,
        seed=seed,
        length_balanced=bool(data.get("length_balanced")),
    )
    asked.release()
    if found.fingerprint != data.get("fingerprint"):
        places = " and ".join(each.name for each in wanted)
        raise DataError(f"{places} has other pairs now than when the vector was trained")
    told = record.template_options or {} if options is None else options
    train, heldout = (
        tuple(pair.tell(told) for pair in part) for part in (found.train, found.heldout)
    )
    return replace(found, train=train, heldout=heldout)


def declared_axis(record: VersionRecord) -> Axis | None:
    """Declare the axis of a version again by the YAML text that it keeps; None if it keeps none.

    Raises:
        AxisError: A file that the text names is gone.
    """
    declared = record.metadata.get("declaration")
    if declared is None:
        return None
    # Of older versions only the file's name is known: it is looked for where one stands.
    path = Path(declared.get("path") or declared["file"])
    return read_declaration(path, declared["text"]).axis


def _axis_of(record: VersionRecord) -> Axis:
    """Return the axis that read and labelled the rows; of files they are what they are."""
    if all(part["source"] == _FILE for part in parts_of(record)):
        return axis_of_rows(record.axis)
    try:
        return declared_axis(record) or load_axes().find(record.axis).axis
    except AxisError as error:
        raise DataError(f"its data cannot be read again: {error}") from error


def _find(part: Mapping[str, Any], axis: Axis) -> WantedRows:
    """Find a source of a run again."""
    name, weight = part["source"], part.get("weight")
    if name == _FILE:
        path = Path(part.get("path") or part["origin"])
        if not path.is_file():
            raise DataError(f"its data file {path} is gone")
        return WantedRows(str(path), is_file=True, weight=weight)
    if name not in axis.sources:
        raise DataError(f"its data came from {name!r}, which is no source of the axis")
    return WantedRows(name, is_file=False, revision=part.get("revision"), weight=weight)
