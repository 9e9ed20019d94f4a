"""Line charts as the geometry of an SVG picture, which the site's templates write down."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 360, 214
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 38
_MOST = 120
"""Points of a line: more cannot be told apart at this width."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with the interval around it where one was measured."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    said: str = ""
    """What is shown to whoever points at it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one colour, of which `tone` is the name in the style sheet."""

    name: str
    tone: str
    points: Sequence[Point]
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A line in the picture's own coordinates."""

    name: str
    tone: str
    path: str
    band: str
    dots: list[tuple[float, float, str]]


@dataclass(slots=True)
class Chart:
    """Lines over one pair of axes."""

    title: str
    across: str
    lines: Sequence[Line]
    unit: str = ""
    guides: Sequence[float] = ()
    """Places on the horizontal axis that are marked."""
    whole: bool = False
    """Whether the horizontal axis counts things."""
    drawn: list[Drawn] = field(init=False)
    x_ticks: list[tuple[float, str]] = field(init=False)
    y_ticks: list[tuple[float, str]] = field(init=False)
    marks: list[float] = field(init=False)
    zero: float | None = field(init=False)
    """Where nothing is, where that lies in the picture."""

    def __post_init__(self) -> None:
        """Lay everything out."""
        points = [point for line in self.lines for point in line.points]
        xs = [*(point.x for point in points), *self.guides]
        ys = [
            end
            for point in points
            for end in (point.y, point.low, point.high)
            if end is not None and math.isfinite(end)
        ]
        x_ticks, y_ticks = (
            _ticks(min(xs), max(xs), 6, whole=self.whole),
            _ticks(min(ys), max(ys), 4),
        )
        x_ends = (min(xs), max(xs)) if len(set(xs)) > 1 else (x_ticks[0], x_ticks[-1])
        if self.whole:
            x_ends = (x_ends[0] - 0.3, x_ends[1] + 0.3)
        y_ends = (min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]))

        def right(x: float) -> float:
            share = (x - x_ends[0]) / (x_ends[1] - x_ends[0])
            return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

        def down(y: float) -> float:
            share = (y - y_ends[0]) / (y_ends[1] - y_ends[0])
            return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

        def draw(line: Line) -> Drawn:
            step = math.ceil(len(line.points) / _MOST)
            shown = [*line.points[:-1:step], line.points[-1]]
            path = "M" + "L".join(f"{right(each.x)} {down(each.y)}" for each in shown)
            ends = [(each.x, each.low, each.high) for each in shown]
            upper = [(x, high) for x, low, high in ends if low is not None and high is not None]
            lower = [(x, low) for x, low, high in ends if low is not None and high is not None]
            around = [f"{right(x)} {down(y)}" for x, y in [*upper, *reversed(lower)]]
            dots = [(right(each.x), down(each.y), each.said) for each in shown if line.dots]
            return Drawn(line.name, line.tone, path, "M" + "L".join(around) if around else "", dots)

        self.drawn = [draw(line) for line in self.lines]
        inside = [x for x in x_ticks if x_ends[0] <= x <= x_ends[1]]
        self.x_ticks = [(right(x), _label(x)) for x in inside]
        self.y_ticks = [(down(y), _label(y)) for y in y_ticks]
        self.marks = [right(x) for x in self.guides]
        self.zero = down(0) if y_ends[0] < 0 < y_ends[1] else None

    @property
    def plot(self) -> dict[str, float]:
        """Return where the lines are drawn."""
        return {
            "left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM,
            "width": WIDTH, "height": HEIGHT,
        }  # fmt: skip


def spark(points: Iterable[tuple[float, float]], width: int = 84, height: int = 22) -> str:
    """Return the path of a line that stands in a row of text."""
    known = list(points)
    xs, ys = [x for x, _ in known], [y for _, y in known]
    wide, high = max(xs) - min(xs) or 1, max(ys) - min(ys) or 1
    return "M" + "L".join(
        f"{2 + (x - min(xs)) / wide * (width - 4):.1f} "
        f"{height - 2 - (y - min(ys)) / high * (height - 4):.1f}"
        for x, y in known
    )


def _ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Return round numbers that span an interval, or lie around a single value."""
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):
        pad = 1.0 if whole else abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough * 0.999)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
