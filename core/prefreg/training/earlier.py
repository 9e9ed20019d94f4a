"""Whether a stored version is what a run would store, so that nothing is trained twice."""

from collections.abc import Sequence
from typing import Any

from prefreg.axes.axis import Axis, PreferencePair
from prefreg.data.mixture import open_rows
from prefreg.data.pairs import build_pairs
from prefreg.errors import DataError
from prefreg.registry import Access, VersionRecord
from prefreg.training.axis_run import AxisRun


def find_stored(place: Access, run: AxisRun) -> VersionRecord | None:
    """Find the newest version of the same base, pairs, settings and seed, of any dtype."""
    if not place.is_present():
        return None
    settings = run.settings_in_use()
    with place.reading() as store:
        found = [record for record in store.versions() if _fits(record, run, settings)]
    return max(found, key=lambda record: record.number, default=None)


def _fits(record: VersionRecord, run: AxisRun, settings: dict[str, Any]) -> bool:
    training: dict[str, Any] = record.metadata.get("training") or {}
    recorded: dict[str, Any] = training.get("settings") or {}
    return (
        record.axis == run.axis.name
        and record.base.weights == run.base.fingerprint.weights
        and record.contrast == "pair"
        and "compression" not in record.metadata
        and training.get("seed") == run.request.seed
        and all(recorded.get(key) == value for key, value in settings.items())
        and (record.metadata.get("data") or {}).get("fingerprint") == run.pairs.fingerprint
        and _same_lora(training.get("lora"), run)
    )


def _same_lora(recorded: dict[str, Any] | None, run: AxisRun) -> bool:
    if run.options is None or not recorded:
        return run.options is None and not recorded
    names = ("rank", "alpha", "rslora")
    return all(recorded.get(name) == getattr(run.options, name) for name in names) and (
        not run.options.targets
        or all(_ends(weight, run.options.targets) for weight in recorded["weights"])
    )


def _ends(weight: str, targets: Sequence[str]) -> bool:
    module = weight.removesuffix(".weight")
    return any(f".{module}".endswith(f".{target}") for target in targets)


def heldout_pairs(record: VersionRecord, axis: Axis) -> tuple[PreferencePair, ...]:
    """Read the data of a run again and return the pairs that were held out of its training."""
    data, parts = record.metadata.get("data") or {}, parts_of(record)
    training = record.metadata.get("training") or {}
    if not parts or "seed" not in training:
        raise DataError("the version was not trained here, so it has no held-out pairs")
    if strange := [part["source"] for part in parts if part["source"] not in axis.sources]:
        raise DataError(f"its data came from {strange[0]!r}, which is no source of the axis")
    mixture = open_rows(
        axis,
        data=[_named(part) for part in parts],
        base=record.base.name,
        limit=sum(part["rows"] for part in parts),
        revision=None,
        seed=int(training["seed"]),
        accept_licence=any(part.get("licence_accepted") for part in parts),
    )
    found = build_pairs(
        mixture.pairs,
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
