"""Values in a form that JSON can hold."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON document holds.

    Raises:
        ValueError: It is no JSON, or beyond what Python reads: nested thousands of levels deep, or
            with a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_json(value: Any) -> Any:
    """Return a value in a form that JSON can hold.

    An object says itself what it is (`to_json`), or is its fields; numbers and arrays of numpy
    become those of Python. What is none of these is returned as it is.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if hasattr(value, "_asdict") or (is_dataclass(value) and not isinstance(value, type)):
        return fields_to_json(value)
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    # Without importing numpy, which has both for what has no other form.
    return value.tolist() if hasattr(value, "tolist") else value


def finite(value: Any) -> Any:
    """Return a value with null in place of the numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class JsonFields:
    """An object whose form in JSON is its fields."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object in a form that JSON can hold."""
        return fields_to_json(self)


def fields_to_json(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass or a named tuple in a form that JSON can hold."""
    names = value._fields if hasattr(value, "_fields") else [each.name for each in fields(value)]
    return {name: to_json(getattr(value, name)) for name in names}
