"""Ask a judge which of two answers is better: any endpoint that speaks OpenAI's protocol."""

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefreg.axes.answer_texts import repetition as repeated
from prefreg.axes.answer_texts import sounds_refusing
from prefreg.checkpoints.bundled import score_exactly
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.prompts import Asked
from prefreg.evaluation.statistics import FEWEST_GROUPS, Estimate, draw_weights
from prefreg.json_values import parse_json
from prefreg.progress import Steps

Choice = Literal["A", "B", "C"]
_SYSTEM = (
    "You compare two answers to the same message. Judge what they say, not how long they are. "
    "Reply with one letter: A if answer A is better, B if answer B is better, C if neither is."
)
_FORM = "Message:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\nWhich is better?"
_REPLY = re.compile(r"^\W*(?:answer\s+)?([ABC])\b", re.IGNORECASE)
_RETRIES = 2
_LONGEST_REPLY = 1 << 20
_RIDGE = 0.01
_DRAWS = 2000
"""Keeps the regression finite where one side always wins."""


class _Staying(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere, as the key is meant for the address that was given."""

    def redirect_request(self, *_: object) -> None:
        """Take a redirection for the failure that it is."""


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Staying)


def _is_address(url: str) -> bool:
    """Whether a judge can be there; a password in an address would be shown and kept with it."""
    try:
        found = urllib.parse.urlsplit(url)
        named = found.hostname is not None and found.port != 0
    except ValueError:
        return False
    known = found.scheme in ("http", "https") and "@" not in found.netloc
    return named and known and url.isascii() and url.isprintable() and " " not in url


@dataclass(frozen=True, slots=True)
class Judge:
    """An endpoint: its address, as in `http://localhost:8000/v1`, and the model it shall use."""

    url: str
    model: str = "default"
    key: str | None = None
    timeout: float = 60.0
    threads: int = 4

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise UsageError(f"{self.url!r} is no address of a judge: write http://HOST:PORT/v1.")

    def compare(
        self,
        prompts: Sequence[str],
        base: Sequence[str],
        turned: Sequence[str],
        progress: Steps | None = None,
    ) -> list[float]:
        """Return for each prompt how far the second answer won: 1, 0, or between.

        Each pair is asked about twice with the places exchanged, so that a judge who prefers a
        place gives one half. Equal answers are not asked about.
        """
        done = 0
        triples = list(zip(prompts, base, turned, strict=True))

        def one(triple: tuple[str, str, str]) -> float:
            prompt, old, new = triple
            if old == new:
                return 0.5
            straight = self._ask(prompt, old, new)
            swapped = self._ask(prompt, new, old)
            wins = {"A": 0.0, "B": 1.0, "C": 0.5}
            return (wins[straight] + 1 - wins[swapped]) / 2

        found = []
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for won in pool.map(one, triples):
                    found.append(won)
                    done += 1
                    if progress is not None:
                        progress(done, len(triples))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def _ask(self, prompt: str, first: str, second: str) -> Choice:
        content = _FORM.format(prompt=prompt, first=first, second=second)
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 8,
            "messages": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": content},
            ],
        }
        said = self._send(body)
        found = _REPLY.match(said)
        if not found:
            raise DataError(
                f"The judge at {self.url} answered {said[:80]!r} on the prompt {prompt[:60]!r}, "
                "not A, B or C: use a model that follows instructions."
            )
        letter: Any = found.group(1).upper()
        choice: Choice = letter
        return choice

    def _send(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        for attempt in range(_RETRIES + 1):
            try:
                with _opener().open(request, timeout=self.timeout) as response:
                    return self._read(self._receive(response))
            except urllib.error.HTTPError as error:
                error.close()
                busy = error.code == 429 or error.code >= 500
                if not busy or attempt == _RETRIES:
                    raise DataError(
                        f"The judge at {self.url} answered with HTTP {error.code} "
                        f"({error.reason}): check the address, --judge-model and its key."
                    ) from error
            except (OSError, ValueError, http.client.HTTPException) as error:
                told = getattr(error, "reason", None) or error
                if isinstance(told, TimeoutError):
                    raise DataError(
                        f"The judge at {self.url} did not answer within {self.timeout:g} s: it "
                        "is overloaded, or the address is another's."
                    ) from error
                raise DataError(
                    f"The judge at {self.url} cannot be reached ({told}): start it, or correct "
                    "the address."
                ) from error
            time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")

    def _receive(self, response: http.client.HTTPResponse) -> bytes:
        """Return what a judge says, of whom neither the end nor the size is known."""
        data, end = b"", time.monotonic() + self.timeout
        while len(data) <= _LONGEST_REPLY and (part := response.read1(_LONGEST_REPLY)):
            data += part
            if time.monotonic() > end:
                raise TimeoutError
        return data[:_LONGEST_REPLY]

    def _read(self, data: bytes) -> str:
        try:
            said = parse_json(data)["choices"][0]["message"]["content"]
            if not isinstance(said, str):
                raise TypeError("the content is no text")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"The judge at {self.url} does not speak OpenAI's protocol: {data[:80]!r}."
            ) from error
        return said


def length_controlled(
    wins: ArrayLike,
    lengths: tuple[ArrayLike, ArrayLike],
    groups: Sequence[str],
) -> Estimate:
    """Return the rate of wins if both answers were equally long (as AlpacaEval 2 does).

    A logistic regression on the difference of lengths is read off at 0; the interval is of draws
    of groups, each with a regression of its own.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < FEWEST_GROUPS:
        raise DataError(
            f"A rate of wins needs at least {FEWEST_GROUPS} groups of prompts, there are "
            f"{len(names)}: ask for more prompts."
        )
    member = np.array([names.index(group) for group in groups])
    difference = np.asarray(lengths[1], dtype=np.float64) - np.asarray(lengths[0])
    column = np.tanh(difference / (difference.std() or 1.0))
    target = np.asarray(wins, dtype=np.float64)
    (value,) = _at_equal_length(target, column, np.ones((1, len(target))))
    weights = draw_weights(len(names), _DRAWS, (0, 0))[:, member]
    low, high = np.quantile(_at_equal_length(target, column, weights), [0.025, 0.975])
    return Estimate(float(value), min(float(low), value), max(float(high), value), len(target))


def _at_equal_length(
    target: NDArray[np.float64], column: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit one regression a row of weights by Newton's steps; return the rate at difference 0."""
    level, slope = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(25):
        expected = 1 / (1 + np.exp(-(level[:, None] + slope[:, None] * column)))
        error = weights * (target - expected)
        spread = weights * expected * (1 - expected)
        first, second = error.sum(1) - _RIDGE * level, error @ column - _RIDGE * slope
        a, b = spread.sum(1) + _RIDGE, spread @ column
        d = spread @ column**2 + _RIDGE
        determinant = a * d - b**2
        level = level + np.clip((d * first - b * second) / determinant, -4, 4)
        slope = slope + np.clip((a * second - b * first) / determinant, -4, 4)
    rates: NDArray[np.float64] = 1 / (1 + np.exp(-level))
    return rates


_LOOPING = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer is."""

    words: int
    repetition: float
    """Share of its runs of four words that occur earlier in it."""
    malformed: bool
    """In a closed world: what it cannot say. Elsewhere: nothing, a loop, or broken text."""
    refuses: bool
    correct: bool | None
    """Whether all that it states is true; None for what is no answer, or cannot be checked."""


def judge(asked: Asked, answer: str) -> Judgement:
    """Judge an answer: exactly where a world knows the prompt, else by rule."""
    words = answer.split()
    repetition = repeated(words)
    verdict = score_exactly(asked.text, answer)
    if verdict is not None:
        correct = verdict.correct if asked.safe else None
        return Judgement(verdict.words, repetition, verdict.malformed, verdict.refuses, correct)
    broken = not words or repetition > _LOOPING or "\ufffd" in answer
    return Judgement(len(words), repetition, broken, sounds_refusing(answer), None)
