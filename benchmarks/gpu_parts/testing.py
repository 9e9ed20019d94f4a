"""The tests that need a GPU and are skipped elsewhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILES = ("tests/composition/test_streaming.py", "tests/composition/test_in_memory.py")
NAMES = "gpu or cuda"
"""In the name of each of them."""


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Run them, or with `small` only find them."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-k", NAMES, *FILES]
    # Other versions of libraries warn of other things.
    command += ["--collect-only"] if small else ["-o", "filterwarnings=default"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    record.add("tests", files=FILES, code=done.returncode, told=done.stdout[-4000:])
    if done.returncode:
        raise AssertionError("a test failed")
