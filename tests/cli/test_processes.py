"""The installed command as a process: signals, pipes, exit codes."""

import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PREFREG = Path(sys.executable).with_name("prefreg")


def read_until(descriptor: int, wanted: bytes, seconds: float) -> bytes:
    """Read from a terminal until a text appears."""
    seen, deadline = b"", time.monotonic() + seconds
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not appear in {seen!r}"
        seen += os.read(descriptor, 4096)
    return seen


def test_an_interrupted_training_leaves_the_registry_as_it_was(own: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(own.read_bytes()).hexdigest()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    master, slave = pty.openpty()
    command = [PREFREG, "--registry", own, "add-axis", "helpful", "--base", "pocket"]
    process = subprocess.Popen(
        [*command, "--set", "max_steps=100000", "--limit", "200"],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "TMPDIR": str(temporary)},
    )
    os.close(slave)
    try:
        # The progress shows a loss as soon as the first pole trains.
        read_until(master, b"loss", 120)
        process.send_signal(signal.SIGINT)
        assert b"Interrupted." in read_until(master, b"Interrupted.", 60)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 130
    assert output == b""
    assert hashlib.sha256(own.read_bytes()).hexdigest() == before
    assert {path.name for path in own.parent.glob("own*")} == {"own.db"}
    assert list(temporary.glob("prefreg-*")) == []


def test_a_reader_that_goes_away_is_no_error(trained: Path) -> None:
    process = subprocess.Popen(
        [PREFREG, "--registry", trained, "show", "helpful", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), errors) == (0, b"")


@pytest.mark.parametrize(("debugging", "traceback"), [("", False), ("0", False), ("1", True)])
def test_tracebacks_are_shown_on_request(tmp_path: Path, debugging: str, traceback: bool) -> None:
    result = subprocess.run(
        [PREFREG, "vectors", "--registry", "missing.db"],
        cwd=tmp_path,
        env={**os.environ, "PREFREG_DEBUG": debugging},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert ("Traceback" in result.stderr) == traceback
    assert result.stderr.splitlines()[-1].startswith("Error: There is no registry")
