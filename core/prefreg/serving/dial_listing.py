"""Which dials a served base has, and what is known of each."""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefreg.axes.plugins import load_axes
from prefreg.checkpoints import BaseModel
from prefreg.composition.resolve import CALIBRATION, RANGE, newest
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.pole_curves import plot_version
from prefreg.evaluation.weight_geometry import align
from prefreg.json_values import finite
from prefreg.registry import Access, Store, VersionRecord, VersionSummary


class DialListing:
    """The dials of one base in a registry, read anew each time, as others may add to it."""

    def __init__(self, base: BaseModel, access: Access) -> None:
        """Ask the installed axes once what they are about."""
        self._weights = base.fingerprint.weights
        self._access = access
        self._summaries = {each.axis.name: each.axis.summary for each in load_axes().axes}
        self._cosines: dict[tuple[str, ...], Any] = {}
        self._working = threading.Lock()

    def all(self) -> list[dict[str, Any]]:
        """Return every axis that has a version on the base, by name."""
        if not self._access.is_present():
            return []
        with self._access.reading() as store:
            return [
                self._describe(store, axis, versions)
                for axis, versions in self._versions(store).items()
            ]

    def one(self, axis: str, reference: str | None = None) -> dict[str, Any]:
        """Return one axis with the figures of a version, the newest without a reference.

        Raises:
            RegistryError: The axis is unknown or has no such version on the base.
        """
        with self._access.reading() as store:
            record = store.resolve(axis, reference, base=self._weights)
            found = self._describe(store, record.axis, self._versions(store)[record.axis])
        return found | {"shown": record.number, **_figures(record)}

    def cosines(self) -> dict[str, Any]:
        """Return the cosines between the newest vectors of all axes, computed once for them."""
        if not self._access.is_present():
            return {"versions": [], "cosines": []}
        with self._working, self._access.reading() as store:
            records = [store.resolve(axis, base=self._weights) for axis in self._versions(store)]
            key = tuple(each.sha256 for each in records)
            if key not in self._cosines:
                sources = [(each, store.vector_source(each)) for each in records]
                with opened_vectors(sources) as vectors:
                    found = align(vectors, [1.0] * len(vectors)).total.cosines.tolist()
                self._cosines = {key: finite(found)}
            return {"versions": list(map(str, records)), "cosines": self._cosines[key]}

    def curves(self, axis: str, reference: str | None = None) -> bytes:
        """Draw how the poles of a version were trained, as a PNG picture.

        Raises:
            RegistryError: The axis is unknown or has no such version on the base.
            VectorError: The version was not trained here, and has no curves.
        """
        with self._access.reading() as store:
            record = store.resolve(axis, reference, base=self._weights)
        with self._working, tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "curves.png")
            plot_version(record, picture)
            return picture.read_bytes()

    def _versions(self, store: Store) -> Mapping[str, Sequence[VersionSummary]]:
        found: dict[str, list[VersionSummary]] = {}
        for version in store.summaries(base=self._weights):
            found.setdefault(version.axis, []).append(version)
        return found

    def _describe(
        self, store: Store, axis: str, versions: Sequence[VersionSummary]
    ) -> dict[str, Any]:
        record = store.resolve(axis, base=self._weights)
        return {
            "name": axis,
            "aliases": list(record.axis_aliases),
            "summary": self._summaries.get(axis),
            "version": record.number,
            "kind": record.kind,
            "range": _range(record),
            "calibration": _calibration(record),
            "versions": [
                {
                    "version": each.number,
                    "kind": each.kind,
                    "aliases": list(each.aliases),
                    "tags": list(each.tags),
                    "note": each.note,
                    "created": each.created.isoformat(),
                }
                for each in versions
            ],
        }


def _range(record: VersionRecord) -> dict[str, Any] | None:
    """Return how far a dial may be turned, where that was measured, and why no further."""
    kept = newest(record, RANGE)
    if kept is None:
        return None
    return {"low": kept["low"], "high": kept["high"]} | {
        side: kept[side]["reason"] for side in ("below", "above")
    }


def _calibration(record: VersionRecord) -> dict[str, Any] | None:
    """Return the raw coefficients of one calibrated unit, where they were measured."""
    kept = newest(record, CALIBRATION)
    if kept is None:
        return None
    return {
        "goal": kept["goal"],
        "unit": kept["unit"],
        "positive": kept["positive"]["eta"],
        "negative": kept["negative"]["eta"],
    }


def _figures(record: VersionRecord) -> dict[str, Any]:
    """Return what was measured of a version; nothing of where it lies or who trained it."""
    metadata = record.metadata
    poles: dict[str, Any] = {
        name: pole["report"]
        for name, pole in (metadata.get("poles") or {}).items()
        if isinstance(pole, Mapping) and pole.get("report")
    }
    geometry = metadata.get("geometry") or {}
    found: dict[str, Any] = finite(
        {
            "poles": poles,
            "geometry": {name: each for name, each in geometry.items() if name != "norms"},
            "norms": geometry.get("norms") or {},
            "measurements": [each.to_json() for each in record.measurements],
            "has_curves": any(
                isinstance(pole, Mapping) and pole.get("curve")
                for pole in (metadata.get("poles") or {}).values()
            ),
        }
    )
    return found
