"""Licences of data: which ones forbid a commercial use."""

import re

from prefreg.axes import Axis, LicensedSource
from prefreg.errors import DataError


def forbids_commercial_use(licence: str) -> bool:
    """Whether a licence says so in its identifier, as CC-BY-NC-4.0 does."""
    words = re.split(r"[^a-z]+", licence.lower())
    return bool({"nc", "noncommercial"} & set(words)) or "non commercial" in " ".join(words)


def check_licence(axis: Axis, source: str, *, accepted: bool) -> str | None:
    """Return what to show about the licence of a source's data; None if it allows every use.

    Raises:
        DataError: It forbids commercial use, and nobody has accepted that.
    """
    licence = axis.licence_of(source)
    if licence is None or not forbids_commercial_use(licence):
        return None
    found = axis.sources[source]
    named = found.dataset if isinstance(found, LicensedSource) else f"source {source!r}"
    fact = f"{axis.name}: {named} is under {licence}, which forbids commercial use"
    if not accepted:
        raise DataError(f"{fact}. Accept it with --accept-licence, or pass other data with --data.")
    return f"{fact} (accepted)."
