"""A short part of `make attack`: writers that are killed, in files, on a server and with stores."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[2] / "tools" / "attack"


def attack(tmp_path: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, TOOL, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_writer_leaves_what_was_or_what_shall_be(tmp_path: Path) -> None:
    said = attack(tmp_path, "--only", "kills", "--kills", "8", "--seed", "7")
    assert re.search(r"\| kills on SQLite, store +\| 2 ", said)
    assert re.search(r"^8 cases of seed 7 in .* s of the processor\.$", said, re.MULTILINE)


def test_so_it_does_on_a_server_with_a_bucket(tmp_path: Path, server: str, bucket: str) -> None:
    said = attack(
        tmp_path, "--only", "kills", "--kills", "3", "--server", server, "--blobs", bucket
    )
    assert re.search(r"\| kills there +\| 3 ", said)
