"""A server of vLLM with random vectors on the chat model; run by `make test-vllm`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scratch_vectors import BASE, make_registry
from vllm_server import Server

STARTED = 600.0
"""Seconds until a server must have started."""


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + STARTED
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the chat model by the command that the documentation names."""
    folder = tmp_path_factory.mktemp("vllm")
    registry = make_registry(folder / "registry.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefreg.serving.vllm", BASE]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "1024", "--max-num-seqs", "16"]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PREFREG_NO_STARTER": "1",
        "PREFREG_REGISTRY": str(registry),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        client = Server(url, registry)
        yield client
        client.http.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
