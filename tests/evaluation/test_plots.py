from pathlib import Path

import pytest

from prefreg.evaluation.plots import (
    Canvas,
    Curve,
    HeatMap,
    Point,
    draw_curves,
    draw_heatmaps,
    draw_pareto,
    front,
)
from prefreg.evaluation.statistics import Estimate, rate


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


def point(label: str, x: float, y: float) -> Point:
    return Point(label, Estimate(x, x - 0.1, x + 0.1, 9), Estimate(y, y - 0.1, y + 0.1, 9), x)


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [point("a", 0, 3), point("b", 1, 2), point("c", 1, 1), point("d", 2, 0)]
    points += [point("e", -1, 3), point("f", 1, 2)]
    assert [each.label for each in front(points)] == ["a", "b", "f", "d"]
    # Less of x is wanted: e has the most of y for the least x.
    assert [each.label for each in front(points, x_sign=-1)] == ["e"]


def test_a_front_and_heat_maps_become_pngs(tmp_path: Path) -> None:
    draw_pareto(
        [point("a", 0, 3), point("b", 1, 2)],
        tmp_path / "front.png",
        x_label="kl, nats",
        y_label="helpful, share",
        shade_label="kl",
        title="The price",
        caption="recipe",
    )
    cells = {(x, y): rate(int(x + y), 9) for x in (0.0, 1.0, 2.0) for y in (0.0, 4.0)}
    maps = [HeatMap(name, "share", cells) for name in "abcdefg"]
    draw_heatmaps(
        maps, tmp_path / "maps.png", across="helpful", up="harmless", title="Maps", caption="recipe"
    )
    for name in ("front.png", "maps.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        Canvas(tmp_path / "broken.png", title="", caption="", columns=1),
    ):
        raise RuntimeError
    assert not (tmp_path / "broken.png").exists()
