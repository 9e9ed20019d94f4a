"""Export: what is stored, in the forms that other tools take."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefreg.composition.mergekit import CONFIG_FILE, write_mergekit
from prefreg.errors import UsageError
from prefreg.flows.access import Access
from prefreg.flows.compose import CompositionRequest, compose, resolve_plan
from prefreg.flows.compose_adapter import compose_adapter
from prefreg.terms import Term, parse_reference, parse_term

Form = Literal["adapter", "checkpoint", "mergekit"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be exported; every default is the command line's."""

    what: tuple[str, ...]
    """One `AXIS[@V]`, or for mergekit the terms of a composition."""
    form: Form
    output: Path
    base: str | None = None
    sign: Literal["plus", "minus"] | None = None
    """Of a checkpoint: θ_base + φ or θ_base − φ."""
    dtype: str | None = None
    """Of a checkpoint; the base's own if absent."""
    max_rank: int | None = None
    """Of an adapter; a dense vector needs one."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    form: Form
    written: dict[str, Any]
    """As the composition of that form describes itself, in values that JSON can hold."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result in a form that JSON can hold."""
        return {"as": self.form, **self.written}


def export(access: Access, request: ExportRequest, progress: Progress | None = None) -> Exported:
    """Write stored vectors for another tool.

    Raises:
        UsageError: An option does not belong to this form, or what is named is malformed.
        PrefregError: As for a composition.
    """
    _refuse_strangers(request)
    if request.form == "mergekit":
        return Exported("mergekit", _to_mergekit(access, request, progress))
    if len(request.what) != 1:
        raise UsageError(f"An exported {request.form} is of one version: give one AXIS[@V].")
    axis, reference = parse_reference(request.what[0])
    term = Term(axis, -1.0 if request.sign == "minus" else 1.0, reference)
    wanted = CompositionRequest(
        (term,),
        request.output,
        base=request.base,
        dtype=request.dtype,
        max_rank=request.max_rank,
        overwrite=request.overwrite,
        form=request.form,
    )
    if request.form == "adapter":
        return Exported("adapter", compose_adapter(access, wanted).as_dict())
    return Exported("checkpoint", compose(access, wanted, progress).as_dict())


def _refuse_strangers(request: ExportRequest) -> None:
    belongs = {
        "--sign": ("checkpoint", request.sign),
        "--dtype": ("checkpoint", request.dtype),
        "--max-rank": ("adapter", request.max_rank),
    }
    for option, (form, value) in belongs.items():
        if value is not None and request.form != form:
            raise UsageError(f"{option} belongs to --as {form}, not to --as {request.form}.")


def _to_mergekit(
    access: Access, request: ExportRequest, progress: Progress | None
) -> dict[str, Any]:
    terms = tuple(map(parse_term, request.what))
    wanted = CompositionRequest(terms, request.output, base=request.base)
    found, made = resolve_plan(access, wanted)
    written = write_mergekit(made, request.output, overwrite=request.overwrite, progress=progress)
    return {
        "path": str(written.path),
        "formula": written.formula,
        "base": str(found.base),
        "size": written.size,
        "config": CONFIG_FILE,
        "models": list(written.models),
    }
