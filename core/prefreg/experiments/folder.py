"""The folder of an experiment: claimed by one request, and taken up again after a kill."""

import json
import os
from pathlib import Path
from typing import Any

from prefreg.errors import OutputError
from prefreg.experiments.findings import Findings, markdown
from prefreg.experiments.request import ReproduceRequest

MARKER = "experiment.json"
RESULTS = "results.json"


def claim(request: ReproduceRequest) -> Path:
    """Make the folder of a request, or find that of an earlier run of the same one.

    Raises:
        OutputError: It holds something else, or cannot be written.
    """
    folder = request.output
    wanted = json.loads(json.dumps(request.as_dict()))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file. Choose the name of a folder with --output.")
    try:
        if folder.exists() and any(folder.iterdir()):
            _require_same(folder, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / MARKER, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder with --output."
        ) from error
    return folder


def give_up(folder: Path) -> None:
    """Remove a folder in which nothing was done yet."""
    if [path.name for path in folder.iterdir()] == [MARKER]:
        (folder / MARKER).unlink()
        folder.rmdir()


def finish(folder: Path, request: ReproduceRequest, title: str, found: Findings) -> dict[str, Any]:
    """Write the results, as numbers and as a page, and return what the numbers file holds."""
    results = {
        "experiment": request.name,
        "request": request.as_dict(),
        "recipe": found.recipe,
        "claims": [
            {"claim": each.text, "held": each.held, "figures": each.figures}
            for each in found.claims
        ],
        "pictures": [each.path.name for each in found.pictures],
        "notes": found.notes,
        "data": found.data,
    }
    try:
        _write(folder / RESULTS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
        _write(folder / "results.md", markdown(title, found))
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}. Make room; what was measured is kept."
        ) from error
    return results


def _require_same(folder: Path, wanted: dict[str, Any]) -> None:
    try:
        known = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict):
        raise OutputError(
            f"{folder} holds something else than an experiment. Choose another with --output."
        )
    if known.get("name") != wanted["name"]:
        raise OutputError(
            f"{folder} holds the experiment {known.get('name')!r}. Choose another with --output."
        )
    for name in sorted(wanted):
        if known.get(name) != wanted[name]:
            raise OutputError(
                f"{folder} was begun with {name} {known.get(name)!r}, not {wanted[name]!r}. "
                "Choose another folder with --output."
            )


def _write(path: Path, text: str) -> None:
    """Replace a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
