"""Expressions over the answers of a base, as `words(chosen) > 1.5 * words(rejected)`.

They are parsed, never run as Python: a few names, functions and signs, within bounds.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefreg.axes.answer_texts import repetition, sounds_refusing, word_count
from prefreg.axes.axis import Metric
from prefreg.errors import DataError

LONGEST = 500
"""Characters of an expression."""
DEEPEST_EXPRESSION = 40
"""Levels of its tree."""

Kind = Literal["number", "truth"]
_SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OF_TEXT: dict[str, Callable[[str], float]] = {
    "words": lambda text: float(word_count(text)),
    "chars": lambda text: float(len(text)),
    "repetition": lambda text: repetition(text.split()),
    "refuses": lambda text: float(sounds_refusing(text)),
}
_OF_PART: dict[str, tuple[Kind, Callable[[str, str], float]]] = {
    "contains": ("truth", lambda text, part: part in text),
    "count": ("number", lambda text, part: float(text.count(part))),
}
FUNCTIONS = (*_OF_TEXT, *_OF_PART, "metric", "abs")


class BadExpressionError(ValueError):
    """An expression that is none; the message says why."""


class _NotJudgedError(Exception):
    """The metric says nothing of an answer."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What an expression is about: the texts by their names, and the metric."""

    texts: Mapping[str, str]
    metric: Metric | None


_Run = Callable[[_Scope], Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: a number or a truth value of named texts."""

    text: str
    kind: Kind
    names: frozenset[str]
    """The texts that it looks at."""
    asks_metric: bool
    _run: _Run

    def __str__(self) -> str:
        return self.text

    def __call__(self, texts: Mapping[str, str], metric: Metric | None = None) -> float | None:
        """Return its number, or 1 and 0 for yes and no; None where the metric judges not.

        Raises:
            DataError: It divides by zero, or its number is not finite.
        """
        try:
            found = float(self._run(_Scope(texts, metric)))
        except _NotJudgedError:
            return None
        except ZeroDivisionError:
            found = math.nan
        if not math.isfinite(found):
            said = next((text for name, text in texts.items() if name in self.names), "")
            raise DataError(f"{self.text!r} is no finite number for the text {said[:60]!r}")
        return found


def parse_expression(
    text: str, names: Collection[str], kind: Kind, *, metric: bool = False
) -> Expression:
    """Parse an expression of a kind over texts that have these names.

    `metric` says whether there is one that it may ask.

    Raises:
        BadExpressionError: It is malformed, of the other kind, or looks at no text.
    """
    if len(text) > LONGEST:
        raise BadExpressionError(f"it has more than {LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, of odd escapes in texts
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise BadExpressionError(f"it is malformed{where} ({error.msg})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadExpressionError("it is malformed, or nested too deeply") from error
    reader = _Parser(tuple(names), metric)
    found, run = reader.read(tree)
    if found != kind:
        wanted = "a number" if kind == "number" else "a comparison, which is true or not"
        raise BadExpressionError(f"it is {_name(found)}, not {wanted}")
    about = frozenset(reader.seen) - {"prompt"}
    if not about:
        raise BadExpressionError("it looks at no answer, and so says the same of every one")
    return Expression(text, kind, frozenset(reader.seen), reader.asked, run)


def _name(kind: Kind) -> str:
    return "a number" if kind == "number" else "true or false"


class _Parser:
    """Makes functions of a tree; what is not listed here is refused."""

    def __init__(self, names: tuple[str, ...], metric: bool) -> None:
        self.names = names
        self.metric = metric
        self.seen: set[str] = set()
        self.asked = False
        self._depth = 0

    def read(self, node: ast.expr) -> tuple[Kind, _Run]:
        self._depth += 1
        if self._depth > DEEPEST_EXPRESSION:
            raise BadExpressionError(f"it is nested more than {DEEPEST_EXPRESSION} levels deep")
        found = self._read(node)
        self._depth -= 1
        return found

    def _read(self, node: ast.expr) -> tuple[Kind, _Run]:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return "number", self._constant(value)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
                sign, one, two = _SIGNS[type(op)], self._number(left), self._number(right)
                return "number", lambda scope: sign(one(scope), two(scope))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                one = self._number(operand)
                return "number", lambda scope: -one(scope)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                one = self._truth(operand)
                return "truth", lambda scope: not one(scope)
            case ast.BoolOp(op=op, values=values):
                parts = [self._truth(value) for value in values]
                joined = all if isinstance(op, ast.And) else any
                return "truth", lambda scope: joined(part(scope) for part in parts)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return "truth", self._comparison([left, *others], ops)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
            case ast.Name(id=name) if name in self.names:
                raise BadExpressionError(f"{name!r} is a text: compare words({name}) or the like")
            case ast.Name(id=name):
                raise BadExpressionError(f"there is no {name!r} ({self._known()})")
        raise BadExpressionError(f"{ast.unparse(node)[:60]!r} is not taken ({self._known()})")

    def _known(self) -> str:
        return (
            f"there are the texts {', '.join(self.names)}, the functions {', '.join(FUNCTIONS)}, "
            "numbers, + - * /, comparisons, and, or, not"
        )

    @staticmethod
    def _constant(value: float) -> _Run:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadExpressionError("a number is out of measure")
        return lambda scope: number

    def _number(self, node: ast.expr) -> _Run:
        return self._of("number", node)

    def _truth(self, node: ast.expr) -> _Run:
        return self._of("truth", node)

    def _of(self, kind: Kind, node: ast.expr) -> _Run:
        found, run = self.read(node)
        if found != kind:
            raise BadExpressionError(
                f"{ast.unparse(node)[:60]!r} is {_name(found)}, where {_name(kind)} is needed"
            )
        return run

    def _comparison(self, nodes: list[ast.expr], ops: list[ast.cmpop]) -> _Run:
        for op in ops:
            if type(op) not in _COMPARISONS:
                raise BadExpressionError("only numbers are compared, with < <= > >= == !=")
        parts = [self._number(node) for node in nodes]
        signs = [_COMPARISONS[type(op)] for op in ops]

        def run(scope: _Scope) -> bool:
            values = [part(scope) for part in parts]
            pairs = zip(signs, values, values[1:], strict=False)
            return all(sign(one, two) for sign, one, two in pairs)

        return run

    def _call(self, name: str, arguments: list[ast.expr]) -> tuple[Kind, _Run]:
        if name not in FUNCTIONS:
            raise BadExpressionError(f"there is no function {name!r} ({self._known()})")
        if len(arguments) != (2 if name in _OF_PART else 1):
            wanted = f"{name}(TEXT, 'part')" if name in _OF_PART else f"{name}(…) of one thing"
            raise BadExpressionError(f"write {wanted}")
        if name == "abs":
            inner = self._number(arguments[0])
            return "number", lambda scope: abs(inner(scope))
        text = self._text(name, arguments[0])
        if name in _OF_TEXT:
            measure = _OF_TEXT[name]
            return "number", lambda scope: measure(scope.texts[text])
        if name in _OF_PART:
            return self._part(name, text, arguments[1])
        if not self.metric:
            raise BadExpressionError("metric() needs a metric: give the axis one by 'metric'")
        self.asked = True
        return "number", lambda scope: _ask(scope, text)

    def _text(self, function: str, node: ast.expr) -> str:
        if not isinstance(node, ast.Name) or node.id not in self.names:
            raise BadExpressionError(f"{function}() is of {' or '.join(self.names)}")
        self.seen.add(node.id)
        return node.id

    def _part(self, name: str, text: str, node: ast.expr) -> tuple[Kind, _Run]:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not node.value:
            raise BadExpressionError(f"{name}() looks for a text in quotes, as in 'hello'")
        part = node.value.casefold()
        kind, look = _OF_PART[name]
        return kind, lambda scope: look(scope.texts[text].casefold(), part)


def _ask(scope: _Scope, text: str) -> float:
    assert scope.metric is not None
    value = scope.metric(scope.texts["prompt"], scope.texts[text])
    if value is None:
        raise _NotJudgedError
    return value
