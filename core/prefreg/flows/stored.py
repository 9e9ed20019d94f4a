"""Whether a stored version is what a run would store, so that nothing is trained twice."""

from collections.abc import Sequence
from typing import Any

from prefreg.flows.access import Access
from prefreg.flows.add_axis import Prepared
from prefreg.registry import VersionRecord
from prefreg.training.loading import load_limits


def find_stored(place: Access, run: Prepared, seed: int) -> VersionRecord | None:
    """Find the newest version of the same base, pairs, settings and seed, of any dtype."""
    if not place.is_present():
        return None
    settings = run.settings.as_dict() | {
        "max_length": run.settings.max_length(load_limits(run.base)[0])
    }
    with place.reading() as store:
        found = [record for record in store.versions() if _fits(record, run, seed, settings)]
    return max(found, key=lambda record: record.number, default=None)


def _fits(record: VersionRecord, run: Prepared, seed: int, settings: dict[str, Any]) -> bool:
    training: dict[str, Any] = record.metadata.get("training") or {}
    recorded: dict[str, Any] = training.get("settings") or {}
    return (
        record.axis == run.installed.axis.name
        and record.base.weights == run.base.fingerprint.weights
        and record.contrast == "pair"
        and "compression" not in record.metadata
        and training.get("seed") == seed
        and all(recorded.get(key) == value for key, value in settings.items())
        and (record.metadata.get("data") or {}).get("fingerprint") == run.pairs.fingerprint
        and _same_lora(training.get("lora"), run)
    )


def _same_lora(recorded: dict[str, Any] | None, run: Prepared) -> bool:
    if run.lora is None or not recorded:
        return run.lora is None and not recorded
    names = ("rank", "alpha", "rslora")
    return all(recorded.get(name) == getattr(run.lora, name) for name in names) and (
        not run.lora.targets
        or all(_ends(weight, run.lora.targets) for weight in recorded["weights"])
    )


def _ends(weight: str, targets: Sequence[str]) -> bool:
    module = weight.removesuffix(".weight")
    return any(f".{module}".endswith(f".{target}") for target in targets)
