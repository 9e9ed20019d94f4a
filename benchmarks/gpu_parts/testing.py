"""The tests that need a GPU and are skipped elsewhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILES = ("tests/composition/test_streaming.py", "tests/composition/test_in_memory.py")
NAMES = "gpu"
"""In the name of each of them."""


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Run them; on a machine without a GPU they are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-k", NAMES, *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    record.add("tests", files=FILES, code=done.returncode, told=done.stdout[-4000:])
    if done.returncode:
        raise AssertionError("a test failed")
