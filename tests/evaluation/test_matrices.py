from pathlib import Path

import numpy as np
import pytest

from prefreg.errors import OutputError
from prefreg.evaluation.plots import LabelledMatrix, draw_matrices


def draw(destination: Path) -> bytes:
    values = np.array([[np.nan, 0.5], [-0.5, np.nan]])
    panels = [
        LabelledMatrix("angle", values, ["a", "b"], ["c", "d"], "cosine", -1, 0, 1),
        LabelledMatrix("all one", values * 0 + 1, ["a", "b"], ["c", "d"], "×", 0, 0, 1),
        LabelledMatrix(
            "noted",
            values,
            ["a", "b"],
            ["c", "d"],
            "SD",
            -1,
            0,
            1,
            notes=np.array([["[0, 1]"] * 2] * 2),
        ),
    ]
    draw_matrices(panels, destination, title="t", caption="c")
    return destination.read_bytes()


def test_matrices_become_a_png_the_same_every_time(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert draw(tmp_path / "b.png") == picture


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written: No such file"):
        draw(tmp_path / "gone" / "a.png")
