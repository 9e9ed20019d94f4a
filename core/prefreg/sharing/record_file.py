"""The record of a version as a file that travels with its bytes, and how a stranger's is read."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

from prefreg.composition.resolve import CALIBRATION, EVALUATION, RANGE
from prefreg.errors import PrefregError, VectorError
from prefreg.json_values import finite, parse_json
from prefreg.registry import BaseRecord, Measurement, VersionRecord
from prefreg.registry.names import check_tags
from prefreg.registry.records import Kind, StorageDtype
from prefreg.terms import AXIS_NAME
from prefreg.wording import is_unicode

FORMAT = 1
VECTOR_FILE = "vector.safetensors"
_HEX = frozenset("0123456789abcdef")
_MOST = 2**62

_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_WORDS = (str, type(None))
_MEASURED: dict[str, dict[str, tuple[type, ...]]] = {
    RANGE: {"low": _NUMBER, "high": _NUMBER, "below.reason": _WORDS, "above.reason": _WORDS},
    CALIBRATION: {"goal": (str,), "unit": (str,), "positive.eta": _MAYBE, "negative.eta": _MAYBE},
    EVALUATION: {"eta": _NUMBER, "figures.*.value": _NUMBER},
}
"""What commands look up in measurements, by their kind: the path to it, and what it may be."""
_RECORDED: dict[str, tuple[type, ...]] = {
    "geometry.norm": _MAYBE,
    "geometry.positive_norm": _MAYBE,
    "geometry.negative_norm": _MAYBE,
    "geometry.cosine_poles": _MAYBE,
    "base.licence": (dict, type(None)),
    "data.origin": _WORDS,
    "data.renderings": (list,),
    "data.sources.*.source": (str,),
    "poles.*.report.accuracy": _NUMBER,
    "poles.*.report.mean_margin": _NUMBER,
    "training.template_options": (dict, type(None)),
}
"""The same of metadata, where any of it may be missing."""

Value = TypeVar("Value")


def record_document(record: VersionRecord) -> dict[str, Any]:
    """Return the whole record for others, without the folders of this machine."""
    content = record.to_json() | {"aliases": [], "inline": False, "starter": False}
    content["base"] |= {"name": public_name(record.base.name), "path": None}
    whole: dict[str, Any] = finite(_without_folders(content))
    return {"prefreg": "vector", "format": FORMAT, **whole}


def record_file(record: VersionRecord) -> bytes:
    """Return the record as the bytes of its file; equal records give equal bytes."""
    text = json.dumps(record_document(record), indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def public_name(name: str) -> str:
    """Name a base; of one that is a folder, without the path to it."""
    return Path(name).name if Path(name).is_absolute() else name


def read_record(data: bytes, place: str) -> VersionRecord:
    """Read a record that somebody else wrote; `place` is where it is from, for messages.

    Raises:
        VectorError: It is no record of prefreg, of a newer format, or damaged.
    """
    try:
        content = finite(parse_json(data.decode("utf-8")))
        readable = is_unicode(json.dumps(content, ensure_ascii=False))
    except (ValueError, RecursionError):
        readable = False
    if not readable or not isinstance(content, dict) or content.get("prefreg") != "vector":
        raise VectorError(f"{place} is no record of a vector of prefreg.")
    written = content.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise VectorError(
            f"{place} is of format {written}, and this prefreg knows formats up to {FORMAT}. "
            "Upgrade prefreg."
        )
    try:
        return _read(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, PrefregError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise VectorError(f"{place} is damaged: {why}.") from error


def _read(content: Mapping[str, Any]) -> VersionRecord:
    base = content["base"]
    axes = [content["axis"], *_of(content, "axis_aliases", list)]
    if not all(isinstance(name, str) and AXIS_NAME.fullmatch(name) for name in axes):
        raise VectorError("a name of its axis is none")
    created = _moment(content["created"])
    for path, kinds in _RECORDED.items():
        _check(content["metadata"], path, kinds, optional=True, at="metadata")
    for each in _of(content, "measurements", list):
        for path, kinds in _MEASURED.get(each["kind"], {}).items():
            _check(each["value"], path, kinds, at=each["kind"])
    return VersionRecord(
        axis=content["axis"],
        number=_whole(content, "version", low=1),
        axis_aliases=tuple(axes[1:]),
        aliases=(),
        kind=_one_of(content, "kind", get_args(Kind)),
        dtype=_one_of(content, "dtype", get_args(StorageDtype)),
        sha256=_digest(content, "sha256"),
        size=_whole(content, "size", low=1),
        base=BaseRecord(
            name=_of(base, "name", str),
            revision=_of(base, "revision", str, type(None)),
            path=None,
            weights=_digest(base, "weights"),
            tokenizer=_of(base, "tokenizer", str, type(None)),
            template=_of(base, "template", str, type(None)),
            parameters=_whole(base, "parameters"),
            dtype=_of(base, "dtype", str),
            created=created,
        ),
        note=_of(content, "note", str, type(None)),
        created=created,
        tags=check_tags(_of(content, "tags", list)),
        metadata=_of(content, "metadata", dict),
        measurements=tuple(
            Measurement(
                _of(each, "kind", str),
                each["value"],
                _of(each, "protocol", str),
                _moment(each["created"]),
            )
            for each in _of(content, "measurements", list)
        ),
    )


def _of(content: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = content[name]
    if not isinstance(value, kinds):
        raise VectorError(f"{name!r} is of another kind")
    return value


def _check(
    value: Any, path: str, kinds: tuple[type, ...], *, at: str, optional: bool = False
) -> None:
    """Require what stands at a path of names, of which `*` means every one."""
    if not path:
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise VectorError(f"{at!r} is of another kind")
        return
    name, _, rest = path.partition(".")
    if name == "*" and isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        raise VectorError(f"{at!r} is of another kind")
    if name != "*" and name not in value and not optional:
        raise VectorError(f"it has no {name!r}")
    for each in value if name == "*" else [name] if name in value else []:
        _check(value[each], rest, kinds, optional=optional, at=f"{at}.{each}")


def _whole(content: Mapping[str, Any], name: str, *, low: int = 0) -> int:
    value = content[name]
    if type(value) is not int or not low <= value <= _MOST:
        raise VectorError(f"{name!r} is out of measure")
    return value


def _one_of(content: Mapping[str, Any], name: str, known: tuple[Value, ...]) -> Value:
    if content[name] not in known:
        raise VectorError(f"{name!r} is {content[name]!r}, which is not known")
    found: Value = content[name]
    return found


def _digest(content: Mapping[str, Any], name: str) -> str:
    value: str = _of(content, name, str)
    if len(value) != 64 or not set(value) <= _HEX:
        raise VectorError(f"{name!r} is no sha256")
    return value


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _without_folders(value: Any) -> Any:
    """Leave out under `path` where files lay on this machine, which is nobody else's business."""
    if isinstance(value, Mapping):
        return {
            name: Path(each).name if name == "path" and isinstance(each, str) else each
            for name, each in ((name, _without_folders(each)) for name, each in value.items())
        }
    return [_without_folders(each) for each in value] if isinstance(value, list) else value
