"""YAML as people write settings in it: without tags, with bounds on its depth and its size."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from prefreg.errors import UsageError

DEEPEST = 100
"""Levels of nesting in a file that a person wrote."""
MOST_VALUES = 100_000
"""Values in such a file, with every alias counted as often as it is used."""


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


def read_assignments(assignments: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of texts KEY=VALUE, each a YAML text; a mapping is taken as it is.

    Raises:
        UsageError: A text is no such assignment, or its value no YAML.
    """
    if isinstance(assignments, Mapping):
        return dict(assignments)
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{text!r} is not KEY=VALUE, as in max_steps=100.")
        try:
            values[name.strip()] = load_yaml(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"The value of {text!r} is not YAML: {reason}.") from error
    return values


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
