"""Move a vector to another fine-tune of its architecture: version → φ' → held-out gain → version.

What decides is measured: the held-out margin that the vector moves on the new base, over what it
moves on its own. `gradient-sign` is GradFix (Rinaldi et al., arXiv 2510.09658, ICLR 2026): φ stays
where it has the sign of the gradient of the margin on the new base, elsewhere it is zero; it then
gets its length back, so that both methods take steps of one size. The signs alone raise the margin,
whatever numbers they stand before: a vector of which nothing is kept as it is, is not moved but
trained by one step, and is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from prefreg.axes.row_sources import read_preference_file
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.resolve import find_base, identify
from prefreg.data.tokens import TokenPair
from prefreg.errors import DataError, GateError, UsageError, VectorError
from prefreg.evaluation.evaluation_request import TransportRequest
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.statistics import Estimate, bootstrap, grouped_mean, ratio
from prefreg.files import at_hand, work_folder
from prefreg.models.generation import Answer
from prefreg.models.log_probs import margins
from prefreg.models.padded import step_inputs
from prefreg.progress import Progress, Steps, steps_of
from prefreg.registry import Access, NewVersion, VersionRecord
from prefreg.registry.licences import recorded_licence
from prefreg.registry.records import Kind, StorageDtype
from prefreg.training.heldout import heldout_pairs, pairs_of
from prefreg.training.resources import check_disk, package_versions
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.algebra import norm
from prefreg.vectors.extraction import store_difference
from prefreg.vectors.tensors import (
    CheckpointTensors,
    MemoryTensors,
    TensorSource,
    require_shapes_of,
)

LEAST_OF_PHI = 0.1
"""What must be kept of a vector as it is, so that gradient signs may choose from it."""
_BATCH = 8
"""Pairs whose gradients are summed at a time."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The margin that a vector moves, in nats a unit of η, on its own base and on the new one."""

    before: Estimate
    after: Estimate
    kept: Estimate
    """The share of the first that the second is, over the same pairs."""

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        names = ("before", "after", "kept")
        return {"pairs": self.kept.count, **{name: getattr(self, name).to_json() for name in names}}


def transport(
    access: Access, request: TransportRequest, progress: Progress | None = None
) -> VersionRecord:
    """Store a version of one base as a version of another, where enough of its effect is kept.

    Raises:
        VectorError: The new base has other weights than the vector.
        GateError: Less is kept than the request asks for; nothing was stored.
        DataError: There are no held-out pairs to measure with.
    """
    target = resolve_base(request.to)
    with access.reading() as store:
        record = store.resolve(request.axis, request.reference)
        source = store.vector_source(record)
    if target.fingerprint.weights == record.base.weights:
        raise UsageError(f"{record} is a version of {target} already: name another base.")
    access.check()  # known before minutes of work
    with (
        work_folder() as folder,
        open_vector(source, kind=record.kind, label=f"The vector of {record}") as vector,
    ):
        _require_fit(record, vector, target)
        check_disk(Path(folder), 4 * target.fingerprint.parameters)
        held = _held_out(record, request)
        axis = record.axis
        # One base after the other: two would need twice the memory.
        before = margin_slopes(_evaluator(access, find_base(record.base), axis, held), vector)
        there = _evaluator(access, target, axis, held)
        moved: TensorSource = vector
        gain = plain = measure_gain(before, margin_slopes(there, vector), held.groups)
        if request.method == "gradient-sign":
            learnt = HeldOut(pairs_of(record).train[: request.pairs], "training pairs")
            moved = mask_by_gradient(there, vector, learnt, steps_of(progress, "gradients"))
            gain = measure_gain(before, margin_slopes(there, moved), held.groups)
        if gain.before.value <= 0:
            raise DataError(
                f"{record} does not raise the margin of these pairs on its own base "
                f"({gain.before.value:.2f} nats), so none of that can be kept: give others with "
                "--data FILE."
            )
        if gain.kept.value < request.least:
            raise GateError(
                f"{record} keeps {gain.kept.value:.2f} [{gain.kept.low:.2f}, "
                f"{gain.kept.high:.2f}] of its held-out margin on {target}, less than "
                f"{request.least:g}: nothing was stored. Train the axis there with "
                f"`prefreg add-axis {record.axis} --base {request.to}`."
            )
        if plain.kept.value < LEAST_OF_PHI:
            raise GateError(
                f"{record} as it is keeps {plain.kept.value:.2f} of its held-out margin on "
                f"{target}: what gradient signs make of it ({gain.kept.value:.2f}) is a step of "
                "training, not the vector. Nothing was stored. Train the axis there with "
                f"`prefreg add-axis {record.axis} --base {request.to}`."
            )
        blob = Path(folder) / "vector.safetensors"
        if request.method == "plain":
            kind, dtype = cast("Kind", record.kind), cast("StorageDtype", record.dtype)
            geometry = record.metadata.get("geometry") or {}
            content = at_hand(source)
            if isinstance(content, Path):
                blob = content
            else:
                blob.write_bytes(content)
        else:
            kind, dtype = "dense", "F32"
            geometry = store_difference(moved, blob).to_json()
        new = NewVersion(
            axis=record.axis,
            axis_aliases=record.axis_aliases,
            kind=kind,
            dtype=dtype,
            base=identify(target),
            metadata={
                key: record.metadata[key]
                for key in ("plugin", "declaration", "data", "training", "contrast")
                if key in record.metadata
            }
            | {
                "base": recorded_licence(target),
                "geometry": {name: geometry.get(name) for name in ("norm", "norms")},
                "environment": {"packages": package_versions()},
                "transport": {
                    "of": str(record),
                    "sha256": record.sha256,
                    "base": {"name": record.base.name, "weights": record.base.weights},
                    "before": record.metadata.get("transport"),
                    "method": request.method,
                    "least": request.least,
                    "source": held.source,
                    "margin": gain.to_json(),
                    "kept_as_it_is": plain.kept.to_json(),
                },
            },
            note=request.note,
        )
        with access.writing() as store:
            return store.add(new, blob)


Slopes = Mapping[int, float]
"""By the place of a pair: how far its margin moves, in nats a unit of η."""


def margin_slopes(evaluator: Evaluator, vector: TensorSource) -> Slopes:
    """Measure the margins of an evaluator's held-out pairs at η = ±1, teacher-forced."""
    [axis] = evaluator.pairs
    up, down = (
        margins(evaluator.log_probs(axis, evaluator.turn([(eta, vector)]))) for eta in (1.0, -1.0)
    )
    return dict(zip(evaluator.tokens(axis).kept, ((up - down) / 2).tolist(), strict=True))


def measure_gain(before: Slopes, after: Slopes, groups: Sequence[str]) -> Gain:
    """Compare the slopes of a vector on its base and as moved to another.

    Only pairs that fit the context of both count; `groups` has the group of every pair.
    """
    both = sorted(before.keys() & after.keys())
    owners = [groups[at] for at in both]
    table = np.array([[after[at], before[at]] for at in both])
    kept = bootstrap(table, owners, ratio).estimate
    first, second = (grouped_mean(table[:, column], owners) for column in (1, 0))
    return Gain(first, second, kept)


def _require_fit(record: VersionRecord, vector: Vector, target: BaseModel) -> None:
    try:
        require_shapes_of(
            vector, CheckpointTensors(target.checkpoint), what=("the vector", "the base")
        )
    except VectorError as error:
        raise VectorError(
            f"{record} cannot be moved to {target}, which is of another architecture. {error}"
        ) from error


def _held_out(record: VersionRecord, request: TransportRequest) -> HeldOut:
    if request.data is not None:
        told = record.template_options or {}
        pairs = tuple(pair.tell(told) for _, pair in read_preference_file(request.data))
        return HeldOut(pairs[: request.pairs], request.data.name)
    return HeldOut(heldout_pairs(record)[: request.pairs], f"held out of {record}")


def _evaluator(access: Access, base: BaseModel, axis: str, held: HeldOut) -> Evaluator:
    return Evaluator(base, access, pairs={axis: held}, dtype=torch.float32)


def mask_by_gradient(
    evaluator: Evaluator, vector: TensorSource, learnt: HeldOut, progress: Steps | None = None
) -> MemoryTensors:
    """Keep a vector where it has the sign of the gradient of the margin, at its own length.

    The gradient is that of the base of the evaluator, over the pairs `learnt`.
    """
    [axis] = evaluator.pairs
    tokens = _evaluator(evaluator.access, evaluator.base, axis, learnt).tokens(axis)
    gradients = _gradients(evaluator, tokens.pairs, progress)
    kept = {
        name: torch.where(vector.tensor(name) * gradients[name].cpu() > 0, vector.tensor(name), 0.0)
        for name in vector.names
    }
    masked = MemoryTensors(kept)
    length = norm(masked)
    if not length:
        raise VectorError("No weight of the vector has the sign of the gradient on the new base.")
    longer = norm(vector) / length
    return MemoryTensors({name: longer * each for name, each in kept.items()})


def _gradients(
    evaluator: Evaluator, pairs: Sequence[TokenPair], progress: Steps | None
) -> dict[str, torch.Tensor]:
    """Return the gradient of the sum of margins on the base, by the names on disk."""
    model = evaluator.turn([])
    model.zero_grad(set_to_none=True)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        answers = [
            Answer("", list(pair.prompt_ids), list(ids), True)
            for pair in batch
            for ids in (pair.chosen_ids, pair.rejected_ids)
        ]
        inputs, steps = step_inputs(model, answers)
        logits = model(**inputs).logits[:, -steps.shape[1] :]
        said = logits[steps.to(logits.device)].float().log_softmax(1)
        tokens = torch.tensor([token for each in answers for token in each.ids])
        signs = torch.tensor(
            [1.0 if at % 2 == 0 else -1.0 for at, each in enumerate(answers) for _ in each.ids]
        )
        picked = said.gather(1, tokens.to(said.device).unsqueeze(1)).squeeze(1)
        (picked * signs.to(said.device)).sum().backward()
        if progress is not None:
            progress(start + len(batch), len(pairs))
    found = {
        name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return evaluator.dials.conversion.store(found)
