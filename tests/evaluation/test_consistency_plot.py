from pathlib import Path

import pytest

from prefreg.errors import OutputError
from prefreg.evaluation.consistency import Spread
from prefreg.evaluation.plots import draw_consistency


def draw(destination: Path, seeds: int = 2) -> bytes:
    draw_consistency(
        destination,
        title="helpful on pocket",
        caption="share of signal",
        seeds=range(seeds),
        cosines=[
            [1.0 if row == column else 0.3 for column in range(seeds)] for row in range(seeds)
        ],
        layers={"layer 0": Spread(0.3, 0.2, 0.4, "jackknife")},
    )
    return destination.read_bytes()


@pytest.mark.parametrize("seeds", [2, 13])
def test_seeds_become_a_png(tmp_path: Path, seeds: int) -> None:
    picture = draw(tmp_path / "seeds.png", seeds)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (1650, 750)
    assert draw(tmp_path / "again.png", seeds) == picture


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written.*--plot"):
        draw(tmp_path / "none" / "seeds.png")
