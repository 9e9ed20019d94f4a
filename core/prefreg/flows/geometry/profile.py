"""Which layers of a stored vector do its work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.geometry.layers import Block, Part, Profile, make_blocks, profile_layers
from prefreg.evaluation.prompts import fingerprint_prompts
from prefreg.flows.access import Access
from prefreg.flows.geometry.board import Board, open_board
from prefreg.flows.geometry.vectors import opened_vectors
from prefreg.flows.measuring.evaluator import Progress
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.terms import Term
from prefreg.vectors.sources import TensorSource

BLOCKS = 8


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """The profile of a version at one coefficient."""

    record: VersionRecord
    profile: Profile
    pairs: int
    answers: int


def profile_dial(
    access: Access,
    term: Term,
    request: EvaluationRequest,
    *,
    blocks: int = BLOCKS,
    progress: Progress | None = None,
) -> LayerProfile:
    """Measure a vector by blocks of layers: the held-out margin, and KL on the base's answers.

    Raises:
        UsageError: The term is at 0, or the number of blocks is.
        RegistryError: There is no such version.
        DataError: The axis has no held-out pairs here.
    """
    if blocks < 1:
        raise UsageError(f"A profile has at least one block, got {blocks}.")
    board = open_board(access, [term], request, progress)
    record, evaluator = board.terms[0].record, board.evaluator
    if record.axis not in evaluator.pairs:
        why = evaluator.missing.get(f"{record.axis}.margin", "it has no held-out pairs")
        raise DataError(f"The margin of {record.axis} cannot be measured: {why}.")
    held = evaluator.pairs[record.axis]
    protocol = {
        "pairs": held.fingerprint,
        "prompts": fingerprint_prompts(evaluator.asked),
        "blocks": blocks,
        **request.sampling(),
    }
    candidate = board.along(0, term.eta)
    kept = evaluator.part(candidate, "layers", protocol, lambda: _measure(access, board, blocks))
    return LayerProfile(record, _read(kept), len(held.pairs), len(evaluator.asked))


def _measure(access: Access, board: Board, blocks: int) -> dict[str, Any]:
    with access.reading() as store, opened_vectors(store, board.terms) as (vector,):
        cut = make_blocks(vector.names, blocks)
        total = 2 * len(cut) + 1
        done = 0
        tell = board.evaluator.step("blocks of layers")
        scale = _Scale(board, vector)

        def measure(layers: Block, eta: float) -> tuple[float, float]:
            nonlocal done
            done += 1
            if tell is not None:
                tell(min(done, total), total)
            return scale.measure(layers, eta)

        try:
            found = profile_layers(measure, cut, board.etas[0])
        finally:
            board.evaluator.bench.dials.restore()
    return asdict(found)


class _Scale:
    """Weighs parts of a vector on the pristine base, which the caller gives its weights back."""

    def __init__(self, board: Board, vector: TensorSource) -> None:
        from prefreg.data.tokens import tokenize_pairs
        from prefreg.evaluation.sampling import Sampling, sample
        from prefreg.training.loading import load_limits

        evaluator, request = board.evaluator, board.evaluator.request
        self._bench, self._vector = evaluator.bench, vector
        model = board.turn([0.0])
        self._answers = sample(
            model,
            self._bench.tokenizer,
            [each.prompt for each in evaluator.asked],
            Sampling(**request.sampling()),
        )
        context, vocabulary = load_limits(evaluator.base)
        held = evaluator.pairs[board.terms[0].record.axis]
        self._pairs: Sequence[Any] = tokenize_pairs(
            held.pairs,
            self._bench.tokenizer,
            max_length=context or 1 << 30,
            policy="drop",
            vocabulary=vocabulary,
        ).pairs
        self._base = self._margins()
        self._deviation = float(self._base.std(ddof=1)) if len(self._base) > 1 else 0.0
        if not self._deviation:
            raise DataError("The held-out margin does not vary on the base: give more pairs.")

    def measure(self, layers: Block, eta: float) -> tuple[float, float]:
        from prefreg.evaluation.divergence import divergences
        from prefreg.evaluation.geometry.layers import Layers

        dials = self._bench.dials
        dials.apply([(eta, Layers(self._vector, layers))])
        effect = float((self._margins() - self._base).mean() / self._deviation)
        nats = divergences(dials.model, dials.pristine, self._answers)
        return effect, float(np.mean(nats))

    def _margins(self) -> Any:
        from prefreg.scoring.log_probs import answer_log_probs, margins

        return margins(answer_log_probs(self._bench.dials.model, self._pairs)).numpy()


def _read(kept: dict[str, Any]) -> Profile:
    def part(value: dict[str, Any]) -> Part:
        return Part(**{**value, "layers": tuple(value["layers"])})

    return Profile(
        whole=part(kept["whole"]),
        blocks=tuple(map(part, kept["blocks"])),
        growing=tuple(map(part, kept["growing"])),
        chosen=part(kept["chosen"]),
    )


def profile_view(found: LayerProfile) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    profile = found.profile
    return {
        "axis": found.record.axis,
        "version": found.record.number,
        "pairs": found.pairs,
        "answers": found.answers,
        "whole": _view(profile.whole),
        "blocks": [_view(each) for each in profile.blocks],
        "growing": [_view(each) for each in profile.growing],
        "chosen": _view(profile.chosen),
    }


def _view(part: Part) -> dict[str, Any]:
    return {**asdict(part), "layers": list(part.layers)}
