"""What vectors do to the model's next word: angles and lengths in predictions, not in weights.

D_i is the central difference of the logits along φ_i, and G[i,j] = E[Cov_π(D_i, D_j)] under the
base's own distribution, summed over the steps of its answers. To second order the composition at η
is ½·ηᵀGη nats from the base, for every η at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import PreTrainedModel

from prefreg.errors import DataError
from prefreg.evaluation.board import Board
from prefreg.evaluation.prompts import fingerprint_prompts
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.models.generation import Answer, sample
from prefreg.models.padded import length, step_inputs
from prefreg.models.sampling import Sampling
from prefreg.progress import Steps, steps_of

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
        norms = np.sqrt(np.diag(self.gram))
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Array = self.gram / np.outer(norms, norms)
        return found

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


def measure_functional(board: Board) -> Functional:
    """Measure G on the base's own answers, and hold its prediction at η against the truth."""
    geometry = find_geometry(board)
    groups = [each.group for each in board.evaluator.asked]
    lengths = [
        grouped_mean(geometry.predict_each(unit), groups) for unit in np.eye(len(board.terms))
    ]
    answers = board.evaluator.answers(board.at(board.etas))
    return Functional(
        geometry=geometry,
        lengths=tuple(lengths),
        predicted=grouped_mean(geometry.predict_each(board.etas), groups),
        measured=grouped_mean(answers.nats, groups),
    )


def find_geometry(board: Board) -> FunctionalGeometry:
    """Measure G, or read it where the same was measured before."""
    evaluator, request = board.evaluator, board.evaluator.request
    count = len(board.terms)
    protocol = {
        "prompts": fingerprint_prompts(evaluator.asked),
        "step": STEP,
        **request.sampling(),
    }

    def compute() -> dict[str, Any]:
        sampled = sample(
            board.turn([0.0] * count),
            evaluator.bench.tokenizer,
            [each.prompt for each in evaluator.asked],
            Sampling(**request.sampling()),
            progress=steps_of(evaluator.progress, "answers of the base"),
        )
        found = functional_geometry(
            board.turn,
            count,
            sampled,
            progress=steps_of(evaluator.progress, "differences of logits"),
        )
        return {"moments": found.per_answer.tolist(), "tokens": found.tokens.tolist()}

    kept = evaluator.part(board.at([1.0] * count), "functional", protocol, compute)
    return FunctionalGeometry(np.array(kept["moments"]), np.array(kept["tokens"]))


def functional_view(names: Sequence[str], found: Functional) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    cosines, gram = found.geometry.cosines, found.geometry.gram
    return {
        "step": STEP,
        "answers": len(found.geometry.tokens),
        "tokens": int(found.geometry.tokens.sum()),
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
            {"vector": name, "kl": estimate_view(length)}
            for name, length in zip(names, found.lengths, strict=True)
        ],
        "predicted_kl": estimate_view(found.predicted),
        "measured_kl": estimate_view(found.measured),
        "ratio": found.ratio,
        "trusted": found.trusted,
    }


def estimate_view(estimate: Estimate) -> dict[str, float]:
    """Return an interval in a form that JSON can hold."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
