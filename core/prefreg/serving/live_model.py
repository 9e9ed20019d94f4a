"""A loaded base that answers many at once, each with dials of its own.

    live = LiveModel.load(Access("registry.db"), "smollm2")
    ask = Ask(prompt=live.render([Message("user", "Hello")]), terms=(Term("helpful", 1.0),),
              max_tokens=64)
    running = live.submit(ask, on_piece=print, on_error=print)

One thread owns the model. Whoever asks is called back from it, and should hand the piece on.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Message, merge_options
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.in_memory import ScaledVector, VectorShelf
from prefreg.composition.plan import rounded_eta
from prefreg.composition.resolve import resolve_terms, trained_options
from prefreg.data.rendering import encode_prompt
from prefreg.data.templates import check_options
from prefreg.errors import BusyError, UsageError
from prefreg.models.generation import generation_config
from prefreg.models.loading import context_length, load_model, load_tokenizer, on_gpu, quiet
from prefreg.models.threads import suited_threads
from prefreg.registry import Access
from prefreg.serving.answer import Answer, Spelling
from prefreg.serving.asking import Ask, Counts, Piece, ScoredToken
from prefreg.serving.engine import Engine, Row
from prefreg.terms import Term

__all__ = ["Ask", "BusyError", "Counts", "LiveModel", "Piece", "Running", "ScoredToken"]


_COUNTED = ("finished", "cancelled", "failed", "prompt_tokens", "tokens", "switches")


class Running:
    """An answer that was asked for."""

    def __init__(self, row: Row, wake: Callable[[], None]) -> None:
        """Refer to the answer; made by `LiveModel.submit`."""
        self._row = row
        self._wake = wake

    def cancel(self) -> None:
        """End it before the next token, from any thread; a second time, or too late, does nothing.

        Its last piece then says "cancelled".
        """
        self._row.cancelled = True
        self._wake()


class LiveModel:
    """A base model with live dials."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
        access: Access,
        *,
        rows: int = 16,
        max_waiting: int = 256,
    ) -> None:
        """Take a pristine model, and start its thread; `rows` answers run at once."""
        self.base = base
        self.tokenizer = tokenizer
        self.context: int | None = context_length(model.config)
        """Tokens of a prompt and its answer together, where the model says so."""
        self.terms: tuple[Term, ...] = ()
        """What stands for the model: for whoever asks for nothing else. It is not added to asks."""
        config = generation_config(model, tokenizer, max_new_tokens=1, temperature=0)
        self._ends = frozenset(config.eos_token_id)
        self._spelling = Spelling(tokenizer)
        self._shelf = VectorShelf(base, access, phases=True)
        self._lock = threading.Lock()
        with suited_threads(model):
            self._engine = Engine(model, base)
        self._model = model
        embeddings: Any = model.get_input_embeddings()
        self._vocabulary = len(embeddings.weight)
        self._most_rows = rows
        self._max_waiting = max_waiting
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._closing = self._hurry = False
        self._thread = threading.Thread(target=self._work, name="prefreg-live", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        access: Access,
        base: str | None = None,
        terms: Sequence[Term] = (),
        *,
        rows: int = 16,
        max_waiting: int = 256,
    ) -> Self:
        """Load a base, or the one that the terms, or the whole registry, allow.

        Raises:
            UsageError: A term is malformed, or an axis is named twice.
            BaseModelError: The base is missing or damaged.
            RegistryError: A term has no version on the base.
        """
        if base is not None and not terms:
            found = resolve_base(base)  # needs no registry: the base may be used as it is
        else:
            with access.reading() as store:
                anywhere = [replace(term, since=None) for term in store.expand(terms)]
                found = resolve_terms(store, anywhere, base).base
        with quiet():
            model, tokenizer = on_gpu(load_model(found, "auto")), load_tokenizer(found)
        model.train(False)
        live = cls(model, tokenizer, found, access, rows=rows, max_waiting=max_waiting)
        try:
            live.check(terms)
        except BaseException:
            live.close(finish_running=False)
            raise
        live.terms = tuple(terms)
        return live

    def __enter__(self) -> Self:
        """Return the live model itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it without waiting for what runs."""
        self.close(finish_running=False)

    def check(self, terms: Sequence[Term]) -> tuple[ScaledVector, ...]:
        """Return the vectors of terms that are not at 0, in canonical order.

        What a name means is looked up again once the registry has changed; one that vanishes
        changes no dial that is in use.

        Raises:
            UsageError: A coefficient is not finite, or an axis is named twice.
            RegistryError: An axis is unknown or has no version on this base; or the registry is
                gone, and the term was never used before.
            VectorError: A vector is damaged, or those of pairs and of single poles are mixed.
        """
        for term in terms:
            if not isfinite(term.eta):
                raise UsageError(f"The coefficient {term.eta} of {term.axis!r} is not finite.")
            rounded_eta(term.eta)  # refuses what float32 does not hold
        with self._lock:
            return tuple(self._shelf.find(terms))

    def render(
        self,
        messages: Sequence[Message],
        template_options: Mapping[str, Any] | None = None,
        *,
        terms: Sequence[Term] = (),
    ) -> tuple[int, ...]:
        """Write a dialogue as the tokens of a prompt, by the base's chat template.

        The template is told the options given, or else what it was told when the vectors of
        `terms` were trained.

        Raises:
            UsageError: The template reads no such option, or the vectors were told different ones.
            DataError: The template refuses the messages.
        """
        if template_options is None:
            template_options = trained_options(each.record for each in self.check(terms))
        check_options(self.tokenizer, template_options)
        if not messages:
            raise UsageError("There are no messages: write at least one.")
        told = "", merge_options(template_options, "")
        return tuple(encode_prompt(tuple(messages), self.tokenizer, told))

    def encode(self, text: str) -> tuple[int, ...]:
        """Write a text, taken verbatim, as the tokens of a prompt."""
        return tuple(encode_prompt(text, self.tokenizer))

    def spell(self, token: int) -> bytes:
        """Return what a token writes."""
        return self._spelling.bytes(token)

    def submit(
        self,
        ask: Ask,
        on_piece: Callable[[Piece], None],
        on_error: Callable[[BaseException], None],
    ) -> Running:
        """Ask for an answer, whose pieces `on_piece` is given from the model's thread.

        The last piece says why the answer ended; or `on_error` is called, once, and nothing more.

        Raises:
            BusyError: As many wait as may, or the model is closing.
            UsageError: The prompt and its answer do not fit the context, or a token is none.
            PrefregError: Whatever `check` raises.
        """
        if self.context is not None and len(ask.prompt) + ask.max_tokens > self.context:
            raise UsageError(
                f"A prompt of {len(ask.prompt)} tokens and {ask.max_tokens} new ones do not fit "
                f"the model's context of {self.context}; ask for fewer, or shorten the prompt."
            )
        if not all(0 <= token < self._vocabulary for token in ask.prompt):
            raise UsageError(f"The prompt has a token that is none of 0 to {self._vocabulary - 1}.")
        answer = Answer(ask, self._spelling, self._ends)
        row = Row(
            prompt=ask.prompt,
            answer=answer,
            terms=self.check(ask.terms),
            on_piece=on_piece,
            on_error=on_error,
        )
        with self._changed:
            if self._closing:
                raise BusyError("The model is closing, and takes no more.")
            if len(self._waiting) >= self._max_waiting:
                raise BusyError(f"{len(self._waiting)} answers wait already; ask again later.")
            self._waiting.append(row)
            self._changed.notify()
        return Running(row, self._wake)

    def close(self, *, finish_running: bool = True) -> None:
        """Take no more, cancel what waits, and end when what runs has ended, or at once.

        May be called again, from another thread too, to hurry.
        """
        with self._changed:
            self._closing = True
            self._hurry |= not finish_running
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def state(self) -> Counts:
        """Return what there is to do, and what was done."""
        with self._changed:
            done = {name: self._engine.counts[name] for name in _COUNTED}
            return Counts(waiting=len(self._waiting), running=len(self._engine.rows), **done)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        """Let answers run, until closed."""
        with torch.inference_mode(), suited_threads(self._model):
            while self._admit():
                try:
                    self._engine.step()
                except Exception as error:  # a bug; whoever waits is told, and others may ask
                    self._engine.fail(error)
            self._engine.close()

    def _admit(self) -> bool:
        """Wait for something to do; return whether there is."""
        engine, new = self._engine, list[Row]()
        with self._changed:
            while not (self._waiting or engine.rows or self._closing):
                self._changed.wait()
            if self._closing:
                for row in self._waiting:
                    row.cancelled = True
            if self._hurry:
                for row in engine.rows:
                    row.cancelled = True
            free = self._most_rows - len(engine.rows)
            # Those that nobody waits for any longer need no place.
            while self._waiting and (free > 0 or self._waiting[0].cancelled):
                new.append(self._waiting.popleft())
                free -= 1
        for row in new:
            engine.admit(row)
        return bool(engine.rows)
