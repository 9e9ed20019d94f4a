"""What stands before the routes: patience with slow readers and writers."""

import socket
import threading
from typing import Any

from prefreg.serving.guard import Guard
from served import listening

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def test_slow_readers_and_slow_writers_are_dropped() -> None:
    dropped = threading.Event()

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:  # no buffer of any system takes all of it
                body = b"x" * 2**20
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            dropped.set()

    seen: list[tuple[str, int, float]] = []

    def measure(route: str, status: int, seconds: float) -> None:
        seen.append((route, status, seconds))

    guard = Guard(pour, key=None, hosts=None, measure=measure, patience=0.3)
    with listening(guard) as port, socket.create_connection(("127.0.0.1", port)) as reader:
        reader.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        assert dropped.wait(10)
        with socket.create_connection(("127.0.0.1", port)) as writer:
            writer.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            assert writer.recv(1000).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port)) as leaver:
            leaver.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert [status for _, status, _ in seen] == [200, 408, 0]
