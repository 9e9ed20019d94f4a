"""Steps through running answers: those of equal weights in batches, one batch after another."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from prefreg.checkpoints import BaseModel
from prefreg.composition.in_memory import Dials, ScaledVector
from prefreg.errors import UsageError
from prefreg.models.conversion import open_conversion
from prefreg.models.loading import no_numbers
from prefreg.serving.answer import Answer
from prefreg.serving.asking import Piece
from prefreg.serving.batches import ApartBatch, Batch, Passes, Stream, Weights, WholeBatch
from prefreg.serving.probes import Kind, carries_rows, find_kind
from prefreg.serving.row_dials import Carried, RowDials

TURN = 32
"""Steps that a batch is given while others wait; each is a token of every answer in it."""
READ = 256
"""Tokens of prompts that are read between two steps, so that a long prompt stops nobody long."""


_Key = tuple[Weights, Kind]


@dataclass(eq=False, kw_only=True)
class Row(Stream):
    """One running answer."""

    answer: Answer
    terms: tuple[ScaledVector, ...]
    """The whole setting, in canonical order."""
    on_piece: Callable[[Piece], None]
    on_error: Callable[[BaseException], None]
    cancelled: bool = False
    """Set from any thread; seen before the next token."""
    echoed: list[torch.Tensor] = field(default_factory=list)
    """Logits after each token of the prompt, where they are scored."""


class Engine:
    """Lives in one thread; nothing else turns or asks the model.

    A batch waits until each of the others had its turn. There are at most as many as rows, so that
    the next token of an answer is at most (rows − 1)·(TURN steps and one switch of weights) away.
    """

    def __init__(self, model: PreTrainedModel, base: BaseModel) -> None:
        """Take a pristine model, and try how answers can be stepped."""
        self.rows: list[Row] = []
        self.counts: Counter[str] = Counter()
        self._model = model
        self._base = base
        self._conversion = open_conversion(model, base)
        self._dials: Dials | None = None
        self._row_dials = RowDials(model, self._conversion)
        self._passes = Passes(model, self._row_dials)
        self._standing: Weights = ()
        self._batches: dict[_Key, Batch[Row]] = {}
        """The first has its turn."""
        self._homes: dict[Row, _Key] = {}
        self._steps = 0
        self._kind = find_kind(self._passes)
        self.carries = carries_rows(self._passes, self._kind)
        """Whether low-rank vectors act on single rows; else weights are composed with them."""
        self._window = _window(model.config)

    @property
    def together(self) -> bool:
        """Whether one pass steps all answers of equal weights; else each is stepped by itself."""
        return self._kind is Batch

    def admit(self, row: Row) -> None:
        """Take an answer that is to run."""
        composed: list[ScaledVector] = []
        carried: list[Carried] = []
        for term in row.terms:
            vector = term.vector
            if self.carries and self._row_dials.carries(vector):
                carried.append(Carried(term.record.sha256, vector, term.eta, term.since))
            else:
                composed.append(term)
        row.composed, row.carried = tuple(composed), tuple(carried)
        self.rows.append(row)
        try:
            if self._kind is WholeBatch and any(term.since is not None for term in composed):
                raise UsageError(
                    f"A {type(self._model).__name__} reads all anew for each token, so weights "
                    "cannot change within an answer: leave the phase of the term out."
                )
            self._place(row)
        except Exception as error:
            self._fail(row, error)

    def step(self) -> None:
        """Read parts of prompts, and give each answer of the batch whose turn it is a token."""
        for row in [row for row in self.rows if row.cancelled]:
            self._end(row, row.answer.cancel())
        if not self._batches:
            return
        key = next(iter(self._batches))
        if self._steps >= TURN and len(self._batches) > 1:
            self._batches[key] = self._batches.pop(key)
            key = next(iter(self._batches))
            self._steps = 0
        batch = self._batches[key]
        self._steps += 1
        try:
            self._turn(key[0], batch)
            self._read(batch)
            if rows := batch.going:
                logits = batch.step(rows)
                for row in rows:
                    row.read += 1
                self._take(rows, logits)
        except Exception as error:
            for row in [*batch.rows, *batch.line]:
                self._fail(row, error)

    def fail(self, error: Exception) -> None:
        """End all answers with an error."""
        for row in list(self.rows):
            self._fail(row, error)

    def close(self) -> None:
        """Give the model back as it was."""
        self._row_dials.use(None)
        if self._dials is not None:
            self._dials.restore()

    def _place(self, row: Row) -> None:
        """Put a row into the batch of its weights."""
        key = self._key(row)
        if key not in self._batches:
            self._batches[key] = key[1](self._passes)
        self._homes[row] = key
        self._batches[key].enter(row)

    def _key(self, row: Row) -> _Key:
        """Say where a row belongs; one that outgrows a window of its model is stepped by itself."""
        most = len(row.prompt) + row.answer.ask.max_tokens
        beyond = self._window is not None and most > self._window
        return row.weights, ApartBatch if self.together and beyond else self._kind

    def _turn(self, weights: Weights, batch: Batch[Row]) -> None:
        """Compose the weights of a batch."""
        if weights == self._standing:
            return
        row = next(iter((*batch.rows, *batch.line)))
        terms = {term.record.sha256: term for term in row.composed}
        if self._dials is None:
            self._dials = Dials(self._model, self._conversion, self._base)
        self._standing = ()  # which they are if that fails
        self._dials.apply([(eta, terms[sha256].vector) for sha256, eta in weights])
        self._standing = weights
        self.counts["switches"] += 1

    def _read(self, batch: Batch[Row]) -> None:
        """Read prompts, each to its end before the next, as far as one step reads."""
        left = READ
        while left and (row := batch.reading) is not None:
            count = min(left, row.alike)
            left -= count
            try:
                self._read_part(batch, row, count)
            except Exception as error:
                self._fail(row, error)

    def _read_part(self, batch: Batch[Row], row: Row, count: int) -> None:
        ask = row.answer.ask
        scored = ask.echo and ask.top_logprobs is not None
        part = ask.prompt[row.read : row.read + count]
        logits = batch.read(row, part, every=scored)
        row.read += count
        self.counts["prompt_tokens"] += count
        if scored:
            row.echoed.append(logits[: count - (not row.unread)].float().cpu())
        if row.unread:
            self._follow(row)
            return
        if ask.echo:
            self._give(row, row.answer.echo(row.echoed))
            row.echoed = []
        if ask.max_tokens:
            self._take([row], logits[-1:])

    def _take(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Draw the next token of each row from logits of (rows, vocabulary)."""
        logits = logits.float().cpu()
        sound = logits.amax(-1).isfinite().tolist()
        for row, scores, finite in zip(rows, logits, sound, strict=True):
            try:
                if not finite:
                    raise no_numbers(self._model)
                row.last = row.answer.draw(scores)
                self.counts["tokens"] += 1
                piece = row.answer.take(row.last, scores)
                if piece is not None:
                    self._give(row, piece)
                if row in self._homes:
                    self._follow(row)
            except Exception as error:
                self._fail(row, error)

    def _follow(self, row: Row) -> None:
        """Let a row go on in the batch of the weights that its next token is read with."""
        if self._key(row) != self._homes[row]:
            self._leave(row, keep=True)
            self._place(row)

    def _give(self, row: Row, piece: Piece) -> None:
        if piece.finish is None:
            row.on_piece(piece)
        else:
            self._end(row, piece)

    def _end(self, row: Row, piece: Piece) -> None:
        self._remove(row)
        self.counts["cancelled" if piece.finish == "cancelled" else "finished"] += 1
        try:
            row.on_piece(piece)
        except Exception as error:
            _tell(row, error)

    def _fail(self, row: Row, error: Exception) -> None:
        if row in self.rows:
            self._remove(row)
            self.counts["failed"] += 1
            _tell(row, error)

    def _remove(self, row: Row) -> None:
        self.rows.remove(row)
        if row in self._homes:
            self._leave(row)

    def _leave(self, row: Row, *, keep: bool = False) -> None:
        key = self._homes.pop(row)
        batch = self._batches[key]
        batch.leave(row, keep=keep)
        if not len(batch):
            if next(iter(self._batches)) == key:
                self._steps = 0
            del self._batches[key]


def _tell(row: Row, error: Exception) -> None:
    """Hand an error to whoever asked; a fault of theirs is their own matter."""
    with suppress(Exception):
        row.on_error(error)


def _window(config: PreTrainedConfig) -> int | None:
    """Return how far back some layers look; None where all look back to the beginning."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and {*kinds} <= {"full_attention"}:
        return None
    spans = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if isinstance(span, int)), default=None)
