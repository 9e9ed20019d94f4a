"""What a YAML axis says of metrics, and of sources that ask the base."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from prefreg.axes.asking_sources import (
    EVERYDAY,
    ContrastSource,
    OnPolicySource,
    Prefix,
    RankedSource,
)
from prefreg.axes.axis import (
    Message,
    Metric,
    PreferencePair,
    Row,
    Source,
    SourceRequest,
    SourceRows,
)
from prefreg.axes.expressions import BadExpressionError, parse_expression
from prefreg.axes.isolation import label_rows, measure, read_source
from prefreg.axes.row_sources import ROW_FILES, forbids_commercial_use, is_row_file
from prefreg.axes.yaml_lines import Value
from prefreg.errors import AxisError
from prefreg.terms import AXIS_NAME

_WHOLE = ("n", "count", "max_new_tokens", "seed")
_NUMBERS = (*_WHOLE, "temperature", "top_p", "min_gap")
_DRAWN = ("keep", "count", "max_new_tokens", "temperature", "top_p", "seed")
_KEYS = {
    "contrast": ("positive", "negative", "prompts", "n", *_DRAWN),
    "sample": ("by", "min_gap", "system", "prompts", "n", *_DRAWN),
    "on_policy": ("side", "system", *_DRAWN),
}
_MEASURES = ("words", "chars")
_S = TypeVar("_S", ContrastSource, RankedSource, OnPolicySource)


def read_metric(value: Value) -> Metric:
    """Read a metric: `words`, `chars`, the name of an installed axis, or an expression."""
    text = value.text()
    if AXIS_NAME.fullmatch(text) and text not in _MEASURES:
        return _metric_of(value, text)
    try:
        wanted = f"{text}(answer)" if text in _MEASURES else text
        expression = parse_expression(wanted, ("prompt", "answer"), "number")
    except BadExpressionError as error:
        value.refuse(f"{value.key!r} is {text!r:.80}: {error}")
    return lambda prompt, answer: expression({"prompt": prompt, "answer": answer})


def _metric_of(value: Value, name: str) -> Metric:
    """Take the metric of an installed axis, which is looked for when it is first asked."""

    @cache
    def find() -> Any:
        # Plugins are loaded by a module that reads YAML axes itself.
        from prefreg.axes.plugins import load_axes

        try:
            axis = load_axes().find(name).axis
        except AxisError as error:
            value.refuse(f"{value.key!r} is {name!r}: {error}")
        if axis.metric is None:
            value.refuse(f"{value.key!r} is {name!r}: this axis has no metric")
        return axis

    return lambda prompt, answer: measure(find(), prompt, answer)


@dataclass(frozen=True, slots=True)
class AskingReader:
    """Reads the keys of sources that ask the base."""

    folder: Path
    """Where files of prompts lie."""
    metric: Metric | None
    """That of the axis."""

    def contrast(self, value: Value, licence: str | None) -> ContrastSource:
        """Read `contrast`."""
        fields = self._fields(value, "positive", "negative")
        given = {name: _prefix(fields[name]) for name in ("positive", "negative")}
        return self._make(ContrastSource, value, fields, licence, **given)

    def sample(self, value: Value, licence: str | None) -> RankedSource:
        """Read `sample`."""
        fields = self._fields(value)
        by = read_metric(fields["by"]) if "by" in fields else self.metric
        if by is None:
            value.refuse("'sample' needs 'by', or the axis a 'metric', which ranks the answers")
        system = _texts(fields["system"]) if "system" in fields else ()
        return self._make(RankedSource, value, fields, licence, by=by, system=system)

    def on_policy(self, value: Value, source: Source, *, verbatim: bool) -> OnPolicySource:
        """Read `on_policy` of a source of rows."""
        fields = {"side": value} if value.is_scalar() else self._fields(value, "side")
        more: dict[str, Any] = {"source": source, "side": fields["side"].text()}
        if "system" in fields:
            more["system"] = fields["system"].text()
        return self._make(OnPolicySource, value, fields, None, verbatim=verbatim, **more)

    @staticmethod
    def _fields(value: Value, *required: str) -> dict[str, Value]:
        fields = value.mapping(_KEYS[value.key])
        for name in required:
            if name not in fields:
                value.refuse(f"{value.key!r} needs the key {name!r}")
        return fields

    def _make(
        self,
        kind: type[_S],
        value: Value,
        fields: Mapping[str, Value],
        licence: str | None,
        **given: Any,
    ) -> _S:
        given |= {name: _number(fields[name]) for name in _NUMBERS if name in fields}
        if "keep" in fields:
            given["keep"] = fields["keep"].text()
        if "prompts" in fields:
            given["prompts"] = self._prompts(fields["prompts"], licence)
        try:
            return kind(metric=self.metric, **given)
        except AxisError as error:
            # The message begins with the key that it is about.
            named = re.match(r"\W?(\w+)", str(error))
            fields.get(named[1] if named else "", value).refuse(str(error).rstrip("."))

    def _prompts(self, value: Value, licence: str | None) -> Any:
        if value.is_list():
            return _texts(value)
        text = value.text()
        if text == EVERYDAY:
            return text
        name, colon, source = text.partition(":")
        if colon and AXIS_NAME.fullmatch(name):
            return _prompts_of(value, name, source, licence)
        path = self.folder / text
        if not is_row_file(path) and path.suffix != ".txt":
            value.refuse(
                f"'prompts' is {text!r}, and must be {EVERYDAY!r}, AXIS:SOURCE, a list of texts, "
                f"or a file whose name ends in .txt, {', '.join(ROW_FILES)}"
            )
        if not path.is_file():
            value.refuse(f"there is no file {path}")
        return path


def _number(value: Value) -> float:
    number = value.number()
    if value.key not in _WHOLE:
        return number
    if not number.is_integer():
        value.refuse(f"{value.key!r} must be a whole number, not {number}")
    return int(number)


def _texts(value: Value) -> tuple[str, ...]:
    texts = tuple(item.text() for item in value.items()) if value.is_list() else (value.text(),)
    if not texts:
        value.refuse(f"{value.key!r} is an empty list")
    return texts


def _prefix(value: Value) -> Prefix:
    if not value.is_list():
        return value.text()
    turns = []
    for item in value.items():
        fields = item.mapping(("role", "content"))
        if len(fields) < 2:
            item.refuse("a message needs 'role' and 'content'")
        turns.append(Message(fields["role"].text(), fields["content"].text()))
    if not turns:
        value.refuse(f"{value.key!r} is an empty list")
    return tuple(turns)


def _prompts_of(value: Value, name: str, source: str, licence: str | None) -> Source:
    """Take the prompts of a source of an installed axis, under its licence."""

    def load(request: SourceRequest) -> SourceRows:
        from prefreg.axes.plugins import load_axes

        try:
            axis = load_axes().find(name).axis
        except AxisError as error:
            value.refuse(f"'prompts': {error}")
        if source not in axis.sources:
            value.refuse(f"the axis {name!r} has no source {source!r}: {', '.join(axis.sources)}")
        of_data = axis.licence_of(source) or ""
        if forbids_commercial_use(of_data) and not forbids_commercial_use(licence or ""):
            value.refuse(f"{name}:{source} is under {of_data}: say so by 'licence: {of_data}'")
        found = read_source(axis, source, request)
        pairs = filter(None, label_rows(axis, found.rows))
        return SourceRows(map(_prompt_row, pairs), f"{name}:{source}", found.revision)

    return load


def _prompt_row(pair: PreferencePair) -> Row:
    answers = ("chosen", "rejected")
    return {name: text for name, text in pair.to_row().items() if name not in answers}
