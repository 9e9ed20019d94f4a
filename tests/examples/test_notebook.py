"""examples/steering.ipynb, every code cell run in order in one fresh namespace."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "examples" / "steering.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_it_runs_and_writes_its_picture_and_its_model(
    cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "%pip install" in sources[0]
    # Where prefreg can be imported, the line that installs it is not reached.
    sources[0] = sources[0].replace("%pip", "raise SystemExit  # %pip")
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(sources), "utf-8")
    (tmp_path / "scratch").mkdir()
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PREFREG_")}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "OMP_NUM_THREADS": "1",
        "PREFREG_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "scratch"),
    }
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What the stored notebook shows of its prints is what they print.
    printed = [
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    ]
    assert "".join(printed) == done.stdout
    assert "base + 0.5·harmless@1 + 1·helpful@1" in done.stdout
    (folder,) = (tmp_path / "scratch").glob("prefreg-notebook-*")
    assert (folder / "composed" / "model.safetensors").is_file()
    assert (folder / "dials.png").stat().st_size > 20_000


def test_it_is_stored_with_what_it_shows_and_nothing_of_the_machine(
    cells: list[dict[str, Any]],
) -> None:
    assert len({cell["id"] for cell in cells}) == len(cells) >= 15
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell["outputs"]]
    assert {"stream", "execute_result", "display_data"} == {each["output_type"] for each in shown}
    assert not any(each.get("name") == "stderr" for each in shown)
    assert not any("execution" in cell["metadata"] for cell in code)
    text = NOTEBOOK.read_text("utf-8")
    assert str(Path.home()) not in text
    assert "/tmp" not in text
    assert len(text) < 200_000
