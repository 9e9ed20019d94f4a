"""Compress: a stored version → a smaller form → what that cost → a new version of its axis."""

from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints.bundled import known_worlds
from prefreg.composition.resolve import find_base
from prefreg.errors import DataError, PrefregError, UsageError
from prefreg.evaluation.evaluation_request import CompressionRequest
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import HeldOut
from prefreg.files import work_folder
from prefreg.models.loading import load_limits
from prefreg.registry import Access, NewVersion, VersionRecord
from prefreg.registry.records import FORM_OF
from prefreg.training.guards import compare
from prefreg.training.heldout import heldout_pairs, parts_of
from prefreg.training.resources import check_disk
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.compression import Compressed, Fidelity, How, compress, measure
from prefreg.vectors.stored import parse_dtype


def compare_margins(
    access: Access, record: VersionRecord, original: Vector, kept: Vector
) -> dict[str, Any]:
    """Measure the margin of both at η = 1 on the held-out pairs, or say why it was not measured.

    The margin is the mean change of log p(chosen) − log p(rejected) against the base, in nats.
    """
    try:
        evaluator = _heldout(access, record)
        before = evaluator.log_probs(record.axis, evaluator.turn([]))
        found = [
            compare(evaluator.log_probs(record.axis, evaluator.turn([(1.0, vector)])), before)
            for vector in (original, kept)
        ]
    except PrefregError as error:
        return {"reason": str(error)}
    whole, small = (report.mean_margin for report in found)
    share = small / whole if whole else None
    return {"pairs": len(before), "original": whole, "compressed": small, "kept": share}


def _heldout(access: Access, record: VersionRecord) -> Evaluator:
    """Return what measures on the held-out pairs of a run, cut as its training did."""
    base = find_base(record.base)
    # Files, and rows that a world makes by rule, need neither a network nor a licence.
    local = {"file", *(world.name for world in known_worlds())}
    if any(part["source"] not in local for part in parts_of(record)):
        raise DataError("its data are not read again for this: they may come from a network")
    pairs = heldout_pairs(record)
    context = load_limits(base)[0]
    length = min(int(record.metadata["training"]["settings"]["max_length"]), context or 1 << 30)
    held = HeldOut(pairs, f"held out of {record}", length)
    return Evaluator(base, access, pairs={record.axis: held}, dtype=torch.float32)


def compress_version(access: Access, request: CompressionRequest) -> VersionRecord:
    """Store a smaller form of a version, as a form of it or the next version, with its error."""
    how, value = _way(request)
    with access.reading() as store:
        record = store.resolve(request.axis, request.reference)
        source = store.vector_source(record)
    access.check()  # known before minutes of work
    with (
        work_folder() as folder,
        open_vector(source, kind=record.kind, label=f"The vector of {record}") as original,
    ):
        check_disk(Path(folder), 4 * record.base.parameters)
        blob = Path(folder) / "vector.safetensors"
        made = compress(original, blob, how=how, value=value)
        with open_vector(blob, kind=made.kind) as kept:
            found = measure(original, kept)
            margin = compare_margins(access, record, original, kept)
        new = NewVersion(
            axis=record.axis,
            axis_aliases=record.axis_aliases,
            kind=made.kind,
            dtype=made.dtype,
            base=record.base,
            metadata=record.metadata
            | {
                "geometry": _geometry(record, found),
                "compression": {
                    "of": str(record),
                    "sha256": record.sha256,
                    "before": record.metadata.get("compression"),
                    "how": how,
                    how: value,
                    **found.to_json(),
                    "dropped": _dropped(made, found),
                    "margin": margin,
                },
            },
            note=request.note,
            tags=() if request.promote else (f"{FORM_OF}{record.number}",),
        )
        with access.writing() as store:
            return store.add(new, blob)


def _way(request: CompressionRequest) -> tuple[How, Any]:
    ways: dict[How, Any] = {
        "dtype": request.dtype,
        "int8": request.int8 or None,
        "topk": request.topk,
        "rank": request.rank,
    }
    given = [(how, value) for how, value in ways.items() if value is not None]
    if len(given) != 1:
        raise UsageError("Give exactly one of --dtype bf16, --int8, --topk SHARE and --rank RANK.")
    if request.dtype is not None and parse_dtype(request.dtype) != "BF16":
        raise UsageError(f"{request.dtype!r} is no smaller storage. Give --dtype bf16.")
    if request.topk is not None and not 0 < request.topk <= 1:
        raise UsageError(f"--topk is a share above 0 and at most 1, not {request.topk}.")
    if request.rank is not None and request.rank < 1:
        raise UsageError(f"A rank is 1 or more, not {request.rank}.")
    return given[0]


def _geometry(record: VersionRecord, found: Fidelity) -> dict[str, Any]:
    """Return what the record keeps of φ itself; that of the poles is what it was."""
    return dict(record.metadata.get("geometry") or {}) | {
        "norm": found.kept_norm,
        "norms": found.kept_norms,
        "zeros": None,
    }


def _dropped(made: Compressed, found: Fidelity) -> dict[str, Any] | None:
    """Say which weights this form cannot hold, and how much of the squared error is theirs."""
    if not made.dropped:
        return None
    lost = sum(found.errors[name] ** 2 for name in made.dropped)
    return {
        "weights": list(made.dropped),
        "share_of_error": lost / found.error**2 if found.error else 0.0,
    }
