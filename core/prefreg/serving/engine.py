"""Running answers, token by token: those of equal weights in turn, each weights for a while."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from prefreg.checkpoints import BaseModel
from prefreg.composition.in_memory import Dials, ScaledVector, make_dials
from prefreg.models.loading import no_numbers
from prefreg.serving.answer import Answer
from prefreg.serving.asking import Piece

TURN = 32
"""Tokens that answers of equal weights are given before others that wait have their turn."""
PREFILL = 256
"""Tokens of a prompt that are read at once; between such parts the other answers go on."""

Weights = tuple[tuple[str, float], ...]
"""Fingerprint and coefficient of every vector that the weights must be composed with."""


@dataclass(eq=False)
class Row:
    """One running answer."""

    answer: Answer
    setting: tuple[ScaledVector, ...]
    on_piece: Callable[[Piece], None]
    on_error: Callable[[BaseException], None]
    cancelled: bool = False
    """Set from any thread; seen before the next token."""
    read: int = 0
    """Tokens of the prompt that the model has read."""
    echoed: list[torch.Tensor] = field(default_factory=list)
    """Logits after each token of the prompt, where they are scored."""
    last: int = 0
    """The token that was drawn last, which the model has not read yet."""
    cache: Any = None

    @property
    def weights(self) -> Weights:
        """Return what the weights must be composed with."""
        return tuple((term.record.sha256, term.eta) for term in self.setting)


class Engine:
    """Steps through running answers; lives in one thread, and nothing else turns the model."""

    def __init__(self, model: PreTrainedModel, base: BaseModel) -> None:
        """Take a pristine model; its weights are kept twice once a setting needs it."""
        self.rows: list[Row] = []
        self.counts: dict[str, int] = dict.fromkeys(
            ("finished", "cancelled", "failed", "prompt_tokens", "tokens", "switches"), 0
        )
        self._model = model
        self._base = base
        self._dials: Dials | None = None
        self._weights: Weights = ()
        self._steps = 0
        self._known = inspect.signature(model.forward).parameters

    def step(self) -> None:
        """Give every answer of the weights whose turn it is one token, or a part of its prompt."""
        for row in [row for row in self.rows if row.cancelled]:
            self._end(row, row.answer.cancel())
        if not self.rows:
            return
        present = [row for row in self.rows if row.weights == self._weights]
        if not present or (self._steps >= TURN and len(present) < len(self.rows)):
            # The oldest of the others is next; what had its turn goes to the end of the line.
            self.rows = [row for row in self.rows if row.weights != self._weights] + present
            first = self.rows[0]
            present = [row for row in self.rows if row.weights == first.weights]
            self._steps = 0
            try:
                self._turn(first)
            except Exception as error:
                for row in present:
                    self._fail(row, error)
                return
        self._steps += 1
        for row in present:
            try:
                self._advance(row)
            except Exception as error:
                self._fail(row, error)

    def restore(self) -> None:
        """Give the model its pristine weights."""
        if self._dials is not None:
            self._dials.restore()
        self._weights = ()

    def _turn(self, row: Row) -> None:
        self._weights = ()
        if self._dials is None:
            self._dials = make_dials(self._model, self._base)
        self._dials.apply([(term.eta, term.vector) for term in row.setting])
        self._weights = row.weights
        self.counts["switches"] += 1

    def _advance(self, row: Row) -> None:
        ask = row.answer.ask
        if row.read < len(ask.prompt):
            part = ask.prompt[row.read : row.read + PREFILL]
            scored = ask.echo and ask.top_logprobs is not None
            logits = self._forward(row, part, every=scored)
            row.read += len(part)
            self.counts["prompt_tokens"] += len(part)
            whole = row.read == len(ask.prompt)
            if scored:
                row.echoed.append(logits[: len(logits) - whole])
            if not whole:
                return
            if ask.echo:
                self._give(row, row.answer.echo(row.echoed))
                row.echoed = []
            if not ask.max_tokens:
                return
        else:
            logits = self._forward(row, [row.last], every=False)
        last = logits[-1].float().cpu()
        if not bool(last.amax().isfinite()):
            raise no_numbers(self._model)
        row.last = row.answer.draw(last)
        self.counts["tokens"] += 1
        if (piece := row.answer.take(row.last, last)) is not None:
            self._give(row, piece)

    def _forward(self, row: Row, ids: Sequence[int], *, every: bool) -> torch.Tensor:
        """Return the logits of (1, vocabulary) after the last token, or after `every` one."""
        if row.cache is None:
            row.cache = DynamicCache(config=self._model.config)
        inputs: dict[str, Any] = {"past_key_values": row.cache, "use_cache": True}
        if "logits_to_keep" in self._known:
            inputs["logits_to_keep"] = 0 if every else 1
        forward: Any = self._model
        tokens = torch.tensor([list(ids)], device=self._model.device)
        logits: torch.Tensor = forward(input_ids=tokens, **inputs).logits[0]
        return logits if every else logits[-1:]

    def _give(self, row: Row, piece: Piece) -> None:
        if piece.finish is None:
            row.on_piece(piece)
        else:
            self._end(row, piece)

    def _end(self, row: Row, piece: Piece) -> None:
        self.rows.remove(row)
        self.counts["cancelled" if piece.finish == "cancelled" else "finished"] += 1
        try:
            row.on_piece(piece)
        except Exception as error:
            tell(row, error)

    def _fail(self, row: Row, error: Exception) -> None:
        if row in self.rows:
            self.rows.remove(row)
        self.counts["failed"] += 1
        tell(row, error)


def tell(row: Row, error: Exception) -> None:
    """Hand an error to whoever asked; a fault of theirs is their own matter."""
    try:
        row.on_error(error)
    except Exception:  # nobody is left to be told, and the other answers go on
        return
