"""What people write, read with bounds: numbers with names, YAML without tags, small files."""

import math
import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import yaml

from prefreg.errors import PrefregError, UsageError

SMALL = 16 * 2**20
"""Bytes of a file that a person wrote: settings, a recipe, an axis."""
MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""
MAX_COUNT = 2**31 - 1
"""The largest count of anything: steps, tokens, rows."""
DEEPEST = 100
"""Levels of nesting in a file that a person wrote."""
MOST_VALUES = 100_000
"""Values in such a file, with every alias counted as often as it is used."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,5})?")
_LONGEST_NUMBER = 400

Number = TypeVar("Number", int, float)


def read_integer(text: str, what: str, *, low: int | None = None, high: int = MAX_COUNT) -> int:
    """Read a whole number in ASCII digits, at most `high` and at least `low`.

    Raises:
        UsageError: It is none, or out of bounds; the message names `what`.
    """
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{what}: {text!r} is no whole number.")
    return check_number(int(text), what, low=low, high=high)


def read_float(
    text: str, what: str, *, low: float | None = None, high: float | None = None
) -> float:
    """Read a finite decimal number in ASCII digits.

    Raises:
        UsageError: It is none, is not finite, or is out of bounds; the message names `what`.
    """
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise UsageError(f"{what}: {text!r} is no number.")
    return check_number(float(text), what, low=low, high=high)


def check_number(
    value: Number, what: str, *, low: float | None = None, high: float | None = None
) -> Number:
    """Return a number that is finite and within its bounds.

    Raises:
        UsageError: It is not; the message names `what`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{what}: {value!r} is not finite.")
    if low is not None and value < low:
        raise UsageError(f"{what}: {value!r} is below {low}.")
    if high is not None and value > high:
        raise UsageError(f"{what}: {value!r} is above {high}.")
    return value


class _Loader(yaml.SafeLoader):
    """Plain YAML: no tag is obeyed, a date is the text that stands there, nesting has an end."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - an attribute of the class in PyYAML, too
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag} is not taken: write the value alone",
                problem_mark=event.start_mark,
            )
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {DEEPEST} levels deep", problem_mark=event.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the tree of a YAML text without building any object; None where it is empty.

    Raises:
        yaml.YAMLError: It is no YAML, or has tags, more than `DEEPEST` levels, an alias within
            itself, or more than `MOST_VALUES` values.
    """
    root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    if root is not None and _count(root, {}, set()) > MOST_VALUES:
        raise yaml.YAMLError(f"it holds more than {MOST_VALUES} values")
    return root


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds: mappings, lists, texts, numbers, truth values, nothing.

    Raises:
        yaml.YAMLError: It is no YAML, or beyond the bounds of `compose_yaml`.
    """
    root = compose_yaml(text)
    if root is None:
        return None
    try:
        return _Loader("").construct_document(root)
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(f"a value is out of measure ({error})") from error


def _count(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Count the values below a node, which is what building them would cost."""
    if id(node) in above:
        raise yaml.MarkedYAMLError(
            problem="an alias stands within what it names", problem_mark=node.start_mark
        )
    if id(node) not in known:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
        known[id(node)] = 1 + sum(_count(each, known, above | {id(node)}) for each in below)
    return known[id(node)]


def read_small(path: Path, error: type[PrefregError], *, most: int = SMALL) -> bytes:
    """Return the content of a regular file that a person wrote.

    Raises:
        PrefregError: Of the kind `error`: there is no such file, it is none (a folder, a device,
            a pipe), cannot be read, or has more than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        with open(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise error(f"{path} is no regular file.")
            content = stream.read(most + 1)
    except FileNotFoundError:
        raise error(f"There is no file {path}.") from None
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path} cannot be read: {reason}.") from cause
    if len(content) > most:
        raise error(f"{path} has more than {most >> 20} MiB: this is not the file that is meant.")
    return content
