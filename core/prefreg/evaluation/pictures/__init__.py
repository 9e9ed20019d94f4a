"""Pictures of what was measured: each with axes, units, intervals and the recipe below it."""

from prefreg.evaluation.pictures.canvas import Canvas
from prefreg.evaluation.pictures.curves import Curve, draw_curves
from prefreg.evaluation.pictures.heatmaps import HeatMap, draw_heatmaps
from prefreg.evaluation.pictures.pareto import Point, draw_pareto, front

__all__ = [
    "Canvas",
    "Curve",
    "HeatMap",
    "Point",
    "draw_curves",
    "draw_heatmaps",
    "draw_pareto",
    "front",
]
