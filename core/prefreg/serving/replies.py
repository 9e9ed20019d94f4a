"""What comes back: pieces of answers as they arrive, and the bodies that OpenAI's clients read."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Literal

from anyio import to_thread

from prefreg.serving.asking import Ask, Piece, ScoredToken
from prefreg.serving.live_model import LiveModel, Running

Kind = Literal["chat.completion", "text_completion"]


class Answers:
    """Several answers to one request, taken into the event loop as they are made."""

    def __init__(self) -> None:
        """Begin with none."""
        self._arrived: asyncio.Queue[tuple[int, Piece | BaseException]] = asyncio.Queue()
        self._running: list[Running] = []

    @classmethod
    async def of(cls, live: LiveModel, asks: Sequence[Ask]) -> "Answers":
        """Ask for all of them, or for none.

        Raises:
            PrefregError: Whatever `LiveModel.submit` raises.
        """
        self, loop = cls(), asyncio.get_running_loop()

        def arrive(number: int, item: Piece | BaseException) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(self._arrived.put_nowait, (number, item))

        def submit() -> None:
            for number, ask in enumerate(asks):
                arrived = partial(arrive, number)
                self._running.append(live.submit(ask, arrived, arrived))

        try:
            await to_thread.run_sync(submit)  # looking vectors up reads the registry
        except BaseException:
            self.cancel()
            raise
        return self

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Yield each piece with the number of its answer until all have ended.

        Raises:
            BaseException: What ended one of them; the others are cancelled.
        """
        left = len(self._running)
        try:
            while left:
                number, item = await self._arrived.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item.finish is not None
                yield number, item
        finally:
            if left:
                self.cancel()

    def cancel(self) -> None:
        """End those that still run."""
        for running in self._running:
            running.cancel()


@dataclass(slots=True)
class Choice:
    """One answer as it grows."""

    text: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)
    echoed: int = 0
    """How many of the tokens are the prompt's."""
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.echoed += len(piece.tokens) if piece.echoed else 0
        self.finish = piece.finish or self.finish


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an answered request: the same head for the whole of it, or for each chunk."""

    kind: Kind
    model: str
    setting: Mapping[str, Any]
    """What was made of the request's setting, told under `prefreg`."""
    prompt_tokens: int
    top: int | None
    """Log-probabilities are told where it is not None, of this many likeliest tokens."""
    identity: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _is_chat(self) -> bool:
        return self.kind == "chat.completion"

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Write the body of a request that does not stream."""
        written = [
            {
                "index": number,
                **(
                    {"message": {"role": "assistant", "content": each.text, "refusal": None}}
                    if self._is_chat
                    else {"text": each.text}
                ),
                "logprobs": self._logprobs(each.tokens, 0),
                "finish_reason": each.finish,
            }
            for number, each in enumerate(choices)
        ]
        made = sum(len(each.tokens) - each.echoed for each in choices)
        return self._head(self.kind) | {
            "choices": written,
            "usage": self._usage(made),
            "prefreg": self.setting,
        }

    async def stream(
        self, arriving: AsyncIterator[tuple[int, Piece]], *, count: int, tells_usage: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the bodies of a stream; the first of a chat's answers say who speaks."""
        told = {"usage": None} if tells_usage else {}
        head = self._head("chat.completion.chunk" if self._is_chat else self.kind) | told
        more: dict[str, Any] = {"prefreg": self.setting}
        made, offsets = 0, [0] * count
        for number in range(count if self._is_chat else 0):
            speaker = {"role": "assistant", "content": ""}
            yield head | {"choices": [self._part(number, speaker, None, None)]} | more
            more = {}
        async for number, piece in arriving:
            logprobs = self._logprobs(piece.tokens, offsets[number])
            offsets[number] += sum(len(each.text) for each in piece.tokens)
            made += 0 if piece.echoed else len(piece.tokens)
            said = {"content" if self._is_chat else "text": piece.text}
            yield head | {"choices": [self._part(number, said, logprobs, piece.finish)]} | more
            more = {}
        if tells_usage:
            yield head | {"choices": [], "usage": self._usage(made)}

    def _part(
        self, number: int, said: Mapping[str, str], logprobs: Any, finish: str | None
    ) -> dict[str, Any]:
        written = {"delta": said} if self._is_chat else said
        return {"index": number, **written, "logprobs": logprobs, "finish_reason": finish}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self._is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.identity}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _usage(self, made: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    def _logprobs(self, tokens: Sequence[ScoredToken], offset: int) -> dict[str, Any] | None:
        if self.top is None:
            return None
        return _of_chat(tokens) if self._is_chat else _of_completion(tokens, self.top, offset)


def _of_chat(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    def tell(token: ScoredToken) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}

    content = [tell(each) | {"top_logprobs": [tell(top) for top in each.top]} for each in tokens]
    return {"content": content, "refusal": None}


def _of_completion(tokens: Sequence[ScoredToken], top: int, offset: int) -> dict[str, Any]:
    """Write the older form: lists side by side, and the likeliest tokens by what they write."""
    lengths = [len(each.text) for each in tokens]
    return {
        "tokens": [_name(each) for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [_top(each) for each in tokens] if top else None,
        "text_offset": [offset + at for at in accumulate(lengths, initial=0)][: len(tokens)],
    }


def _top(token: ScoredToken) -> dict[str, float] | None:
    """Return the likeliest tokens, and the chosen one; of two with one name, the likelier."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for each in (*token.top, token):
        if each.logprob is not None:
            found.setdefault(_name(each), each.logprob)
    return found


def _name(token: ScoredToken) -> str:
    """Return what a token writes; of part of a character the bytes, so that none are taken for one.

    So do OpenAI's own servers.
    """
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


async def events(bodies: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Write bodies as server-sent events, each on one line."""
    async for body in bodies:
        yield b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
