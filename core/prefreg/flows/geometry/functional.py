"""What stored vectors do to the model's predictions, and how far that tells what η will do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from prefreg.evaluation.geometry.functional import STEP, FunctionalGeometry, functional_geometry
from prefreg.evaluation.prompts import fingerprint_prompts
from prefreg.evaluation.sampling import Sampling, sample
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.flows.geometry.board import Board

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
    """Measure G on the base's own answers, and hold its prediction at η against the truth.

    Raises:
        DataError: There are too few prompts for an interval.
    """
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
            progress=evaluator.step("answers of the base"),
        )
        found = functional_geometry(
            board.turn, count, sampled, progress=evaluator.step("differences of logits")
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
