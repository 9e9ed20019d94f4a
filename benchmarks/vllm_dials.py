"""What do dials cost on a running vLLM?

    python -m prefreg.serving.vllm smollm2 --port 8000 --max-num-seqs 16
    python benchmarks/vllm_dials.py http://127.0.0.1:8000 smollm2 AXIS… -o FILE.json

asks the server of a base, with low-rank axes, and prints seconds: until the first token of the
base, of a known setting after another one, and of a new setting; and from one setting for everyone
to the next. Kinds take turns, so that what else the machine does falls on all alike. Then tokens a
second of many answers at once.
"""

import argparse
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

PROMPT = "Tell me about the sea."
LENGTH = 48
"""Tokens of an answer whose speed is measured."""


class Client:
    """A server of vLLM, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def send(self, method: str, path: str, body: object) -> tuple[Any, float]:
        """Return an answer in JSON, and its seconds."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            found = json.load(response)
        return found, time.perf_counter() - began

    def ask(self, model: str, tokens: int = 1) -> float:
        """Return the seconds of a greedy answer of exactly so many tokens."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return self.send("POST", "/v1/chat/completions", body)[1]

    def turn(self, preferences: dict[str, float]) -> float:
        """Return the seconds of setting the dials of everyone."""
        return self.send("PUT", "/v1/preferences", {"preferences": preferences})[1]


def measure_latency(client: Client, base: str, axes: Sequence[str], rounds: int) -> Any:
    """Return the seconds of each kind of first token and of dense dials, best and median."""
    etas = fresh_etas()
    known = [f"{base}+{','.join(f'{axis}:{eta}' for axis in axes)}" for eta in (1, -1)]
    for each in (base, *known):
        client.ask(each)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        new = [f"{axis}:{next(etas):.3g}" for axis in axes]
        for kind, took in (
            ("base", client.ask(base)),
            ("known setting", client.ask(known[0])),
            ("another known setting", client.ask(known[1])),
            ("new setting of one axis", client.ask(f"{base}+{new[0]}")),
            ("new setting of all axes", client.ask(f"{base}+{','.join(new)}")),
            ("dense dials", client.turn(dict.fromkeys(axes, next(etas)))),
            ("dense dials back to 0", client.turn({})),
        ):
            seconds.setdefault(kind, []).append(took)
    return [
        {"kind": kind, "best_s": round(min(of), 3), "median_s": round(median(of), 3)}
        for kind, of in seconds.items()
    ]


def fresh_etas() -> Iterator[float]:
    """Yield coefficients that no run has asked for, in all likelihood."""
    start = time.time_ns() % 89_000
    return (0.1 + (start + step) % 89_000 / 100_000 for step in itertools.count(0, 137))


def measure_speed(
    client: Client, base: str, axes: Sequence[str], rounds: int, at_once: int
) -> list[dict[str, Any]]:
    """Return the tokens a second of many answers at once, best and median."""
    names = [f"{base}+{axes[step % len(axes)]}:{0.1 + step / 100:.3g}" for step in range(at_once)]
    kinds = {
        "base": [base] * at_once,
        "one setting": names[:1] * at_once,
        "4 settings": (names[:4] * at_once)[:at_once],
        f"{at_once} settings": names,
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ThreadPoolExecutor(at_once) as pool:
        for asked in kinds.values():
            list(pool.map(client.ask, asked))  # known from here on
        for _ in range(rounds):
            for kind, asked in kinds.items():
                began = time.perf_counter()
                list(pool.map(lambda name: client.ask(name, LENGTH), asked))
                rates[kind].append(at_once * LENGTH / (time.perf_counter() - began))
    return [
        {
            "kind": kind,
            "best_tokens_s": round(max(of)),
            "median_tokens_s": round(median(of)),
        }
        for kind, of in rates.items()
    ]


def main() -> None:
    """Measure a running server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("base")
    parser.add_argument("axes", nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    client, given = Client(options.url), (options.base, options.axes)
    found = {
        "latency": measure_latency(client, *given, options.rounds),
        "speed": measure_speed(client, *given, max(1, options.rounds // 3), options.at_once),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
