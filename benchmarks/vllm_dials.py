"""What do dials cost on a running vLLM?

    python -m prefreg.serving.vllm smollm2 --port 8000 --max-num-seqs 16
    python benchmarks/vllm_dials.py http://127.0.0.1:8000 smollm2 AXIS… --pid PID -o FILE.json

asks the server of a base, with low-rank axes, and prints seconds: until the first token of the
base, of a known setting after another one, and of a new setting; and from one setting for everyone
to the next; then of many answers at once. Kinds take turns, so that what else the machine does
falls on all alike. With the process of the server, seconds of its processors are counted too: what
else runs changes them little where vLLM computes with one thread in one process (OMP_NUM_THREADS=1
VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0 and the option
--distributed-executor-backend uni).
"""

import argparse
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

PROMPT = "Tell me about the sea."
AT_ONCE, LENGTH = 16, 32
"""Answers at once, and their tokens."""


class Client:
    """A server of vLLM, asked over HTTP, and the seconds of each kind of request."""

    def __init__(self, url: str, pid: int | None) -> None:
        self.url = url.rstrip("/")
        self.process = psutil.Process(pid) if pid else None
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def busy(self) -> float:
        """Return the seconds that processors have worked for the server."""
        if self.process is None:
            return 0.0
        every = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in every)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Keep the seconds of what happens meanwhile."""
        began, worked = time.perf_counter(), self.busy()
        yield
        took = time.perf_counter() - began, self.busy() - worked
        self.seconds.setdefault(kind, []).append(took)

    def send(self, method: str, path: str, body: object) -> Any:
        """Return an answer in JSON."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def ask(self, model: str, tokens: int = 1) -> None:
        """Have a greedy answer of exactly so many tokens."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        self.send("POST", "/v1/chat/completions", body)

    def turn(self, preferences: dict[str, float]) -> None:
        """Set the dials of everyone."""
        self.send("PUT", "/v1/preferences", {"preferences": preferences})

    def table(self) -> list[dict[str, Any]]:
        """Return the kinds with the best and the median of their seconds."""
        rows = []
        for kind, took in self.seconds.items():
            wall, busy = ([each[place] for each in took] for place in (0, 1))
            row = {"kind": kind, "wall_s": [round(min(wall), 3), round(median(wall), 3)]}
            if self.process is not None:
                row["processor_s"] = [round(min(busy), 2), round(median(busy), 2)]
            rows.append(row)
        return rows


def measure_latency(client: Client, base: str, axes: Sequence[str], rounds: int) -> None:
    """Time the first token of each kind, and dense dials."""
    etas = fresh_etas()
    known = [f"{base}+{','.join(f'{axis}:{eta}' for axis in axes)}" for eta in (1, -1)]
    for each in (base, *known):
        client.ask(each)
    for _ in range(rounds):
        new = [f"{axis}:{next(etas):.3g}" for axis in axes]
        for kind, name in (
            ("first token, base", base),
            ("first token, known setting", known[0]),
            ("first token, another known setting", known[1]),
            ("first token, new setting of one axis", f"{base}+{new[0]}"),
            ("first token, new setting of all axes", f"{base}+{','.join(new)}"),
        ):
            with client.timed(kind):
                client.ask(name)
        with client.timed("dials for everyone, all axes"):
            client.turn(dict.fromkeys(axes, next(etas)))
        with client.timed("dials for everyone, back to 0"):
            client.turn({})


def fresh_etas() -> Iterator[float]:
    """Yield coefficients that no run has asked for, in all likelihood."""
    start = time.time_ns() % 89_000
    return (0.1 + (start + step) % 89_000 / 100_000 for step in itertools.count(0, 137))


def measure_speed(client: Client, base: str, axes: Sequence[str], rounds: int) -> None:
    """Time many answers at once."""
    names = [f"{base}+{axes[step % len(axes)]}:{0.1 + step / 100:.3g}" for step in range(AT_ONCE)]
    kinds = {
        "base": [base] * AT_ONCE,
        "one setting": names[:1] * AT_ONCE,
        "8 settings": (names[:8] * AT_ONCE)[:AT_ONCE],
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for asked in kinds.values():
            list(pool.map(client.ask, asked))  # known from here on
        for _ in range(rounds):
            for kind, asked in kinds.items():
                with client.timed(f"{AT_ONCE} answers of {LENGTH} tokens, {kind}"):
                    list(pool.map(lambda name: client.ask(name, LENGTH), asked))


def main() -> None:
    """Measure a running server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("base")
    parser.add_argument("axes", nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pid", type=int, help="process of the server")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    client, given = Client(options.url, options.pid), (options.base, options.axes)
    try:
        measure_latency(client, *given, options.rounds)
        measure_speed(client, *given, max(1, options.rounds // 3))
    finally:  # Ctrl-C keeps what is measured
        text = json.dumps(client.table(), indent=2)
        print(text)
        if options.output:
            options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
