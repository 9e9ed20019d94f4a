"""Ask a live model, and wait for what comes."""

import threading
from dataclasses import dataclass, field

from prefreg.serving.live_model import Ask, LiveModel, Piece, Running
from prefreg.terms import as_terms


@dataclass
class Asked:
    """An answer that is waited for."""

    pieces: list[Piece] = field(default_factory=list)
    error: BaseException | None = None
    running: Running | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> "Asked":
        assert self.done.wait(60), "no answer came"
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.wait().pieces if not piece.echoed)

    @property
    def ids(self) -> list[int]:
        assert self.wait().error is None, self.error
        return [each.id for piece in self.pieces if not piece.echoed for each in piece.tokens]

    @property
    def finish(self) -> str | None:
        return self.wait().pieces[-1].finish


def ask(live: LiveModel, prompt, *terms: str, max_tokens: int = 24, **options) -> Asked:
    """Submit; the prompt is a text, or token ids."""
    ids = live.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
    wanted = Ask(prompt=ids, terms=as_terms(terms), max_tokens=max_tokens, **options)
    found = Asked()

    def on_piece(piece: Piece) -> None:
        found.pieces.append(piece)
        if piece.finish is not None:
            found.done.set()

    def on_error(error: BaseException) -> None:
        found.error = error
        found.done.set()

    found.running = live.submit(wanted, on_piece, on_error)
    return found
