"""The log-probabilities of the reference, kept on disk by what they are computed from.

Both poles, every seed and a run that is taken up again score the same answers with the same
base. A file belongs to one set of pairs, in whatever order they come and whichever answer of each
is the chosen one.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import PreTrainedModel

from prefreg.checkpoints.bases import BaseModel
from prefreg.config import cache_folder
from prefreg.data.tokens import TokenPair
from prefreg.files import hash_bytes, write_whole
from prefreg.models.log_probs import PairLogProbs, answer_log_probs, require_finite_scores
from prefreg.models.ranks import current
from prefreg.progress import Steps
from prefreg.training.resources import hardware

_FORMAT = 2
"""Goes up with every change of the file or of how batches are made and scored."""
_PACKAGES = ("torch", "transformers")

Origin = Literal["computed", "cached", "switched"]


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference's log-probabilities of one pole's pairs."""

    trained: PairLogProbs
    """As the loss counts them."""
    whole: PairLogProbs
    """As reports count them: every token alike."""
    origin: Origin

    def switched(self) -> "Reference":
        """Return those of the pairs with their answers exchanged."""
        return Reference(self.trained.switched(), self.whole.switched(), "switched")


@dataclass(frozen=True, slots=True)
class References:
    """What a base's log-probabilities depend on beside the pairs."""

    base: BaseModel
    precision: str
    """What the model computes in: `float32`, `bfloat16` or `float16`."""
    rows: bool
    """Whether both answers stand in one row; the results differ by rounding."""
    weights: str = "float32"
    """What the model's weights are in."""
    tail: float | None = None
    """What a token beyond the length of the shorter answer counts for in the loss (`ld_alpha`)."""
    folder: Path | None = None
    """Where they are kept; by default in the cache."""

    def score(
        self, model: PreTrainedModel, pairs: Sequence[TokenPair], progress: Steps | None = None
    ) -> Reference:
        """Return the log-probabilities of pairs, from the disk where they are there."""
        trained, origin = self._score(
            model, pairs, 1.0 if self.tail is None else self.tail, progress
        )
        whole = trained
        if self.tail is not None:
            whole, _ = self._score(model, pairs, 1.0, progress)
        return Reference(trained, whole, origin)

    def autocast(self, model: PreTrainedModel) -> torch.autocast:
        """Return the context in which the model computes as in training."""
        reduced = self.precision != "float32"
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(model.device.type, dtype, enabled=reduced)

    def _score(
        self,
        model: PreTrainedModel,
        pairs: Sequence[TokenPair],
        tail: float,
        progress: Steps | None,
    ) -> tuple[PairLogProbs, Origin]:
        """Score pairs, and the answers of each, in an order that follows from the texts alone.

        So what is found on the disk is what would be computed, bit for bit, and switched labels
        get the same numbers, which makes φ of them −φ to the last bit.
        """
        turned = [pair.rejected_ids < pair.chosen_ids for pair in pairs]
        laid = [p.switched() if t else p for p, t in zip(pairs, turned, strict=True)]
        digests = [_digest(pair) for pair in laid]
        order = sorted(range(len(pairs)), key=digests.__getitem__)
        entry = self._entry([digests[i] for i in order], tail)
        chosen_tokens, rejected_tokens = _counts(pairs)
        ranks = current()
        sums = ranks.once(lambda: _recall(entry, len(pairs)))
        origin: Origin = "computed" if sums is None else "cached"
        if sums is None:
            with self.autocast(model):
                found = answer_log_probs(
                    model,
                    [laid[i] for i in order],
                    rows=self.rows,
                    tail=tail,
                    progress=progress,
                )
            require_finite_scores(model, found)
            sums = torch.stack([found.chosen, found.rejected])
            if ranks.first:
                _remember(entry, sums)
        placed = torch.empty_like(sums)
        placed[:, order] = sums
        placed = torch.where(torch.tensor(turned, dtype=torch.bool), placed.flip(0), placed)
        return PairLogProbs(placed[0], placed[1], chosen_tokens, rejected_tokens), origin

    def _entry(self, digests: Sequence[str], tail: float) -> Path:
        content = [
            _FORMAT,
            self.base.fingerprint.weights,
            self.base.fingerprint.configuration,
            self.precision if self.weights == "float32" else [self.precision, self.weights],
            self.rows,
            tail,
            # These change a result by rounding, and the same seed must give the same bytes.
            [version(name) for name in _PACKAGES],
            hardware(),
            digests,
        ]
        key = hash_bytes(json.dumps(content).encode())
        return (self.folder or cache_folder() / "references") / f"{key}.safetensors"


def _digest(pair: TokenPair) -> str:
    content = [pair.prompt_ids.tolist(), pair.chosen_ids.tolist(), pair.rejected_ids.tolist()]
    return hash_bytes(json.dumps(content).encode())


def _counts(pairs: Sequence[TokenPair]) -> tuple[torch.Tensor, torch.Tensor]:
    counts = [(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs]
    chosen, rejected = torch.tensor(counts, dtype=torch.int64).view(-1, 2).T
    return chosen.clone(), rejected.clone()


def _recall(entry: Path, count: int) -> torch.Tensor | None:
    """Read what was kept; None where there is nothing, or it is damaged."""
    try:
        kept = load(entry.read_bytes())
        sums, checksum = kept["sums"], kept["sha256"]
    except (OSError, KeyError, ValueError, SafetensorError):
        return None
    sound = sums.shape == (2, count) and sums.dtype == torch.float64
    return sums if sound and torch.equal(checksum, _checksum(sums)) else None


def _remember(entry: Path, sums: torch.Tensor) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs time
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_whole(entry, save({"sums": sums, "sha256": _checksum(sums)}))


def _checksum(sums: torch.Tensor) -> torch.Tensor:
    digest = hashlib.sha256(sums.contiguous().numpy().tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)
