"""A server under 64 clients with dials of their own, with others in between that behave badly.

    python benchmarks/serve_load.py --json benchmarks/results/serve_load.json
    python benchmarks/serve_load.py --base smollm2 --low-rank 16 --seconds 30

First one client asks for a while, then 64 at once, each request with random coefficients; half of
them stream, and one in four is drawn with a seed instead of greedily. Beside them clients leave in
the middle of an answer, send what is no request, and read without taking anything. Afterwards
answers of the crowd are asked for again, one after the other, and must be the same. The vectors are
those that ship, or with `--low-rank` three random ones.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

QUESTIONS = (
    "Which colour is Elsa's boat?",
    "Where does Bruno live?",
    "How do I bake bread?",
    "Who has a red house?",
    "Tell me about the village.",
)
BROKEN = (
    b"",
    b"{",
    b"\xff" * 50,
    b"[" * 5000,
    b'{"model": "pocket"}',
    b'{"model": "x" ' + b" " * 99999,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with what came back."""

    body: dict[str, Any]
    answer: str
    tokens: int
    first: float
    """Seconds to the first piece; of one that does not stream, to the whole."""
    whole: float


@dataclass(slots=True)
class Crowd:
    """What a number of clients did."""

    clients: int
    seconds: float = 0.0
    answers: list[Asked] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)

    def row(self) -> dict[str, Any]:
        """Return its figures."""
        made = sum(each.tokens for each in self.answers)
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 1),
            "answers": len(self.answers),
            "errors": dict(self.errors),
            "answers_a_second": round(len(self.answers) / self.seconds, 2),
            "tokens_a_second": round(made / self.seconds, 1),
            **_quantiles("answer", [each.whole for each in self.answers]),
            **_quantiles("first_piece", [e.first for e in self.answers if e.body["stream"]]),
            "trouble": dict(self.trouble),
        }


def _quantiles(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [float("nan")]
    return {
        f"{name}_p{share}_s": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 3)
        for share in (50, 95)
    }


def make_registry(folder: Path, base: str, rank: int) -> Path:
    """Store three axes of random low-rank vectors, a tenth as large as the weights."""
    import torch

    from prefreg.checkpoints import resolve_base
    from prefreg.checkpoints.tensor_names import weight_shapes
    from prefreg.composition.resolve import identify
    from prefreg.registry import NewVersion, Store
    from prefreg.vectors.lowrank import Factors, write_low_rank

    found, file = resolve_base(base), folder / "vector.safetensors"
    with Store.open(folder / "random.db", write=True) as store:
        for seed, axis in enumerate(("first", "second", "third")):
            draw = torch.Generator().manual_seed(seed)
            factors = {}
            for name, shape in weight_shapes(found.checkpoint).items():
                if len(shape) == 2 and "proj" in name:
                    b = torch.randn(shape[0], rank, generator=draw)
                    a = torch.randn(rank, shape[1], generator=draw)
                    factors[name] = Factors(b, a * 0.1 / (rank * shape[1]) ** 0.5)
            write_low_rank(factors, file)
            store.add(NewVersion(axis, (), "low-rank", "F32", identify(found)), file)
    return folder / "random.db"


@contextmanager
def server(base: str, registry: Path | None) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server, and yield its address and process."""
    command = [sys.executable, "-m", "prefreg", "serve", "--base", base, "--port", "0", "--json"]
    command += ["--registry", str(registry)] if registry else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] not in ("}\n", ""):
            lines.append(process.stdout.readline())
        yield json.loads("".join(lines))["data"]["url"], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait():
            raise SystemExit(f"The server ended with {process.returncode}.")


def make_body(draw: random.Random, base: str, axes: list[str], tokens: int) -> dict[str, Any]:
    """Make a request with coefficients that hardly any other has."""
    turned = draw.sample(axes, draw.randint(1, min(3, len(axes))))
    drawn = draw.random() < 0.25
    return {
        "model": base,
        "messages": [{"role": "user", "content": draw.choice(QUESTIONS)}],
        "preferences": {axis: round(draw.uniform(-2, 2), 3) for axis in turned},
        "temperature": 0.8 if drawn else 0,
        "seed": draw.randrange(2**31) if drawn else None,
        "max_tokens": tokens,
        "stream": draw.random() < 0.5,
    }


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> Asked:
    """Ask once and read all of the answer."""
    began = time.perf_counter()
    if not body["stream"]:
        found = await client.post("/v1/chat/completions", json=body)
        found.raise_for_status()
        told = found.json()
        whole = time.perf_counter() - began
        text = told["choices"][0]["message"]["content"]
        return Asked(body, text, told["usage"]["completion_tokens"], whole, whole)
    text, first, tokens = "", 0.0, 0
    counted = {**body, "stream_options": {"include_usage": True}}
    async with client.stream("POST", "/v1/chat/completions", json=counted) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line[6:])
            if "error" in told:
                raise RuntimeError(told["error"]["message"])
            for choice in told["choices"]:
                text += choice["delta"]["content"]
            if text and not first:
                first = time.perf_counter() - began
            tokens = (told.get("usage") or {}).get("completion_tokens", tokens)
    if line != "data: [DONE]" and line:
        raise RuntimeError("a stream did not end")
    return Asked(body, text, tokens, first, time.perf_counter() - began)


async def run_crowd(
    url: str, clients: int, seconds: float, make: Callable[[], dict[str, Any]], *, trouble: bool
) -> Crowd:
    """Let clients ask one request after the other for a while."""
    crowd, began = Crowd(clients), time.perf_counter()

    async def one() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=300) as client:
            while time.perf_counter() - began < seconds:
                try:
                    crowd.answers.append(await ask(client, make()))
                except Exception as error:
                    crowd.errors[f"{type(error).__name__}: {error}"[:200]] += 1

    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    bad = [
        asyncio.create_task(_repeat(each, url, make, crowd.trouble))
        for each in (leave, break_bodies, read_nothing)
        if trouble
    ]
    await asyncio.gather(*tasks)
    crowd.seconds = time.perf_counter() - began
    for task in bad:
        task.cancel()
    await asyncio.gather(*bad, return_exceptions=True)
    return crowd


Trouble = Callable[[str, Callable[[], dict[str, Any]], Counter[str]], Coroutine[Any, Any, None]]


async def _repeat(
    make_trouble: Trouble, url: str, make: Callable[[], dict[str, Any]], told: Counter[str]
) -> None:
    while True:
        with suppress(httpx2.HTTPError, OSError):
            await make_trouble(url, make, told)
        await asyncio.sleep(1)


async def leave(url: str, make: Callable[[], dict[str, Any]], told: Counter[str]) -> None:
    """Ask for eight answers, and leave after the first piece."""
    body = {**make(), "stream": True, "n": 8, "temperature": 1}
    async with (
        httpx2.AsyncClient(base_url=url, timeout=300) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        async for _ in answer.aiter_lines():
            break
    told["left in the middle"] += 1


async def break_bodies(url: str, make: Callable[[], dict[str, Any]], told: Counter[str]) -> None:
    """Send what is no request, each of which must be refused."""
    wrong = [
        *BROKEN,
        json.dumps(make() | {"preferences": {"helpful": float("nan")}}).encode(),
        json.dumps(make() | {"model": "nothing"}).encode(),
        json.dumps(make() | {"temperature": "hot"}).encode(),
    ]
    async with httpx2.AsyncClient(base_url=url, timeout=300) as client:
        for content in wrong:
            headers = {"Content-Type": "application/json"}
            found = await client.post("/v1/chat/completions", content=content, headers=headers)
            told[f"malformed, refused with {found.status_code}"] += 1


async def read_nothing(url: str, make: Callable[[], dict[str, Any]], told: Counter[str]) -> None:
    """Ask for much, and read nothing of it for three seconds."""
    body = {**make(), "stream": True, "n": 16, "logprobs": True, "top_logprobs": 20}
    sent = json.dumps(body).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(sent)}\r\n\r\n".encode()
            + sent
        )
        await asyncio.sleep(3)
    told["read nothing"] += 1


async def compare(url: str, answers: list[Asked]) -> list[dict[str, Any]]:
    """Ask for answers again, each alone, and return those that are others than in the crowd."""
    mixed = []
    async with httpx2.AsyncClient(base_url=url, timeout=300) as client:
        for each in answers:
            alone = await ask(client, {**each.body, "stream": False})
            if alone.answer != each.answer:
                mixed.append({"asked": each.body, "crowd": each.answer, "alone": alone.answer})
    return mixed


def counts(url: str) -> dict[str, float]:
    """Return what the server has counted of its model."""
    lines = httpx2.get(f"{url}/metrics", timeout=60).text.splitlines()
    return {
        line.rsplit(" ", 1)[0].removeprefix("prefreg_"): float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(("prefreg_answers", "prefreg_weight", "prefreg_answer_tokens_total"))
    }


async def measure(options: argparse.Namespace, registry: Path | None) -> dict[str, Any]:
    """Run one client, then the crowd, then every answer alone."""
    draw = random.Random(options.seed)
    with server(options.base, registry) as (url, process):
        dials = httpx2.get(f"{url}/v1/axes", timeout=60).json()["data"]
        axes = [each["name"] for each in dials]

        def make() -> dict[str, Any]:
            return make_body(draw, options.base, axes, options.tokens)

        one = await run_crowd(url, 1, options.seconds / 3, make, trouble=False)
        before, memory = counts(url), process.memory_info().rss
        crowd = await run_crowd(url, options.clients, options.seconds, make, trouble=True)
        after, grown = counts(url), process.memory_info().rss - memory
        again = draw.sample(crowd.answers, min(options.again, len(crowd.answers)))
        mixed = await compare(url, again)
    counted = {name: after[name] - before[name] for name in after if "ing" not in name}
    alone, together = one.row(), crowd.row()
    # What was made for those who then left is no answer, but it was made.
    together["tokens_a_second_made"] = round(
        counted["answer_tokens_total"] / together["seconds"], 1
    )
    return {
        "base": options.base,
        "kinds": {each["name"]: each["kind"] for each in dials},
        "crowds": [alone, together],
        "throughput_ratio": round(together["tokens_a_second_made"] / alone["tokens_a_second"], 2),
        "asked_again_alone": len(again),
        "of_them_greedy": sum(each.body["temperature"] == 0 for each in again),
        "mixed_up": len(mixed),
        "first_mixed_up": mixed[:3],
        "memory_grew_mib": round(grown / 2**20, 1),
        "server_counted": counted,
        "load": [round(each, 1) for each in os.getloadavg()],
    }


def main() -> None:
    """Measure, say it, and fail where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--low-rank", type=int, help="take random vectors of this rank")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--again", type=int, default=500, help="answers that are asked again alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        low = options.low_rank
        registry = make_registry(Path(folder), options.base, low) if low else None
        found = asyncio.run(measure(options, registry))
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    errors = sum(sum(each["errors"].values()) for each in found["crowds"])
    if errors or found["mixed_up"]:
        raise SystemExit(f"{errors} errors, {found['mixed_up']} answers mixed up")


if __name__ == "__main__":
    main()
