"""The command that serves: how it starts, what it refuses, and how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from served import QUESTION, STARTER

Run = Callable[..., Any]
PREFREG = Path(sys.executable).with_name("prefreg")
MANY = {
    "model": "pocket+helpful:1",
    "messages": [{"role": "user", "content": QUESTION}],
    "n": 24,
    "stream": True,
}


def test_a_server_that_is_stopped_ends_the_answers_that_run() -> None:
    process = subprocess.Popen(
        [PREFREG, "serve", "verbose:1", "--port", "0", "--registry", STARTER, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PREFREG_API_KEY": "s3cret"},
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        while not (lines and lines[-1] == "}\n"):
            lines.append(process.stdout.readline())
        told = json.loads("".join(lines))["data"]
        assert told["terms"] == ["verbose:1"]
        with (
            httpx2.Client(headers={"Authorization": "Bearer s3cret"}, timeout=60) as client,
            client.stream("POST", f"{told['api']}/chat/completions", json=MANY) as answer,
        ):
            events = answer.iter_lines()
            first = next(events)
            process.send_signal(signal.SIGTERM)
            seen = [first, *events]
        bodies = [json.loads(each[6:]) for each in seen if each.startswith("data: {")]
        ends = [choice["finish_reason"] for each in bodies for choice in each["choices"]]
        assert ends.count("stop") == 24
        assert seen[-2:] == ["data: [DONE]", ""]
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output, errors) == (0, "", "")


def test_what_cannot_be_listened_at_is_told_in_a_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("serve", "--port", port)
    told = f"Error: Port {port} of 127.0.0.1 is in use. Choose another with --port; 0 takes a free "
    assert (refused.code, refused.out, refused.err) == (1, "", f"{told}one.\n")
    refused = run("serve", "--host", "no.such.host.invalid", "--api-key", "k")
    assert refused.code == 1
    assert "no.such.host.invalid:8000 cannot be listened at: " in refused.err


def test_a_missing_extra_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefreg.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused = run("serve")
    assert refused.code == 2
    assert "needs uvicorn, which is not installed: pip install 'prefreg[serve]'" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 lets other machines in: give a key"),
        (["--host", "::"], 2, "lets other machines in"),
        (["--host", "example.org"], 2, "lets other machines in"),
        (["--port", "70000"], 2, "--port: 70000 is above 65535"),
        (["--max-tokens", "0"], 2, "--max-tokens: 0 is below 1"),
        (["--max-eta", "nan"], 2, "out of measure"),
        (["--api-key", "schlüssel"], 2, "An API key is of printable ASCII characters"),
        (["--port", "0", "--base", "pocket", "helpfull:1"], 1, "Did you mean 'helpful'?"),
    ],
)
def test_what_makes_no_server_is_refused(
    run: Run, arguments: list[str], code: int, words: str
) -> None:
    refused = run("serve", "--registry", STARTER, *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert words in refused.err
