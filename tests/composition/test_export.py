"""The same merges in mergekit, where an environment has it; prefreg does not depend on it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mergekit_agreement.py"
AGREED = ("linear", "ties", "dare", "dare_ties", "exported composition")


@pytest.mark.skipif(importlib.util.find_spec("mergekit") is None, reason="mergekit is not here")
def test_methods_agree_with_mergekit_to_rounding(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--python", sys.executable, "--json", str(found)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    rows = json.loads(found.read_text())
    assert {name: rows[name]["differing"] for name in AGREED} == dict.fromkeys(AGREED, 0)
    assert all(rows[name]["difference"] <= 2 * rows[name]["step"] for name in AGREED)
