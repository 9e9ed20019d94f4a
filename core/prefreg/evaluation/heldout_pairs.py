"""The held-out pairs of the axes that are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg import pocket
from prefreg.axes.axis import Axis, PreferencePair, plain_text
from prefreg.axes.isolation import label_rows
from prefreg.axes.row_sources import read_preference_file
from prefreg.checkpoints.bases import POCKET
from prefreg.data.pairs import fingerprint_pairs
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.training.axis_run import heldout_pairs, parts_of


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


def on_pocket(base: str, record: VersionRecord | None) -> bool:
    """Whether an axis is about the village: by the base, or by what its version was made of."""
    sources = [part["source"] for part in parts_of(record)] if record else []
    return base == POCKET or sources == [POCKET]


def find_pairs(
    axis: Axis, record: VersionRecord | None, base: str, request: EvaluationRequest
) -> HeldOut:
    """Find the pairs that an axis is measured on: the file given, pocket's split, or its run's."""
    files = read_data_options(request.data, (axis.name, *axis.aliases))
    if files is not None:
        pairs = [pair for _, pair in read_preference_file(files)]
        return HeldOut(tuple(pairs[: request.prompts]), files.name)
    if on_pocket(base, record):
        rows = pocket.rows(axis.name, split=request.split, seed=request.seed, limit=request.prompts)
        labelled = label_rows(axis, rows)
        distinct = {pair: None for pair in labelled if pair and pair.chosen != pair.rejected}
        return HeldOut(tuple(distinct), f"pocket, {request.split} split")
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
