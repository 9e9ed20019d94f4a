from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from prefreg.cli.options import PICTURES
from prefreg.errors import OutputError
from prefreg.evaluation.plots import (
    FORMATS,
    NEGATIVE,
    POSITIVE,
    TWO_SIDED,
    Canvas,
    Curve,
    HeatMap,
    LabelledMatrix,
    Point,
    draw_consistency,
    draw_curves,
    draw_heatmaps,
    draw_matrices,
    draw_pareto,
    front,
)
from prefreg.evaluation.statistics import Estimate, Spread, rate


def curves(destination: Path) -> bytes:
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
    picture = curves(tmp_path / "dials.png")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    # 4.2 inches a panel, 4.4 high, at 150 dots an inch: 1260 × 660.
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (1260, 660)


def test_equal_curves_give_equal_pictures(tmp_path: Path) -> None:
    assert curves(tmp_path / "a.png") == curves(tmp_path / "b.png")


@pytest.fixture
def last_figure(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are saved, to look at what is drawn."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        kept.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def test_a_band_of_a_share_stays_between_0_and_1(tmp_path: Path, last_figure) -> None:
    wide = Curve("wide", {0.0: Estimate(0.9, 0.7, 1.2, 9), 1.0: Estimate(0.1, -0.2, 0.3, 9)})
    units = {"share": "share of answers", "nats": "nats"}
    draw_curves(
        {"share": [wide], "nats": [wide]}, tmp_path / "a.png", title="t", caption="c", units=units
    )
    ends = [panel.collections[0].get_paths()[0].vertices[:, 1] for panel in last_figure[0].axes[:2]]
    assert [(found.min(), found.max()) for found in ends] == [(0.0, 1.0), (-0.2, 1.2)]


def test_the_front_is_numbered_and_equal_settings_share_a_number(
    tmp_path: Path, last_figure
) -> None:
    points = [point("a", 0, 3), point("b", 1, 2), point("twin", 1, 2), point("c", 0, 1)]
    draw_pareto(
        points, tmp_path / "a.png", x_label="kl, nats", y_label="words", shade_label="kl",
        title="t", caption="recipe",
    )  # fmt: skip
    (figure,) = last_figure
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]
    key = figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")
    assert key == "1 = a · 2 = b or twin\nrecipe"


def test_a_flat_map_of_shares_is_scaled_to_what_it_holds(tmp_path: Path, last_figure) -> None:
    flat = {(x, y): Estimate(0.02 * x, -0.1, 0.08, 9) for x in (0.0, 1.0) for y in (0.0, 1.0)}
    wide = {key: Estimate(12.0 * key[0], -8.0, 120.0, 9) for key in flat}
    wide[2.0, 0.0] = Estimate(1.0, -8.0, 120.0, 9)
    draw_heatmaps(
        [HeatMap("malformed", "share of answers", flat), HeatMap("words", "words", wide)],
        tmp_path / "a.png", across="a", up="b", title="t", caption="c",
    )  # fmt: skip
    share, words = last_figure[0].axes[:2]
    assert share.images[0].get_clim() == (0.0, 0.2)
    assert words.images[0].get_clim() == (0.0, 12.0)
    assert {text.get_text() for text in share.texts} == {"0.00", "0.02", "0.00\N{EN DASH}0.08"}
    assert {text.get_text() for text in words.texts} == {"0.00", "1.00", "12.0", "-8.00 to 120"}
    # What was not measured is an empty cell, so that all panels show the same settings.
    assert share.images[0].get_array().shape == words.images[0].get_array().shape == (2, 3)


def test_what_is_above_the_middle_is_blue_as_the_positive_pole_is() -> None:
    assert to_hex(TWO_SIDED(1.0)) == POSITIVE.lower()
    assert to_hex(TWO_SIDED(0.0)) == NEGATIVE.lower()


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


@pytest.mark.parametrize(
    ("name", "head"), [("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_the_ending_says_the_form(tmp_path: Path, name: str, head: bytes) -> None:
    assert curves(tmp_path / name).startswith(head)


def test_other_endings_are_told_which_there_are(tmp_path: Path) -> None:
    assert FORMATS == PICTURES
    for name in ("a.jpg", "png", "a.png.gz"):
        with pytest.raises(OutputError, match=r"\.png, \.pdf, \.svg"):
            curves(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        Canvas(tmp_path / "broken.png", title="", caption="", columns=1),
    ):
        raise RuntimeError
    assert not (tmp_path / "broken.png").exists()


def matrices(destination: Path) -> bytes:
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
    picture = matrices(tmp_path / "a.png")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert matrices(tmp_path / "b.png") == picture


def test_matrices_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written: No such file"):
        matrices(tmp_path / "gone" / "a.png")


def seeds_drawn(destination: Path, seeds: int = 2) -> bytes:
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
    picture = seeds_drawn(tmp_path / "seeds.png", seeds)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (1650, 750)
    assert seeds_drawn(tmp_path / "again.png", seeds) == picture


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written.*`plot=`"):
        seeds_drawn(tmp_path / "none" / "seeds.png")
