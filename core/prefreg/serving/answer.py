"""One answer in the making: which token is drawn, and what of its text is certain."""

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefreg.models.generation import COLDEST
from prefreg.serving.asking import Ask, Piece, ScoredToken

_MOST_PENDING = 8
"""Tokens that may wait for the rest of a character, which has four bytes; more are no character."""
_PARTIAL = "\N{REPLACEMENT CHARACTER}"
_FIRST_TRY = 256
"""Likeliest tokens that are looked at first; all are sorted only where they miss `top_p`."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """How a tokenizer writes tokens: as text in a row, and each as bytes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look at how the tokenizer decodes."""
        self._tokenizer: Any = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str())["decoder"] if backend is not None else None
        self._kinds = json.dumps(decoder)

    def text(self, ids: Sequence[int]) -> str:
        """Return what tokens write in a row, special ones left out."""
        written: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return written

    def bytes(self, token: int) -> bytes:
        """Return what one token writes, wherever it stands."""
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # more rows in the embeddings than tokens
            return b""
        if token in self._special:
            return piece.encode()
        if '"ByteLevel"' in self._kinds and all(each in self._letters for each in piece):
            return bytes(self._letters[each] for each in piece)
        if '"ByteFallback"' in self._kinds and (found := _BYTE.fullmatch(piece)):
            return bytes([int(found[1], 16)])
        if "\N{LOWER ONE EIGHTH BLOCK}" in piece:
            return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        written: str = self._tokenizer.decode([token])
        return written.encode()

    @cached_property
    def _letters(self) -> dict[str, int]:
        """Return the byte of each letter of GPT-2's alphabet; printable ones are themselves."""
        printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        others = [byte for byte in range(256) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {
            chr(256 + place): byte for place, byte in enumerate(others)
        }


class Answer:
    """Takes the tokens of an answer one by one, and gives its text out as soon as it is certain."""

    def __init__(self, ask: Ask, spelling: Spelling, ends: frozenset[int]) -> None:
        """Begin with nothing drawn; `ends` are the tokens that end an answer."""
        self.ask = ask
        self.count = 0
        """Tokens drawn."""
        self._spelling = spelling
        self._ends = ends
        seed = secrets.randbits(63) if ask.seed is None else ask.seed
        self._generator = torch.Generator().manual_seed(seed)
        self._ids: list[int] = []
        self._context = self._told = 0
        """Where the text in `_ids` that is decoded again begins, and where that not yet told."""
        self._held = ""
        """Text that may begin a stop string."""
        self._drawn: list[ScoredToken] = []

    def echo(self, logits: Sequence[torch.Tensor]) -> Piece:
        """Return the prompt as a piece; `logits` has those after each token but the last."""
        tokens = [self.score(token, None) for token in self.ask.prompt[:1]]
        if self.ask.top_logprobs is None:
            tokens += [self.score(token, None) for token in self.ask.prompt[1:]]
        else:
            rows = torch.cat(list(logits))
            tokens += [self.score(*each) for each in zip(self.ask.prompt[1:], rows, strict=True)]
        finish = None if self.ask.max_tokens else "length"
        return Piece(self._spelling.text(self.ask.prompt), tuple(tokens), finish, echoed=True)  # type: ignore[arg-type]

    def draw(self, logits: torch.Tensor) -> int:
        """Draw a token from float32 logits of (vocabulary,), on the CPU."""
        if self.ask.temperature < COLDEST:
            return int(logits.argmax())
        chances = torch.softmax(logits / self.ask.temperature, 0)
        chosen: torch.Tensor | None = None
        if self.ask.top_p < 1:
            kept, chosen = chances.topk(min(_FIRST_TRY, len(chances)))
            if float(kept.sum()) < self.ask.top_p:
                kept, chosen = chances.sort(descending=True, stable=True)
            before = kept.cumsum(0) - kept
            chances = kept * (before < self.ask.top_p)
        sums = chances.cumsum(0, dtype=torch.float64)
        # One number a token, so that what is drawn depends on nothing but seed and logits.
        at = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[-1]
        place = int(torch.searchsorted(sums, at, right=True).clamp(max=int(chances.nonzero()[-1])))
        return place if chosen is None else int(chosen[place])

    def score(self, token: int, logits: torch.Tensor | None) -> ScoredToken:
        """Return a token with its log-probability, and the likeliest, where they are asked for."""
        spell = self._spelling.bytes
        if logits is None or self.ask.top_logprobs is None:
            return ScoredToken(token, spell(token))
        scores = torch.log_softmax(logits, 0)
        values, ids = scores.topk(min(self.ask.top_logprobs, len(scores)))
        best = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple(ScoredToken(each, spell(each), score) for each, score in best)
        return ScoredToken(token, spell(token), float(scores[token]), top)

    def take(self, token: int, logits: torch.Tensor | None) -> Piece | None:
        """Add a token; return a piece where text has become certain, or the answer has ended."""
        self.count += 1
        self._drawn.append(self.score(token, logits))
        if token in self._ends:
            return self._finish("stop")
        self._ids.append(token)
        self._held += self._settle()
        found = [at for each in self.ask.stop if (at := self._held.find(each)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            return self._piece(self._held, "stop")
        if self.count >= self.ask.max_tokens:
            return self._finish("length")
        sure = len(self._held) - self._may_stop()
        if not sure:
            return None
        text, self._held = self._held[:sure], self._held[sure:]
        return self._piece(text, None)

    def cancel(self) -> Piece:
        """Return the last piece of an answer that nobody waits for."""
        return self._piece("", "cancelled")

    def _finish(self, why: Any) -> Piece:
        """End with what was held back, and without a part of a character."""
        text = self._held + self._pending().rstrip(_PARTIAL)
        found = [at for each in self.ask.stop if (at := text.find(each)) >= 0]
        return self._piece(text[: min(found)] if found else text, "stop" if found else why)

    def _piece(self, text: str, finish: Any) -> Piece:
        piece = Piece(text, tuple(self._drawn), finish)
        self._drawn = []
        return piece

    def _pending(self) -> str:
        """Decode what is not told yet; a few tokens before it say how it is written."""
        before = self._spelling.text(self._ids[self._context : self._told])
        return self._spelling.text(self._ids[self._context :])[len(before) :]

    def _settle(self) -> str:
        """Return what is written since the last time, once it ends with a whole character."""
        text = self._pending()
        if text.endswith(_PARTIAL) and len(self._ids) - self._told < _MOST_PENDING:
            return ""
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text

    def _may_stop(self) -> int:
        """Return how many characters at the end of what is held may begin a stop string."""
        return max(
            (
                size
                for each in self.ask.stop
                for size in range(1, min(len(each), len(self._held) + 1))
                if self._held.endswith(each[:size])
            ),
            default=0,
        )
