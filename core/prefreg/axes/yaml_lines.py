"""A YAML file whose values know their lines, so that every complaint can name one."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from prefreg.errors import AxisError
from prefreg.plain_yaml import compose_yaml
from prefreg.values import read_small

_BEYOND = 10**300
Scalar = str | int | float | bool
_KINDS = {"str": "a text", "int": "a number", "float": "a number", "bool": "yes or no"}


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a YAML file."""

    node: yaml.Node
    file: Path
    key: str

    @property
    def line(self) -> int:
        """Return the line on which the value begins."""
        return int(self.node.start_mark.line) + 1

    def refuse(self, problem: str) -> NoReturn:
        """Raise an AxisError that names the file and the line."""
        raise AxisError(f"{self.file}:{self.line}: {problem}")

    def refuse_unknown(self, what: str, name: str, known: Collection[str]) -> NoReturn:
        """Raise an AxisError that says which names there are, or which one is close."""
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known)})"
        self.refuse(f"unknown {what} {name!r}{hint}")

    def mapping(self, known: Collection[str]) -> dict[str, "Value"]:
        """Return the values of a mapping, all of whose keys must be `known`."""
        if not isinstance(self.node, yaml.MappingNode):
            self.refuse(f"{self.key!r} is not a mapping of key to value")
        found: dict[str, Value] = {}
        for key_node, node in self.node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "[…]"
            place = Value(key_node, self.file, name)
            if name not in known:
                place.refuse_unknown("key", name, known)
            if name in found:
                place.refuse(f"key {name!r} stands on line {found[name].line} already")
            found[name] = Value(node, self.file, name)
        return found

    def pairs(self) -> list[tuple["Value", "Value"]]:
        """Return the keys and values of a mapping whose keys are the user's own."""
        if not isinstance(self.node, yaml.MappingNode):
            self.refuse(f"{self.key!r} is not a mapping of key to value")
        return [
            (Value(key, self.file, self.key), Value(node, self.file, self.key))
            for key, node in self.node.value
        ]

    def items(self) -> list["Value"]:
        """Return the values of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.refuse(f"{self.key!r} is not a list")
        return [Value(node, self.file, self.key) for node in self.node.value]

    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def is_scalar(self) -> bool:
        """Whether the value is a text, number or truth value."""
        return isinstance(self.node, yaml.ScalarNode)

    def text(self) -> str:
        """Return a text that is not empty."""
        value = self.scalar()
        if not isinstance(value, str):
            self.refuse(f"{self.key!r} must be a text: put {self.node.value} in quotes")
        if not value.strip():
            self.refuse(f"{self.key!r} is empty")
        return value

    def number(self) -> float:
        """Return a number."""
        value = self.scalar()
        if isinstance(value, str | bool):
            self.refuse(f"{self.key!r} must be a number, not {value!r}")
        if abs(value) >= _BEYOND:
            self.refuse(f"{self.key!r} is out of measure")
        return float(value)

    def scalar(self) -> Scalar:
        """Return a text, number, or truth value."""
        kind = str(self.node.tag).removeprefix("tag:yaml.org,2002:")
        if not isinstance(self.node, yaml.ScalarNode) or kind not in _KINDS:
            # A date, an empty value, a list, or a tag that would build an object.
            self.refuse(f"{self.key!r} must be a text or a number: put a text in quotes")
        try:
            value: Scalar = yaml.SafeLoader("").construct_object(self.node)
        except (ValueError, KeyError, OverflowError, yaml.YAMLError):
            self.refuse(f"{self.key!r} is not {_KINDS[kind]}: {self.node.value!r}")
        return value


def read_text(path: Path) -> str:
    """Read the text of a YAML file."""
    content = read_small(path, AxisError)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AxisError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from error


def read_root(text: str, path: Path) -> Value:
    """Return the root of what a YAML file says, without building any of its objects."""
    try:
        root = compose_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise AxisError(f"{path}:{line}: not YAML: {' '.join(problem.split())}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise AxisError(f"{path}:{line}: not YAML: a control character") from error
    except yaml.YAMLError as error:
        raise AxisError(f"{path}: not YAML: {error}") from error
    if root is None:
        raise AxisError(f"{path} is empty: an axis needs a name and sources.")
    return Value(root, path, "the file")
