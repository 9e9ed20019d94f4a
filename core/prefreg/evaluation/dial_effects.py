"""What dials do to the loaded model: to its next word, and which dial moves which axis.

Angles and lengths are in predictions, not in weights:

D_i is the central difference of the logits along φ_i, and G[i,j] = E[Cov_π(D_i, D_j)] under the
base's own distribution, summed over the steps of its answers. To second order the composition at η
is ½·ηᵀGη nats from the base, for every η at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import PreTrainedModel

from prefreg.composition.resolve import ResolvedTerm
from prefreg.errors import DataError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Column, Read, deviation_of
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.evaluation.weight_geometry import cosines_of
from prefreg.models.generation import Answer
from prefreg.models.padded import length, step_inputs
from prefreg.models.threads import on_suited_threads
from prefreg.progress import Progress, Steps, steps_of
from prefreg.registry import Access
from prefreg.terms import Term

STEP = 0.1
_LOGITS = 1 << 27
"""Logits of all vectors in memory at a time, 512 MiB in float32."""

Turn = Callable[[Sequence[float]], PreTrainedModel]
"""Give the model the weights of η, one coefficient a vector, and return it."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FunctionalGeometry:
    """Second moments of what vectors do to the logits, for every answer of the base."""

    per_answer: Array
    """Answers × vectors × vectors, in nats per unit of η squared."""
    tokens: Array
    """Steps of each answer."""

    @property
    def gram(self) -> Array:
        """G, the mean over answers."""
        found: Array = self.per_answer.mean(axis=0)
        return found

    @property
    def cosines(self) -> Array:
        """Cosines between vectors as the model's predictions have them; NaN of one without any."""
        return cosines_of(self.gram)

    def predict(self, etas: ArrayLike) -> float:
        """Predict KL(π_η ‖ π_0) in nats per answer."""
        return float(self.predict_each(etas).mean())

    def predict_each(self, etas: ArrayLike) -> Array:
        """Predict the nats of each answer."""
        point = np.asarray(etas, dtype=np.float64)
        found: Array = 0.5 * np.einsum("i,nij,j->n", point, self.per_answer, point)
        return found


def functional_geometry(
    turn: Turn,
    count: int,
    answers: Sequence[Answer],
    *,
    step: float = STEP,
    progress: Steps | None = None,
) -> FunctionalGeometry:
    """Measure G on answers that the base gave, with two passes a vector and one of the base."""
    if not answers:
        raise DataError("Functional geometry needs at least one answer of the base.")
    order = sorted(range(len(answers)), key=lambda place: length(answers[place]))
    vocabulary = turn([0.0] * count).config.get_text_config().vocab_size
    per_answer = np.zeros((len(answers), count, count))
    done = 0
    while done < len(order):
        batch = order[done:]
        while len(batch) > 1 and _size(answers, batch, count + 2, vocabulary) > _LOGITS:
            batch = batch[: len(batch) // 2]
        per_answer[batch] = _moments(turn, count, [answers[place] for place in batch], step)
        done += len(batch)
        if progress is not None:
            progress(done, len(order))
    return FunctionalGeometry(per_answer, np.array([len(each.ids) for each in answers], float))


def _moments(turn: Turn, count: int, batch: Sequence[Answer], step: float) -> Array:
    def logits_at(place: int | None, eta: float) -> torch.Tensor:
        model = turn([eta if each == place else 0.0 for each in range(count)])
        return step_logits(model, batch)

    weights = logits_at(None, 0.0).softmax(1)
    # Deviations from their mean under π, so that a product of two is a covariance.
    deviations = []
    for place in range(count):
        slope = (logits_at(place, step) - logits_at(place, -step)) / (2 * step)
        deviations.append(slope - (weights * slope).sum(1, keepdim=True))
    owners = torch.tensor([row for row, each in enumerate(batch) for _ in each.ids])
    found = np.zeros((len(batch), count, count))
    for one, first in enumerate(deviations):
        weighted = weights * first
        for other, second in enumerate(deviations[: one + 1]):
            nats = (weighted * second).sum(1, dtype=torch.float64).cpu()
            sums = torch.zeros(len(batch), dtype=torch.float64).index_add(0, owners, nats)
            found[:, one, other] = found[:, other, one] = sums.numpy()
    return found


@on_suited_threads
@torch.inference_mode()
def step_logits(model: PreTrainedModel, batch: Sequence[Answer]) -> torch.Tensor:
    """Return the logits of every step of every answer in float32, one row a step, in order."""
    inputs, steps = step_inputs(model, batch)
    output = model(**inputs).logits
    kept: torch.Tensor = output[:, -steps.shape[1] :][steps.to(output.device)].float()
    return kept


def _size(answers: Sequence[Answer], batch: Sequence[int], models: int, vocabulary: int) -> int:
    # One pass holds the logits of whole rows, the vectors only those of steps.
    rows = len(batch) * length(answers[batch[-1]])
    steps = sum(len(answers[place].ids) for place in batch)
    return (rows + models * steps) * vocabulary


TRUSTED = (1 / 1.5, 1.5)
"""Measured over predicted KL, within which the quadratic picture is taken to hold at η."""


@dataclass(frozen=True, slots=True)
class Functional:
    """Vectors as the model's predictions have them, and the KL at the coefficients asked for."""

    geometry: FunctionalGeometry
    lengths: tuple[Estimate, ...]
    """KL per answer that each dial alone would have at η = 1, to second order."""
    predicted: Estimate
    """KL(π_η ‖ π_0) in nats per answer."""
    measured: Estimate
    """The same, on answers of π_η."""

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured.value / self.predicted.value

    @property
    def trusted(self) -> bool:
        """Whether the quadratic picture holds at these coefficients."""
        low, high = TRUSTED
        return bool(low <= self.ratio <= high)

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return it in a form that JSON can hold, with the names of the vectors."""
        cosines, gram = self.geometry.cosines, self.geometry.gram
        return {
            "step": STEP,
            "answers": len(self.geometry.tokens),
            "tokens": int(self.geometry.tokens.sum()),
            "gram": [
                {
                    "first": names[one],
                    "second": names[other],
                    "nats": float(gram[one, other]),
                    "cosine": float(cosines[one, other]),
                }
                for one, other in combinations(range(len(names)), 2)
            ],
            "alone": [
                {"vector": name, "kl": length.to_json()}
                for name, length in zip(names, self.lengths, strict=True)
            ],
            "predicted_kl": self.predicted.to_json(),
            "measured_kl": self.measured.to_json(),
            "ratio": self.ratio,
            "trusted": self.trusted,
        }


def measure_functional(evaluator: Evaluator) -> Functional:
    """Measure G on the base's own answers, and hold its prediction at η against the truth."""
    geometry, groups = find_geometry(evaluator), evaluator.groups
    lengths = [
        grouped_mean(geometry.predict_each(unit), groups) for unit in np.eye(len(evaluator.terms))
    ]
    answers = evaluator.answers(evaluator.at(evaluator.etas))
    return Functional(
        geometry=geometry,
        lengths=tuple(lengths),
        predicted=grouped_mean(geometry.predict_each(evaluator.etas), groups),
        measured=grouped_mean(answers.nats, groups),
    )


def find_geometry(evaluator: Evaluator) -> FunctionalGeometry:
    """Measure G, or read it where the same was measured before."""

    def turn(etas: Sequence[float]) -> PreTrainedModel:
        return evaluator.model(evaluator.at(etas))

    def compute() -> dict[str, Any]:
        sampled = evaluator.drawn(evaluator.plain)
        progress = steps_of(evaluator.progress, "differences of logits")
        found = functional_geometry(turn, len(evaluator.terms), sampled, progress=progress)
        return {"moments": found.per_answer.tolist(), "tokens": found.tokens.tolist()}

    protocol = {"step": STEP, **evaluator.drawing}
    together = evaluator.at([1.0] * len(evaluator.terms))
    kept = evaluator.part(together, "functional", protocol, compute)
    return FunctionalGeometry(np.array(kept["moments"]), np.array(kept["tokens"]))


Of = Literal["margin", "metric"]
ILL_CONDITIONED = 10.0
"""Above this, dials cannot be decoupled by solving for them: an error grows tenfold."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """J[i, j], how axis i changes with dial j, in base standard deviations per unit of η."""

    of: Of
    axes: tuple[str, ...]
    """Those that can be measured, the rows."""
    dials: tuple[str, ...]
    """The columns."""
    entries: tuple[tuple[Estimate, ...], ...]
    missing: dict[str, str]
    """Axes without a row, with the reason."""

    @property
    def matrix(self) -> Column:
        """J, without its intervals."""
        return np.array([[entry.value for entry in row] for row in self.entries])

    @property
    def condition(self) -> float | None:
        """The condition number of J; None where it is not square."""
        matrix = self.matrix
        return float(np.linalg.cond(matrix)) if matrix.shape[0] == matrix.shape[1] else None

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        condition = self.condition
        return {
            "of": self.of,
            "step": STEP,
            "unit": "base standard deviations per unit of η",
            "condition": condition if condition is not None and np.isfinite(condition) else None,
            "entries": [
                {"axis": axis, "dial": dial, **entry.to_json()}
                for axis, row in zip(self.axes, self.entries, strict=True)
                for dial, entry in zip(self.dials, row, strict=True)
            ],
            "missing": dict(self.missing),
        }


def measure_leakage(evaluator: Evaluator, of: Of) -> Leakage:
    """Measure J by central differences on the same prompts or pairs, twice for every dial.

    Of margins it is teacher-forced and has little noise; of metrics, on answers sampled anew for
    each of both sides with the same seed, it needs many prompts.
    """
    missing: dict[str, str] = {}
    rows: dict[str, tuple[Estimate, ...]] = {}
    for axis in evaluator.axes:
        try:
            rows[axis] = _row(evaluator, axis, of)
        except DataError as error:
            missing[axis] = str(error).rstrip(".")
    if not rows:
        why = "; ".join(f"{axis}: {reason}" for axis, reason in missing.items())
        raise DataError(f"No axis has a {of} that can be measured here: {why or 'none is scored'}.")
    dials = tuple(str(term.record) for term in evaluator.terms)
    return Leakage(of, tuple(rows), dials, tuple(rows.values()), missing)


def _row(evaluator: Evaluator, axis: str, of: Of) -> tuple[Estimate, ...]:
    read, groups = _reader(evaluator, axis, of)
    base = read(evaluator.plain)
    deviation = deviation_of(base)
    if not deviation:
        raise DataError(f"the {of} does not vary on the base")
    entries = []
    for place in range(len(evaluator.terms)):
        up, down = (read(evaluator.along(place, sign * STEP)) for sign in (1, -1))
        slopes = (up - down) / (2 * STEP * deviation)
        used = np.isfinite(slopes)
        owners = [group for group, kept in zip(groups, used, strict=True) if kept]
        entries.append(grouped_mean(slopes[used], owners))
    return tuple(entries)


def _reader(evaluator: Evaluator, axis: str, of: Of) -> tuple[Read, Sequence[str]]:
    """Return what reads the figure of every pair or prompt, and their groups."""
    if of == "metric":
        metric = evaluator.own_metric(axis)
        if metric is None:
            raise DataError("it has no metric for these prompts")
        return metric.read, metric.groups
    return partial(evaluator.margins, axis=axis), evaluator.margin_groups(axis)


@dataclass(frozen=True, slots=True)
class DialEffects:
    """What dials do to the loaded model: to its predictions, and each to every axis."""

    terms: tuple[ResolvedTerm, ...]
    formula: str
    prompts: int
    functional: Functional | None
    """None where it was not asked for, and so the other one."""
    leakage: Leakage | None

    @property
    def names(self) -> list[str]:
        """The versions that are turned."""
        return [str(term.record) for term in self.terms]

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        found: dict[str, Any] = {}
        if self.functional is not None:
            found["functional"] = self.functional.to_json(self.names)
        if self.leakage is not None:
            found["leakage"] = self.leakage.to_json()
        return found


def measure_effects(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    *,
    functional: bool = True,
    leakage: Of | None = "margin",
    progress: Progress | None = None,
) -> DialEffects:
    """Measure functional geometry, the leakage matrix, or both, with the base loaded once."""
    evaluator = open_dials(access, terms, request, progress)
    return DialEffects(
        terms=evaluator.terms,
        formula=evaluator.at(evaluator.etas).formula,
        prompts=len(evaluator.asked),
        functional=measure_functional(evaluator) if functional else None,
        leakage=measure_leakage(evaluator, leakage) if leakage else None,
    )
