"""The held-out pairs of the axes that are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg.axes.axis import Axis, PreferencePair, plain_text
from prefreg.axes.base_world import BaseWorld
from prefreg.axes.row_sources import read_preference_file
from prefreg.checkpoints.bundled import world_named, world_of
from prefreg.data.pairs import fingerprint_pairs, label_rows
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.training.earlier import heldout_pairs, parts_of


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pairs that no training of the axis has seen, or shall not have."""

    pairs: tuple[PreferencePair, ...]
    source: str

    @property
    def groups(self) -> list[str]:
        """Return the group of each pair."""
        return [pair.group or plain_text(pair.prompt) for pair in self.pairs]

    @property
    def fingerprint(self) -> str:
        """Return the hash of the pairs, whatever their order."""
        return fingerprint_pairs(self.pairs)


def find_world(base: str, record: VersionRecord | None) -> BaseWorld | None:
    """Find the world that an axis is about: the base's, or what its version was made of."""
    sources = [part["source"] for part in parts_of(record)] if record else []
    return world_of(base) or (world_named(sources[0]) if len(sources) == 1 else None)


def find_pairs(
    axis: Axis, record: VersionRecord | None, base: str, request: EvaluationRequest
) -> HeldOut:
    """Find the pairs that an axis is measured on: of the file given, its world, or its run."""
    files = read_data_options(request.data, (axis.name, *axis.aliases))
    if files is not None:
        pairs = [pair for _, pair in read_preference_file(files)]
        return HeldOut(tuple(pairs[: request.prompts]), files.name)
    world = find_world(base, record)
    if world is not None:
        rows = world.rows(axis.name, split=request.split, seed=request.seed, limit=request.prompts)
        labelled = label_rows(axis, rows)
        distinct = {pair: None for pair in labelled if pair and pair.chosen != pair.rejected}
        return HeldOut(tuple(distinct), f"{world.name}, {request.split} split")
    if record is None:
        raise DataError("no version of it is among the terms: give its pairs with --data")
    return HeldOut(heldout_pairs(record, axis)[: request.prompts], f"held out of {record}")


def read_data_options(texts: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the file that `--data` gives an axis, by its name or for every axis."""
    plain: Path | None = None
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and name in names:
            return Path(file)
        if not equals or Path(text).exists():
            plain = Path(text)
    return plain


def check_data_options(texts: Sequence[str], axes: Mapping[str, Axis]) -> None:
    """Refuse a `--data` that names no axis that is scored, or one file for several axes."""
    known = {name for axis in axes.values() for name in (axis.name, *axis.aliases)}
    for text in texts:
        name, equals, _ = text.partition("=")
        if equals and not Path(text).exists() and name not in known:
            raise UsageError(
                f"--data {text!r} names {name!r}, which is not scored; scored are "
                f"{', '.join(axes) or 'no axes'}."
            )
        if not equals and len(axes) > 1:
            raise UsageError(
                f"--data {text!r} cannot be the pairs of {len(axes)} axes: write AXIS=FILE."
            )
