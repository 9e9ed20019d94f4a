"""Run examples/steering.ipynb and store it with what its cells show.

It needs `pip install nbclient ipykernel`. What another machine or run would show otherwise is left
out: times, progress, and whatever is written to stderr.
"""

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "steering.ipynb"


def main() -> None:
    """Run the notebook in its place."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    book.metadata.language_info = {"name": "python"}
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = _joined(cell.outputs)
    nbformat.write(book, NOTEBOOK)


def _joined(outputs: list[Any]) -> list[Any]:
    """Leave stderr out, and make one text of what was printed in pieces."""
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    main()
