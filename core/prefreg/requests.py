"""Requests: dataclasses that say what is asked of a run, made of keywords, described by fields."""

import ast
import difflib
import inspect
import re
import textwrap
from dataclasses import Field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from prefreg.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Asked = TypeVar("Asked", bound=DataclassInstance)
else:
    Asked = TypeVar("Asked")


def make_request(kind: "type[Asked]", given: object = None, /, **options: object) -> "Asked":
    """Return a request of a kind: the one given with the options over it, or one made of them.

    `given` may be what the first field of the request is. Text becomes a path where a field is one.
    """
    known = fields(kind)
    values: dict[str, Any] = {}
    for name, value in options.items():
        field = _find(kind, known, name)
        is_path = Path in (field.type, *get_args(field.type))
        values[name] = Path(value) if is_path and isinstance(value, str) else value
    if isinstance(given, kind):
        return replace(given, **values)
    return kind(**values) if given is None else kind(**{known[0].name: given}, **values)


def take_options(kind: "type[DataclassInstance]", options: dict[str, object]) -> dict[str, object]:
    """Take those options that are fields of a request out of the others."""
    names = [field.name for field in fields(kind)]
    return {name: options.pop(name) for name in names if name in options}


def describe_fields(kind: "type[DataclassInstance]") -> dict[str, str]:
    """Return what is written beneath each field of a request; nothing where there is no source."""
    try:
        source = inspect.getsource(kind)
    except OSError:
        return {}
    body = ast.parse(textwrap.dedent(source)).body[0]
    texts = {}
    for statement, below in pairwise(ast.iter_child_nodes(body)):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                texts[name] = re.sub(r"\s*\n\s*", " ", text)
    return texts


def _find(kind: type, known: "tuple[Field[Any], ...]", name: str) -> "Field[Any]":
    for field in known:
        if field.name == name:
            return field
    names = [field.name for field in known]
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(names)}."
    raise UsageError(f"{kind.__name__} has no option {name!r}. {meant}")
