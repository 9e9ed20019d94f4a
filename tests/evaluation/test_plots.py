from pathlib import Path

from prefreg.evaluation.plots import Curve, draw_curves
from prefreg.evaluation.statistics import rate


def draw(destination: Path) -> bytes:
    answers = Curve("answers", {1.0: rate(9, 10), -1.0: rate(2, 10), 0.0: rate(5, 10)})
    correct = Curve("correct", {0.0: rate(8, 10)})
    draw_curves(
        {"helpful": [answers, correct], "harmless": [answers]},
        destination,
        title="Dials of pocket",
        caption="base + η·helpful@1",
        units={"helpful": "share of prompts", "harmless": "words"},
    )
    return destination.read_bytes()


def test_curves_become_a_png(tmp_path: Path) -> None:
    picture = draw(tmp_path / "dials.png")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    # 4.2 inches a panel, 4.4 high, at 150 dots an inch: 1260 × 660.
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (1260, 660)


def test_equal_curves_give_equal_pictures(tmp_path: Path) -> None:
    assert draw(tmp_path / "a.png") == draw(tmp_path / "b.png")
