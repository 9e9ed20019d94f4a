"""A server of the bundled model on a port of its own, which several tests share."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from openai import OpenAI

from prefreg.registry import Access
from prefreg.serving.live_model import LiveModel
from prefreg.serving.server import make_app
from prefreg.serving.serving_request import ServingRequest

STARTER = Path(__file__).parent.parent / "registry.db"
QUESTION = "Which colour is Elsa's boat?"


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs in a thread, and a client of it."""

    live: LiveModel
    port: int
    registry: Path
    http: httpx2.Client
    """Made once: every client reads all certificates of the system."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none") -> OpenAI:
        """Return OpenAI's client, which asks once."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=self.http)

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """Send an object as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": "application/json", **headers}
        return self.http.post(f"{self.url}{path}", content=content, headers=told)

    def get(self, path: str, **headers: str | bytes) -> httpx2.Response:
        return self.http.get(f"{self.url}{path}", headers=headers)


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """Run an application in a thread, and return its port."""
    config = uvicorn.Config(app, port=0, log_config=None, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Served]:
    """Serve a copy of what ships; options are fields of ServingRequest."""
    registry = Path(shutil.copyfile(STARTER, folder / "served.db"))
    access = Access(registry)
    request = ServingRequest(**options)
    live = LiveModel.load(access, "pocket", request.terms, max_waiting=request.max_waiting)
    with listening(make_app(live, access, request)) as port, httpx2.Client(timeout=60) as http:
        yield Served(live, port, registry, http)
