"""Axes without code: a YAML file that names sources, columns and a rule."""

from pathlib import Path

from prefreg.axes import Axis
from prefreg.declared.schema import Declaration, read_declaration

__all__ = ["Declaration", "axis_from_yaml", "read_declaration"]


def axis_from_yaml(path: str | Path) -> Axis:
    """Read the axis that a YAML file declares; nothing of its data is read.

    Raises:
        AxisError: The file declares no axis; the message names the line.
    """
    return read_declaration(Path(path)).axis
