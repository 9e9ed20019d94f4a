"""A picture of how alike the vectors of several seeds are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prefreg.evaluation.pictures.saving import save_plot
from prefreg.evaluation.statistics.jackknife import Spread

_BLUE, _GREY = "#0072B2", "#444444"
_WRITTEN = 12
"""Up to so many seeds, the number is written into every cell."""


def draw_consistency(
    destination: Path,
    *,
    title: str,
    caption: str,
    seeds: Sequence[int],
    cosines: Sequence[Sequence[float]],
    layers: Mapping[str, Spread],
) -> None:
    """Draw the cosine of every two seeds, and the mean of each layer, and save the picture.

    Raises:
        OutputError: The file cannot be written.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontweight="bold")
    matrix, by_layer = figure.subplots(1, 2)
    _draw_matrix(figure, matrix, seeds, cosines)
    _draw_layers(by_layer, layers)
    figure.supxlabel(caption, fontsize=8, color=_GREY)
    save_plot(figure, destination)


def _draw_matrix(
    figure: Figure, panel: Axes, seeds: Sequence[int], cosines: Sequence[Sequence[float]]
) -> None:
    image = panel.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu")
    figure.colorbar(image, ax=panel, shrink=0.8)
    places = range(len(seeds))
    panel.set_xticks(places, [str(seed) for seed in seeds])
    panel.set_yticks(places, [str(seed) for seed in seeds])
    panel.set_xlabel("seed")
    panel.set_ylabel("seed")
    panel.set_title("cosine of two seeds")
    if len(seeds) > _WRITTEN:
        return
    for row in places:
        for column in places:
            value = cosines[row][column]
            colour = "white" if abs(value) > 0.6 else "black"
            panel.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8
            )


def _draw_layers(panel: Axes, layers: Mapping[str, Spread]) -> None:
    places = range(len(layers))
    for place, spread in zip(places, layers.values(), strict=True):
        panel.plot([spread.low, spread.high], [place, place], color=_BLUE, linewidth=2, alpha=0.4)
        panel.plot([spread.value], [place], marker="o", color=_BLUE, markersize=5)
    panel.set_yticks(places, list(layers))
    panel.invert_yaxis()
    panel.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlabel("mean cosine of two seeds")
    panel.set_title("by layer")
    panel.grid(alpha=0.25)
