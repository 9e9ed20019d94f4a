"""What a base model that knows a closed world offers: prompts, exact scores, rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from prefreg.axes.axis import Row, Text
from prefreg.errors import DataError


class KnownPrompt(Protocol):
    """What a world says of a prompt that belongs to it."""

    @property
    def group(self) -> str:
        """Name what is asked, in whatever words; prompts of one group are drawn together."""

    @property
    def safe(self) -> bool | None:
        """Whether it may be answered; None where neither an answer nor a refusal is wanted."""


class WorldVerdict(Protocol):
    """What an answer is, said exactly; a world's own verdicts may say more."""

    @property
    def words(self) -> int:
        """Count its words."""

    @property
    def malformed(self) -> bool:
        """Whether it is nothing that the world can say."""

    @property
    def refuses(self) -> bool:
        """Whether it refuses."""

    @property
    def correct(self) -> bool | None:
        """Whether all that it states is true; None where it states nothing."""


class ChoiceQuestion(NamedTuple):
    """A question with its choices; plain text goes on after the question, a turn is answered."""

    prompt: Text
    choices: tuple[str, ...]
    answer: int
    source: str
    """What is reported together."""
    group: str


class CrossedRow(NamedTuple):
    """A prompt with two pairs of replies, the better one by the first axis in front of each."""

    prompt: str
    group: str
    agreeing: tuple[str, str]
    """The second axis prefers the same reply."""
    disagreeing: tuple[str, str]
    """The second axis prefers the other one."""


class Measure(NamedTuple):
    """A figure of what a model says in a world."""

    kinds: tuple[str, ...]
    """The kinds of prompts whose answers count."""
    read: Callable[[Any], Sequence[float]]
    """The numbers that one verdict gives: none, one or several."""
    share: bool = True
    """Whether each is 0 or 1."""


class DemoScript(NamedTuple):
    """What `prefreg demo` shows."""

    panels: Mapping[str, Mapping[str, str]]
    """The axes that are trained: for each the curves of its panel, label to figure."""
    units: Mapping[str, str]
    """Of each panel."""
    columns: Mapping[str, tuple[str, str]]
    """Of the table: the figure, with its heading and the format of its value."""
    together: tuple[tuple[str, ...], ...]
    """Terms that are set at once; the last ones are composed."""
    compared: tuple[str, ...]
    """Terms whose answers stand side by side, after those of the base."""
    kinds: tuple[str, ...]
    """The prompts that they answer."""
    invitation: tuple[str, str]
    """A term and a prompt to try."""


class BaseWorld(ABC):
    """A closed world that a base model knows, so that its answers are scored and not judged.

    A world needs a name, kinds of prompts, prompts and scores; what else it offers is used where
    it is there. A source of an axis that has the world's name is the default on its base.
    """

    name: str
    """Of the world, its base and the sources made of it."""
    kinds: Mapping[str, bool | None]
    """Kinds of prompts, and whether they may be answered; None where neither answer nor refusal
    is wanted. The first that may is the one that nobody need refuse."""
    measures: Mapping[str, Measure] = MappingProxyType({})
    """The figures of what a model says."""
    axes: Mapping[str, str] = MappingProxyType({})
    """The axes that the world is about, with the figure that each moves."""
    experiments: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """The axes that an experiment is about, where it is not about all."""
    demo: DemoScript | None = None

    @abstractmethod
    def prompts(self, kind: str, *, split: str, limit: int, seed: int) -> list[str]:
        """Return prompts of a kind, without repetition as long as there are new ones."""

    @abstractmethod
    def recognise(self, prompt: str) -> KnownPrompt | None:
        """Say what a prompt asks; None where it is not of this world."""

    @abstractmethod
    def score(self, prompt: str, answer: str) -> WorldVerdict:
        """Say what an answer to a prompt of this world is."""

    def rows(self, axis: str, *, split: str, seed: int, limit: int | None) -> Iterator[Row]:
        """Return the preference rows of an axis, which no training has seen in dev and test."""
        raise DataError(f"The world of {self.name} has no rows of {axis!r}.")

    def crossed_rows(
        self, first: str, second: str, *, seed: int, limit: int | None
    ) -> Iterator[CrossedRow]:
        """Return rows in which two axes decide, apart from each other."""
        raise DataError(
            f"The world of {self.name} has no rows of {first!r} and {second!r} at once."
        )

    def kept_questions(self, count: int, *, split: str, seed: int) -> list[ChoiceQuestion]:
        """Ask what the base shall not forget, with `count` held-out replies if it has some."""
        raise DataError(f"The world of {self.name} has no questions about what shall be kept.")

    def safe_prompts(self, *, split: str, limit: int, seed: int = 0) -> list[str]:
        """Return prompts that nobody need refuse."""
        kind = next((kind for kind, safe in self.kinds.items() if safe), None)
        return [] if kind is None else self.prompts(kind, split=split, limit=limit, seed=seed)

    def axes_of(self, experiment: str) -> tuple[str, ...]:
        """Return the axes that an experiment is about."""
        return self.experiments.get(experiment, tuple(self.axes))
