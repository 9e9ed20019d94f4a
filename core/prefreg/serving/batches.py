"""Running answers of equal weights, and the passes of the model over them: together, or apart."""

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel

from prefreg.composition.in_memory import ScaledVector
from prefreg.serving.row_dials import Carried, RowDials, Stack
from prefreg.serving.slots import Slots

Weights = tuple[tuple[str, float], ...]
"""Fingerprint and coefficient of every vector that weights are composed with."""


@dataclass(eq=False, kw_only=True)
class Stream:
    """The tokens of a prompt and its answer, as the model reads them."""

    prompt: tuple[int, ...]
    composed: tuple[ScaledVector, ...] = ()
    """What the weights are composed with, in canonical order."""
    carried: tuple[Carried, ...] = ()
    """What acts on this row alone."""
    read: int = 0
    """Tokens that the model has read, of the prompt and then of the answer."""
    last: int = 0
    """The token that was drawn last, which the model has not read yet."""
    kept: Any = None
    """Its keys and values, while it waits for a slot among others."""

    @property
    def unread(self) -> int:
        """Return how many tokens of the prompt the model has not read."""
        return max(0, len(self.prompt) - self.read)

    @property
    def weights(self) -> Weights:
        """Return what the weights are composed with where the next token is read."""
        acting = (term for term in self.composed if self._acts(term.since, self.read))
        return tuple((term.record.sha256, term.eta) for term in acting)

    @property
    def alike(self) -> int:
        """Return how many unread tokens of the prompt are read with the weights of the next."""
        changes = [self._first + term.since for term in self.composed if term.since is not None]
        end = self.read + self.unread
        return min((at for at in changes if self.read < at < end), default=end) - self.read

    def etas(self, keys: Sequence[str], start: int, count: int) -> torch.Tensor:
        """Return coefficients of (count, vectors) for the tokens from place `start` on."""
        found = torch.zeros(count, len(keys))
        for each in self.carried:
            begin = 0 if each.since is None else max(0, self._first + each.since - start)
            found[begin:, keys.index(each.key)] = each.eta
        return found

    @property
    def _first(self) -> int:
        """Return the place of the token after which the first of the answer is drawn."""
        return len(self.prompt) - 1

    def _acts(self, since: int | None, at: int) -> bool:
        return since is None or at >= self._first + since


Each = TypeVar("Each", bound=Stream)


class Passes:
    """Forward passes of one model, with or without the dials of rows."""

    def __init__(self, model: PreTrainedModel, dials: RowDials) -> None:
        """Look at what the model's forward pass takes."""
        self.model = model
        self.dials = dials
        self._known = inspect.signature(model.forward).parameters

    def run(self, ids: torch.Tensor, cache: Any, *, every: bool, **more: Any) -> torch.Tensor:
        """Return logits of (rows, 1 or tokens, vocabulary), for ids of (rows, tokens)."""
        if "logits_to_keep" in self._known:
            more["logits_to_keep"] = 0 if every else 1
        forward: Any = self.model
        at = self.model.device
        found: torch.Tensor = forward(
            input_ids=ids.to(at), past_key_values=cache, use_cache=cache is not None, **more
        ).logits
        return found if every else found[:, -1:]


class Batch(Generic[Each]):
    """Rows of equal weights, whose keys and values lie in slots: one pass steps them all."""

    def __init__(self, passes: Passes) -> None:
        """Begin without rows."""
        self.rows: list[Each] = []
        """As their slots are: at most the last has a prompt that is not read to its end."""
        self.line: deque[Each] = deque()
        """Those that have no slot yet."""
        self._passes = passes
        self._slots = Slots()
        self._stack: Stack | None = None

    def __len__(self) -> int:
        return len(self.rows) + len(self.line)

    def enter(self, row: Each) -> None:
        """Take a row, with what was kept of it in another batch."""
        if row.unread:
            self.line.append(row)
        else:
            self.join(row)

    @property
    def reading(self) -> Each | None:
        """Return the row whose prompt is to be read next, or further."""
        waiting = (row for row in (*self.rows, *self.line) if row.unread)
        return next(waiting, None)

    @property
    def going(self) -> list[Each]:
        """Return the rows that can be stepped."""
        return [row for row in self.rows if not row.unread]

    def read(self, row: Each, ids: Sequence[int], *, every: bool) -> torch.Tensor:
        """Read tokens of a prompt; return the logits of (1 or tokens, vocabulary) after them."""
        if row not in self.rows:
            self.line.remove(row)
            self.join(row)
        self._slots.reading(self.rows.index(row), len(ids))
        self._prepare([row], len(ids))
        return self._passes.run(torch.tensor([list(ids)]), self._slots, every=every)[0]

    def step(self, rows: Sequence[Each]) -> torch.Tensor:
        """Read the last token of rows, the first of their slots; return (rows, vocabulary)."""
        model = self._passes.model
        positions = self._slots.stepping(len(rows), model.device)
        self._prepare(rows, 1)
        seen = torch.arange(int(positions.max()) + 1, device=model.device)
        # Numbers that are added, which every kind of attention takes alike.
        mask = torch.zeros(len(rows), len(seen), dtype=model.dtype, device=model.device)
        mask.masked_fill_(seen > positions[:, None], torch.finfo(model.dtype).min)
        return self._passes.run(
            torch.tensor([[row.last] for row in rows]),
            self._slots,
            every=False,
            position_ids=positions[:, None],
            attention_mask=mask[:, None, None],
        )[:, 0]

    def join(self, row: Each) -> None:
        """Give a row a slot."""
        self._slots.add(row.kept)
        row.kept = None
        self.rows.append(row)
        self._order()

    def leave(self, row: Each, *, keep: bool = False) -> None:
        """Let a row go, with a copy of its keys and values if they are to be kept."""
        if row in self.line:
            self.line.remove(row)
        if row not in self.rows:
            return
        place = self.rows.index(row)
        row.kept = self._slots.keep(place) if keep else None
        self._slots.remove(place)
        last = self.rows.pop()
        if last is not row:
            self.rows[place] = last
            self._order()

    def _order(self) -> None:
        """Put the row whose prompt is not read to its end behind those that are stepped."""
        for row in self.rows[:-1]:
            if row.unread:
                self.leave(row, keep=True)
                self.join(row)
                return

    def _prepare(self, rows: Sequence[Each], count: int, start: int | None = None) -> None:
        """Let the vectors of rows act on the next pass of `count` tokens each, with their η."""
        dials = self._passes.dials
        used = {each.key: each.vector for row in self.rows for each in row.carried}
        if not used:
            self._stack = None
        elif self._stack is None or {*self._stack.vectors} != used.keys():
            self._stack = dials.stack(used)
        dials.use(self._stack)
        if self._stack is not None:
            keys = self._stack.vectors
            begin = [row.read if start is None else start for row in rows]
            etas = [row.etas(keys, at, count) for row, at in zip(rows, begin, strict=True)]
            dials.set(torch.cat(etas))


class ApartBatch(Batch[Each]):
    """Rows that are stepped one after another, each with the kind of cache that its model makes."""

    def read(self, row: Each, ids: Sequence[int], *, every: bool) -> torch.Tensor:
        """Read tokens of a prompt; return the logits of (1 or tokens, vocabulary) after them."""
        if row not in self.rows:
            self.line.remove(row)
            self.join(row)
        return self._pass(row, ids, every=every)

    def step(self, rows: Sequence[Each]) -> torch.Tensor:
        """Read the last token of rows; return (rows, vocabulary)."""
        return torch.cat([self._pass(row, [row.last], every=False) for row in rows])

    def join(self, row: Each) -> None:
        """Take a row, with its cache."""
        if row.kept is None:
            row.kept = DynamicCache(config=self._passes.model.config)
        self.rows.append(row)

    def leave(self, row: Each, *, keep: bool = False) -> None:
        """Let a row go, with its cache if that is to be kept."""
        if row in self.line:
            self.line.remove(row)
        if row in self.rows:
            self.rows.remove(row)
        row.kept = row.kept if keep else None

    def _pass(self, row: Each, ids: Sequence[int], *, every: bool) -> torch.Tensor:
        self._prepare([row], len(ids))
        return self._passes.run(torch.tensor([list(ids)]), row.kept, every=every)[0]


class WholeBatch(ApartBatch[Each]):
    """Rows of a model whose cache is not known here: for each token all before it are read."""

    def join(self, row: Each) -> None:
        """Take a row, with its tokens."""
        row.kept = row.kept or []
        self.rows.append(row)

    def _pass(self, row: Each, ids: Sequence[int], *, every: bool) -> torch.Tensor:
        row.kept += ids
        self._prepare([row], len(row.kept), start=0)
        logits = self._passes.run(torch.tensor([row.kept]), None, every=every)[0]
        return logits[-len(ids) :] if every else logits
