"""What a new vector does to answers at η = ±1, beside the base: its metric, and loops."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import PreTrainedModel

from prefreg.axes.axis import Axis
from prefreg.axes.isolation import measure
from prefreg.composition.in_memory import make_dials
from prefreg.errors import DataError
from prefreg.models.ranks import own, own_rows
from prefreg.progress import Steps
from prefreg.training.guards import Failure, Thresholds
from prefreg.training.pair import TrainedPair
from prefreg.training.sample_answers import Opening, Sample
from prefreg.vectors import open_vector
from prefreg.vectors.tensors import TensorSource, read_tensor

_MOST_OWN = 0.5
"""A base that loops more often tells nothing of what was trained on it."""
_POLES = {1.0: "positive", -1.0: "negative"}
"""Which pole is in charge at a coefficient, base first: that order is kept."""


@dataclass(frozen=True, slots=True)
class Turned:
    """The likeliest answers at one coefficient; η = 0 is the base."""

    eta: float
    metric: float | None
    """Mean of the axis's own metric over the answers that it applies to."""
    change: float | None
    """Mean change of the metric against the base, prompt by prompt."""
    error: float | None
    """Standard error of that mean."""
    answers: Sample

    def to_json(self) -> dict[str, Any]:
        """Return the figures side by side."""
        found: dict[str, Any] = asdict(self)
        answers = found.pop("answers")
        del answers["step"]
        return {**found, **answers}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What was seen at each coefficient."""

    turned: tuple[Turned, ...]
    """At η = 0, 1 and −1."""
    prompts: int
    room: int
    """New tokens of an answer at most."""
    notes: tuple[str, ...]
    """What is to be known of it, a sentence each."""
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a version's record says of it."""
        return {
            "prompts": self.prompts,
            "tokens": self.room,
            "answers": [each.to_json() for each in self.turned],
            "notes": list(self.notes),
        } | ({"failures": [each.to_json() for each in self.failures]} if self.failures else {})


def observe(pair: TrainedPair, blob: Path, progress: Steps | None = None) -> Behaviour:
    """Let the base with ±φ answer the prompts that the poles were asked, without chance.

    A few held-out prompts and tokens bound what it costs. What cannot be looked at is said.
    """
    prompts, why_not = pair.prompts()
    if prompts is None:
        return _unseen(f"What answers do at η = ±1 was not looked at: {why_not}")
    axis, limits = pair.run.axis, pair.run.guards.thresholds
    notes: list[str] = []
    turned: list[Turned] = []
    before: Opening | None = None
    scores: dict[float, list[float | None]] = {}
    try:
        model = pair.load(torch.float32)
        vector = open_vector(blob, kind="low-rank" if pair.run.lora else "dense")
        turn = _dial(pair, model, vector)
        for eta in (0.0, *_POLES):
            turn(eta)
            found, ids = prompts.answer(model, 0, before, temperature=0.0)
            before = before or Opening(prompts, found, ids)
            try:
                scores[eta] = _score(axis, prompts.texts, [prompts.read(each) for each in ids])
            except DataError as error:
                scores[eta] = [None] * len(ids)
                notes.append(str(error))
            turned.append(_compare(eta, found, scores[eta], scores[0.0]))
            if progress:
                progress(len(turned), 1 + len(_POLES))
    except torch.OutOfMemoryError:
        return _unseen("What answers do at η = ±1 was not looked at: there is no memory for it")
    notes += [_summary(axis, turned, len(prompts.texts), prompts.room)]
    own = turned[0].answers.looping
    if own > _MOST_OWN:
        notes.append(f"{own:.0%} of the base's likeliest answers loop, so loops are not judged")
    looping = [_loops(each, turned[0], limits) for each in turned[1:] if own <= _MOST_OWN]
    for each in turned[1:]:
        margin = pair.poles[_POLES[each.eta]].report.mean_margin  # type: ignore[index]
        if margin >= limits.mean_margin and (still := _still(each, turned[0])):
            notes.append(
                f"At η = {each.eta:+g} the margin moved and the behaviour did not: {still}"
            )
    return Behaviour(
        tuple(turned),
        len(prompts.texts),
        prompts.room,
        tuple(notes),
        tuple(failure for failure in looping if failure),
    )


def _dial(
    pair: TrainedPair, model: PreTrainedModel, vector: TensorSource
) -> Callable[[float], None]:
    """Return what sets the model to base + η·φ; of shards each process sets its own part."""
    if not pair.ranks.sharded:
        dials = make_dials(model, pair.run.base)
        return lambda eta: dials.apply([(eta, vector)] if eta else [])
    conversion, base, names = pair.conversion, pair.run.base.checkpoint, set(vector.names)
    held = dict(model.named_parameters())

    def composed(eta: float, stored: str) -> torch.Tensor:
        weight = read_tensor(base.tensors[stored]).float()
        return weight + eta * vector.tensor(stored) if stored in names else weight

    @torch.no_grad()
    def turn(eta: float) -> None:
        for name in held.keys() & conversion.names.keys():
            if conversion.names[name] in names:
                weight = composed(eta, conversion.names[name])
                own(held[name]).copy_(weight[own_rows(held[name])])
        for fusion in conversion.fusions:
            if names.intersection(fusion.stored):
                made = fusion.load({stored: composed(eta, stored) for stored in fusion.stored})
                for name, weight in made.items():
                    own(held[name]).copy_(weight[own_rows(held[name])])

    return turn


def _unseen(reason: str) -> Behaviour:
    return Behaviour((), 0, 0, (reason,), ())


def _score(axis: Axis, prompts: Sequence[str], replies: Sequence[str]) -> list[float | None]:
    if axis.metric is None:
        return [None] * len(replies)
    return [measure(axis, *each) for each in zip(prompts, replies, strict=True)]


def _compare(
    eta: float, found: Sample, scores: Sequence[float | None], base: Sequence[float | None]
) -> Turned:
    """Set scores beside the base's; changes are of the prompts that the metric applies to twice."""
    known = [score for score in scores if score is not None]
    changes = [
        score - before
        for score, before in zip(scores, base, strict=True)
        if score is not None and before is not None
    ]
    return Turned(
        eta,
        fmean(known) if known else None,
        fmean(changes) if changes and eta else None,
        stdev(changes) / sqrt(len(changes)) if len(changes) > 1 and eta else None,
        found,
    )


def _loops(found: Turned, base: Turned, limits: Thresholds) -> Failure | None:
    limit = base.answers.looping + limits.loop_rise
    if found.answers.looping <= limit:
        return None
    return Failure(
        _POLES[found.eta],
        f"share of answers that loop at η = {found.eta:+g}",
        found.answers.looping,
        limit,
        "train fewer steps, lower learning_rate or raise beta; a smaller η may do as it is",
    )


def _still(found: Turned, base: Turned) -> str | None:
    """Say in which way the answers are the base's; None where they moved along the axis."""
    if found.change is None:
        return "every answer is the base's" if found.answers.unchanged == 1 else None
    if found.change * found.eta > (found.error or 0.0):
        return None
    return (
        f"the metric is {found.metric:.3g}, {base.metric:.3g} with the base (change "
        f"{found.change:+.2g}, standard error {found.error or 0.0:.2g})"
    )


def _summary(axis: Axis, turned: Sequence[Turned], prompts: int, room: int) -> str:
    ordered = sorted(turned, key=lambda each: each.eta)

    def row(name: str, values: Sequence[float | None], form: str) -> str:
        return f"{name} " + " / ".join("-" if v is None else format(v, form) for v in values)

    figures = [row("tokens", [each.answers.length for each in ordered], ".0f")]
    figures.append(row("looping", [each.answers.looping for each in ordered], ".0%"))
    if axis.metric is not None:
        figures.insert(0, row("its metric", [each.metric for each in ordered], ".3g"))
    return (
        f"Likeliest answers to {prompts} prompts at η = −1 / 0 / 1, of {room} tokens at most: "
        f"{', '.join(figures)}"
    )
