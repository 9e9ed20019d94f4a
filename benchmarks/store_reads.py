"""How fast compositions read vectors from a bucket, beside a plain loop over the same bytes.

    python benchmarks/store_reads.py --size .1 --link 60 --latency 20
    python benchmarks/store_reads.py --size .1 --blobs s3://BUCKET/PREFIX

Without --blobs, the store is one of its own at the end of a link of so many MB/s, where every
answer begins so many ms late. A base and a vector of the sizes of `compose.py`, in a registry with
its vectors beside it and in one with them in the store. `loop` gets the object's ranges of 4 MiB
one after the other with obstore and drops them, `stream` is obstore's own stream; `read` is what a
composition reads with, in its blocks of 512 KiB; `compose` is a whole composition, from the folder
and from the store. All in turn, --repeat times; the fastest of each is printed.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import ClassVar

import obstore
from compose import BLOCK_BYTES, make_inputs
from obstore.store import S3Store

import prefreg
from prefreg.checkpoints.bases import resolve_base
from prefreg.composition.resolve import identify
from prefreg.files import ByteRanges
from prefreg.registry import NewVersion, Store, VersionRecord

RANGE = 4 << 20
CHUNK = 1 << 16


class Link(BaseHTTPRequestHandler):
    """As much of S3 as is asked for here, behind a link that all answers share."""

    protocol_version = "HTTP/1.1"
    rate: float
    latency: float
    objects: ClassVar[dict[str, bytes]] = {}
    lock: ClassVar[Lock] = Lock()
    free: ClassVar[float] = 0.0
    """When all that was sent has passed: answers take turns, in the order that they come."""

    def do_PUT(self) -> None:
        """Keep an object, or a part of one."""
        path, _, query = self.path.partition("?")
        number = query.partition("partNumber=")[2].partition("&")[0]
        size = int(self.headers["Content-Length"])
        self.objects[f"{path}/{int(number):05}" if number else path] = self.rfile.read(size)
        self._say(200, ETag='"part"')

    def do_POST(self) -> None:
        """Begin an object of parts, or put it together."""
        path, _, query = self.path.partition("?")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query == "delete":
            self._say(200, b"<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>")
            return
        parts = sorted(name for name in self.objects if name.startswith(f"{path}/"))
        if parts:
            self.objects[path] = b"".join(self.objects.pop(name) for name in parts)
        name = "CompleteMultipartUploadResult" if parts else "InitiateMultipartUploadResult"
        inside = "<Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId><ETag>e</ETag>"
        self._say(200, f"<{name}>{inside}</{name}>".encode())

    def do_DELETE(self) -> None:
        """Forget an object."""
        self.objects.pop(self.path, None)
        self._say(204)

    def do_HEAD(self) -> None:
        """Tell the size of an object."""
        self.do_GET()

    def do_GET(self) -> None:
        """Send an object, or a range of it, at the rate of the link."""
        time.sleep(self.latency)
        data = self.objects.get(self.path)
        if data is None:
            self._say(404)
            return
        start, stop, extra = 0, len(data), {}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(data)
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._say(206 if extra else 200, memoryview(data)[start:stop], **extra, ETag='"whole"')

    def _say(self, code: int, body: bytes | memoryview = b"", **headers: str) -> None:
        self.send_response(code)
        moment = "Thu, 01 Jan 2026 00:00:00 GMT"
        for name, value in {
            **headers,
            "Last-Modified": moment,
            "Content-Length": len(body),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        for start in range(0, len(body) if self.command != "HEAD" else 0, CHUNK):
            part = body[start : start + CHUNK]
            with self.lock:
                Link.free = passed = max(self.free, time.monotonic()) + len(part) / self.rate
            time.sleep(max(0.0, passed - time.monotonic()))
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve_link(rate: float, latency: float, says: Connection) -> None:
    """Serve until the process that measures ends."""
    Link.rate, Link.latency = rate, latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), Link)
    says.send(server.server_port)
    server.serve_forever()


def start_link(rate: float, latency: float) -> str:
    """Start a store behind a link, and return its URL."""
    processes = multiprocessing.get_context("spawn")
    heard, says = processes.Pipe(duplex=False)
    processes.Process(target=serve_link, args=(rate, latency, says), daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{heard.recv()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    return "s3://bucket/vectors"


def add(registry: Path, folder: Path, blobs: str | None) -> VersionRecord:
    """Store the vector in a registry."""
    base = identify(resolve_base(str(folder / "base")))
    new = NewVersion("helpful", (), "dense", "BF16", base)
    with Store.open(registry, write=True, blobs_at=blobs) as store:
        return store.add(new, folder / "phi0.safetensors")


def read(registry: Path, record: VersionRecord) -> None:
    """Read the vector as a composition does."""
    with Store.open(registry, write=False) as store:
        source = store.vector_source(record)
    assert isinstance(source, ByteRanges)
    room = memoryview(bytearray(BLOCK_BYTES))
    for offset in range(0, record.size, BLOCK_BYTES):
        source.read_into(offset, room[: record.size - offset])


def compose(registry: Path, folder: Path) -> None:
    """Compose into a folder that is removed."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        prefreg.open(registry, starter=False).compose(
            "helpful:0.5", base=str(folder / "base"), output=Path(output) / "composed"
        )


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", metavar="URL")
    parser.add_argument("--link", type=float, default=60, metavar="MB/s")
    parser.add_argument("--latency", type=float, default=20, metavar="ms")
    parser.add_argument("--size", default=".1")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.blobs is None:
        arguments.blobs = start_link(arguments.link * 1e6, arguments.latency / 1e3)
    with tempfile.TemporaryDirectory(prefix="prefreg-store-") as name:
        folder = Path(name)
        make_inputs(folder, arguments.size, full=False)
        local, far = folder / "local.db", folder / "far.db"
        add(local, folder, None)
        record = add(far, folder, arguments.blobs)
        with Store.open(far, write=False) as opened:
            part = opened.place.where
        bucket = S3Store.from_url(part, client_options={"allow_http": True})
        path = f"{record.sha256}.safetensors"

        def loop() -> None:
            for start in range(0, record.size, RANGE):
                obstore.get_range(bucket, path, start=start, end=min(start + RANGE, record.size))

        def stream() -> None:
            for _ in obstore.get(bucket, path).stream(min_chunk_size=RANGE):
                pass

        steps: dict[str, Callable[[], None]] = {
            "loop": loop,
            "stream": stream,
            "read": lambda: read(far, record),
            "compose, folder": lambda: compose(local, folder),
            "compose, store": lambda: compose(far, folder),
        }
        taken = defaultdict(list)
        for _ in range(arguments.repeat):
            for step, run in steps.items():
                began = time.perf_counter()
                run()
                taken[step].append(time.perf_counter() - began)
    print("| step | s | MB/s of the vector |\n|---|---|---|")
    for step, times in taken.items():
        print(f"| {step} | {min(times):.2f} | {record.size / 1e6 / min(times):.0f} |")


if __name__ == "__main__":
    main()
