"""Copy a version from one registry to another."""

from pathlib import Path

from prefreg.flows.access import Access
from prefreg.registry import Store, care
from prefreg.registry.copying import Copied
from prefreg.registry.names import check_axis_name


def copy_version(
    access: Access,
    reference: tuple[str, str | None],
    target: str | Path,
    *,
    name: str | None = None,
    renumber: bool = False,
) -> Copied:
    """Copy a version; a target that is missing is created, once there is something to copy.

    Raises:
        UsageError: The name is malformed.
        RegistryError: There is no such version, or its number or name is taken there.
        VectorError: The bytes are missing or do not match their hash.
    """
    if name is not None:
        check_axis_name(name)
    with access.reading() as source:
        record = source.resolve(*reference)
        data = source.vector_source(record)
        with Store.open(target, write=True) as destination:
            return care.copy(source, data, record, destination, axis=name, renumber=renumber)
