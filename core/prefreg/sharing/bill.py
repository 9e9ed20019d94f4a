"""A bill of materials, as CycloneDX has it: bases, data and vectors with hashes and licences."""

from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id

from prefreg.registry import VersionRecord
from prefreg.registry.licences import licences_of
from prefreg.sharing.record_file import public_name

BILL_FILE = "bom.cdx.json"


def bill_of_materials(records: Sequence[VersionRecord]) -> bytes:
    """Return the bill of some versions; equal versions give equal bytes.

    Its time is that of the newest version, and its number follows from the vectors.
    """
    whole = Component(name="prefreg bundle", type=ComponentType.DATA, bom_ref="bundle")
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, " ".join(record.sha256 for record in records)),
        metadata=BomMetaData(timestamp=max(record.created for record in records), component=whole),
    )
    parts: dict[str, Component] = {}
    vectors = []
    for record in records:
        licences = {part.what: part.licence for part in licences_of([record]).parts}
        vector = _vector(record, licences.pop(f"vector {record}", None))
        for name, licence in licences.items():
            is_base = name.startswith("base ")
            kind = ComponentType.MACHINE_LEARNING_MODEL if is_base else ComponentType.DATA
            made = Component(type=kind, name=name, bom_ref=name, licenses=_licences(licence))
            parts.setdefault(name, made)
        bom.register_dependency(vector, [parts[name] for name in licences])
        vectors.append(vector)
    bom.components |= {*parts.values(), *vectors}
    bom.register_dependency(whole, vectors)
    return (JsonV1Dot6(bom).output_as_string(indent=1) + "\n").encode()


def _vector(record: VersionRecord, licence: str | None) -> Component:
    told = {
        "kind": record.kind,
        "dtype": record.dtype,
        "base": public_name(record.base.name),
        "base-weights": record.base.weights,
    }
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=record.axis,
        version=str(record.number),
        bom_ref=str(record),
        description=record.note,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.sha256)],
        licenses=_licences(licence),
        properties=[Property(name=f"prefreg:{name}", value=value) for name, value in told.items()],
    )


def _licences(text: str | None) -> list[DisjunctiveLicense]:
    known = fixup_id(text) if text else None
    if known:
        return [DisjunctiveLicense(id=known)]
    return [DisjunctiveLicense(name=text)] if text else []
