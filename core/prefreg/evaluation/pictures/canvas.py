"""What all pictures share: a figure without a window, its title, its caption, its colours."""

import textwrap
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito: told apart by the colour-blind."""
_DOTS = 150


class Canvas:
    """A picture that is saved when its block ends without an error."""

    def __init__(
        self, destination: Path, *, title: str, caption: str, columns: int, rows: int = 1,
        width: float = 4.2, height: float = 4.0,
    ) -> None:  # fmt: skip
        """Lay out panels; `caption` has the recipe and what the intervals are of."""
        self._destination = destination
        size = (width * columns, height * rows + 0.4)
        self.figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.figure.suptitle(title, fontweight="bold")
        # Eight points take about a sixteenth of an inch a letter.
        lines = textwrap.wrap(caption, max(40, int(size[0] * 15)))
        self.figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")
        grid = self.figure.subplots(rows, columns, squeeze=False)
        self.panels: list[Axes] = list(np.asarray(grid).ravel())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.figure.savefig(self._destination, dpi=_DOTS)
