"""A dialogue with a live model, whose dials may be turned between messages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Self

from prefreg.axes.axis import Message
from prefreg.composition.resolve import range_warnings
from prefreg.errors import UsageError
from prefreg.evaluation.candidates import write_formula
from prefreg.models.sampling import Sampling
from prefreg.registry import Access, Preset
from prefreg.serving.asking import Ask, Piece
from prefreg.serving.dial_listing import DialListing
from prefreg.serving.live_model import LiveModel
from prefreg.terms import Term


class Answering:
    """An answer that is being made: iterate over it for the text as it becomes certain."""

    def __init__(self, live: LiveModel, ask: Ask, terms: tuple[Term, ...]) -> None:
        """Ask for it, with the setting that it is made with."""
        self.terms = terms
        self.text = ""
        self.finish: str | None = None
        """Why it ended: "stop", "length" or "cancelled"; None while it runs, or where it failed."""
        self._arrived: SimpleQueue[Piece | BaseException] = SimpleQueue()
        self._running = live.submit(ask, self._arrived.put, self._arrived.put)

    def __iter__(self) -> Iterator[str]:
        """Yield the text piece by piece.

        Raises:
            PrefregError: What ended the answer.
        """
        while self.finish is None:
            arrived = self._arrived.get()
            if isinstance(arrived, BaseException):
                raise arrived
            self.text += arrived.text
            self.finish = arrived.finish
            if arrived.text:
                yield arrived.text

    def cancel(self) -> None:
        """End it; what there is of it stays."""
        self._running.cancel()


@dataclass(frozen=True, slots=True)
class Turn:
    """A message with its answers: the first by the dials, the second by what stands beside."""

    message: str
    answers: tuple[Answering, ...]

    def answer(self, side: int) -> str:
        """Return the answer of a side, or the other's where it has none."""
        texts = [each.text for each in self.answers]
        return (texts[side] if side < len(texts) else "") or next(filter(None, texts), "")

    def to_json(self) -> dict[str, Any]:
        """Return the turn in a form that JSON can hold."""
        answers = [
            {"terms": list(map(str, each.terms)), "answer": each.text, "finish": each.finish}
            for each in self.answers
        ]
        return {"message": self.message, "answers": answers}


class Conversation:
    """What was said, the dials of the next answer, and those that it is set beside."""

    def __init__(
        self,
        live: LiveModel,
        access: Access,
        terms: Sequence[Term] = (),
        sampling: Sampling | None = None,
    ) -> None:
        """Begin with nothing said.

        Raises:
            PrefregError: Whatever `LiveModel.check` raises.
        """
        self.terms: tuple[Term, ...] = ()
        self.beside: tuple[Term, ...] | None = None
        """The setting that answers the same message beside the dials: () is the base."""
        self.turns: list[Turn] = []
        self.left_out = 0
        """How many of the first turns the last prompt had no room for."""
        self._live = live
        self._access = access
        self._sampling = sampling or Sampling()
        self._dials = DialListing(live.base, access)
        if terms:
            self.set(terms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the model, whatever runs."""
        self._live.close(finish_running=False)

    @property
    def base(self) -> str:
        """Return the name of the base."""
        return self._live.base.name

    @property
    def formula(self) -> str:
        """Say what the dials stand at."""
        terms = self._meant(self.terms)
        names = [f"{term.axis}@{term.reference}{term.phase}" for term in terms]
        return write_formula(zip([term.eta for term in terms], names, strict=True))

    def axes(self) -> list[dict[str, Any]]:
        """Return the dials that there are, as the server lists them."""
        return self._dials.all()

    def presets(self) -> list[Preset]:
        """Return the presets of the registry."""
        if not self._access.is_present():
            return []
        with self._access.reading() as store:
            return store.presets()

    def set(self, terms: Sequence[Term]) -> list[str]:
        """Turn dials, each to its coefficient; a preset sets all of them. Return what to beware of.

        Raises:
            UsageError: A coefficient is not finite, or an axis is named twice.
            RegistryError: An axis is unknown or has no version on this base.
        """
        with self._access.reading() as store:
            meant = store.expand(terms)
            changed = {store.require(term.axis): term for term in meant}
        whole = any(term.preset for term in terms)
        kept = {} if whole else {term.axis: term for term in self.terms}
        wanted = kept | {axis: replace(term, axis=axis) for axis, term in changed.items()}
        turned = tuple(wanted[axis] for axis in sorted(wanted) if wanted[axis].eta)
        warnings = range_warnings(self._live.check([*changed.values()]))
        self._live.check(turned)
        self.terms = turned
        return warnings

    def reset(self) -> None:
        """Turn every dial to 0."""
        self.terms = ()

    def compare(self, terms: Sequence[Term] | None) -> None:
        """Set answers of other dials beside: without a term, of the base; None sets none."""
        self.beside = None if terms is None else self._meant(terms)

    def save(self, name: str) -> Preset:
        """Save the dials as a preset."""
        with self._access.writing() as store:
            return store.save_preset(name, self.terms)

    def forget(self) -> None:
        """Begin a new dialogue; the dials stay."""
        self.turns.clear()

    def ask(self, message: str) -> Turn:
        """Have the dials, and what stands beside them, answer at once.

        Raises:
            UsageError: The message has no room in the model's context.
            PrefregError: Whatever `LiveModel.submit` raises.
        """
        settings = [self.terms] if self.beside is None else [self.terms, self.beside]
        asks = [self._make_ask(message, terms, side) for side, terms in enumerate(settings)]
        answers: list[Answering] = []
        try:
            for ask, terms in zip(asks, settings, strict=True):
                answers.append(Answering(self._live, ask, terms))
        except BaseException:
            for answer in answers:
                answer.cancel()
            raise
        turn = Turn(message, tuple(answers))
        self.turns.append(turn)
        return turn

    def retry(self) -> Turn:
        """Ask the last message again, with the dials as they stand now.

        Raises:
            UsageError: Nothing was asked yet.
        """
        if not self.turns:
            raise UsageError("Nothing was asked yet.")
        return self.ask(self.turns.pop().message)

    def _make_ask(self, message: str, terms: tuple[Term, ...], side: int) -> Ask:
        drawn = self._sampling
        said = [turn for turn in self.turns if turn.answer(side)]
        self.left_out = 0
        while True:
            dialogue = [
                each
                for turn in said
                for each in (Message("user", turn.message), Message("assistant", turn.answer(side)))
            ]
            prompt = self._live.render([*dialogue, Message("user", message)], terms=terms)
            context = self._live.context
            room = drawn.max_new_tokens if context is None else context - len(prompt)
            if not said or room >= drawn.max_new_tokens:
                break
            said = said[1:]
            self.left_out += 1
        if room < 1:
            raise UsageError(
                f"The message of {len(prompt)} tokens does not fit the model's context of "
                f"{context}: shorten it."
            )
        return Ask(
            prompt=prompt,
            terms=self._meant(terms),
            max_tokens=min(room, drawn.max_new_tokens),
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            seed=drawn.seed,
        )

    def _meant(self, terms: Sequence[Term]) -> tuple[Term, ...]:
        """Return terms with the versions that they mean."""
        return tuple(
            Term(each.record.axis, each.eta, str(each.record.number), each.since)
            for each in self._live.check(terms)
        )
