"""What is asked of a live model, and what comes back of it piece by piece."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from prefreg.errors import UsageError
from prefreg.terms import Term
from prefreg.values import MAX_SEED, check_number

MOST_STOPS, LONGEST_STOP = 16, 1000
"""Of an answer: each is looked for in all of its text."""
MOST_TOP = 100
"""Likeliest tokens that are told beside a drawn one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One answer that is wanted."""

    prompt: tuple[int, ...]
    """Token ids, special tokens among them; see `LiveModel.render` and `LiveModel.encode`."""
    terms: tuple[Term, ...] = ()
    """The whole setting: what stands for the model is not added."""
    max_tokens: int
    """Of the answer; 0 only to have the prompt scored (`echo`)."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int | None = None
    """With a seed the same is drawn again, alone or in a crowd; without, something new."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are told beside each token's log-probability; None: nothing.

    Log-probabilities are the model's own, before temperature and top_p.
    """
    echo: bool = False
    """Whether the first piece is the prompt, scored where log-probabilities are asked for."""

    def __post_init__(self) -> None:
        check_number(self.max_tokens, "max_tokens", low=0 if self.echo else 1)
        # Written so that a temperature that is not a number fits nowhere.
        if not 0 <= self.temperature < inf:
            raise UsageError(f"temperature: {self.temperature!r} is not a finite number >= 0.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p: {self.top_p!r} is not above 0 and at most 1.")
        if self.seed is not None:
            check_number(self.seed, "seed", low=0, high=MAX_SEED)
        if self.top_logprobs is not None:
            check_number(self.top_logprobs, "top_logprobs", low=0, high=MOST_TOP)
        if len(self.stop) > MOST_STOPS or not all(0 < len(s) <= LONGEST_STOP for s in self.stop):
            raise UsageError(
                f"stop: at most {MOST_STOPS} texts, each of 1 to {LONGEST_STOP} characters."
            )
        if not self.prompt:
            raise UsageError("The prompt is empty: a model needs at least one token.")
        for term in self.terms:
            if not isfinite(term.eta):
                raise UsageError(f"The coefficient {term.eta} of {term.axis!r} is not finite.")


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, and how likely it was where it stands."""

    id: int
    bytes: bytes
    """What it writes; a character may take several tokens. Of a special token, its name."""
    logprob: float | None = None
    """None where none was asked for, and of the first token of a prompt, which nothing predicts."""
    top: tuple["ScoredToken", ...] = ()
    """The likeliest tokens there, the likeliest first."""

    @property
    def text(self) -> str:
        """What it writes, with U+FFFD for a part of a character."""
        return self.bytes.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: text that is certain, and the tokens that were drawn since the last.

    Text never ends within a character, and never with what may be the beginning of a stop string.
    Of all pieces together, `tokens` are all that was drawn, those of a stop string and the token
    that ended the answer among them, which write nothing into the text.
    """

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish: Literal["stop", "length", "cancelled"] | None = None
    """Why the answer ends here; None in all pieces but the last."""
    echoed: bool = False
    """Whether this is the prompt again, and no part of the answer."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a live model has to do, and has done since it was loaded."""

    waiting: int
    running: int
    finished: int
    """Answers that came to their end."""
    cancelled: int
    failed: int
    prompt_tokens: int
    tokens: int
    """Of answers."""
    switches: int
    """How often the weights were composed anew."""
