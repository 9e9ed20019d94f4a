from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure

import prefreg
from prefreg.errors import OutputError, VectorError
from prefreg.evaluation.pole_curves import plot_version

_BLUE, _VERMILION = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)


def shows(picture: Path, colour: tuple[float, float, float]) -> bool:
    pixels = matplotlib.image.imread(picture)
    return bool((abs(pixels[..., :3] - colour).max(-1) < 0.02).any())


def test_both_poles_are_drawn(trained: Path, tmp_path: Path) -> None:
    record = prefreg.open(trained).show("helpful")
    plot_version(record, tmp_path / "both.png")
    assert shows(tmp_path / "both.png", _BLUE)
    assert shows(tmp_path / "both.png", _VERMILION)


def test_an_early_stop_and_what_was_kept_are_marked(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        labels.extend(str(line.get_label()) for line in figure.axes[0].lines)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    record = prefreg.open(trained).show("helpful")
    poles = dict(record.metadata["poles"])
    poles["negative"] = poles["negative"] | {"stopped": {"step": 6, "kept": 4, "reason": "r"}}
    plot_version(replace(record, metadata=record.metadata | {"poles": poles}), tmp_path / "a.png")
    assert [label for label in labels if "step" in label] == [
        "θ₋ stopped at step 6",
        "θ₋ kept as of step 4",
    ]


def test_answers_have_panels_of_their_own(trained: Path, tmp_path: Path) -> None:
    record = prefreg.open(trained).show("helpful")
    sample = {"length": 8.0, "unended": 0.0, "empty": 0.0, "repetition": 0.1, "refusals": None}
    answers = [{"step": step} | sample for step in (0, 4, 8)]
    heights = []
    for name, more in (("without", {}), ("with", {"answers": answers})):
        poles = {
            pole: {"curve": kept["curve"]} | more for pole, kept in record.metadata["poles"].items()
        }
        shown = replace(record, metadata=record.metadata | {"poles": poles})
        plot_version(shown, tmp_path / f"{name}.png")
        heights.append(matplotlib.image.imread(tmp_path / f"{name}.png").shape[0])
    assert heights[1] > 1.5 * heights[0]


def test_a_pole_that_was_not_trained_has_no_curve(trained: Path, tmp_path: Path) -> None:
    record = prefreg.open(trained).show("helpful")
    poles = {"positive": {}, "negative": record.metadata["poles"]["negative"]}
    one = replace(record, metadata=record.metadata | {"poles": poles})
    plot_version(one, tmp_path / "one.png")
    assert not shows(tmp_path / "one.png", _BLUE)
    assert shows(tmp_path / "one.png", _VERMILION)
    with pytest.raises(VectorError, match="helpful@1 has no training curves"):
        plot_version(replace(record, metadata={}), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("curves", "end it with .png"), ("absent/curves.png", "cannot be written")]
)
def test_a_place_that_takes_no_picture_is_named(
    trained: Path, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(OutputError, match=words):
        plot_version(prefreg.open(trained).show("helpful"), tmp_path / name)
