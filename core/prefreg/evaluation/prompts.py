"""What the models are asked: prompts in groups, and the held-out pairs of the axes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefreg.axes.axis import Axis, Message, PreferencePair, Row, Text, merge_options, plain_text
from prefreg.axes.base_world import BaseWorld
from prefreg.axes.isolation import label_rows
from prefreg.axes.row_sources import read_preference_file, read_rows
from prefreg.checkpoints import BaseModel
from prefreg.checkpoints.bundled import known_worlds, world_named, world_of
from prefreg.composition.resolve import trained_options
from prefreg.data.pairs import fingerprint_pairs
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.files import hash_bytes
from prefreg.registry import VersionRecord
from prefreg.training.heldout import heldout_pairs, parts_of

_SAFE = {"safe": True, "unsafe": False}
"""Whether a kind of prompt may be answered; of the kinds of a world, it says so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt."""

    prompt: Text
    group: str
    """Prompts of one group are drawn together: they ask the same."""
    kind: str | None = None
    safe: bool | None = None
    """Whether it may be answered; None where nobody said."""
    told: tuple[str, str] = ("", "")
    """What the chat template is told beside it, as `PreferencePair.told`."""

    @property
    def text(self) -> str:
        """Return the prompt as metrics get it."""
        return plain_text(self.prompt)


def world_prompts(world: BaseWorld, count: int, *, split: str, seed: int) -> list[Asked]:
    """Return prompts of every kind of a world, as many of each."""
    found = []
    for place, (kind, safe) in enumerate(world.kinds.items()):
        share = count // len(world.kinds) + (place < count % len(world.kinds))
        for text in world.prompts(kind, split=split, limit=share, seed=seed):
            known = world.recognise(text)
            assert known is not None
            prompt = (Message("user", text),)
            found.append(Asked(prompt, f"{kind}/{known.group}", kind, safe))
    return found


def read_prompts(path: Path) -> list[Asked]:
    """Read a file of rows: `prompt`, and, if known, `group` and `kind`.

    `prompt` is a user's turn or a list of messages. The kinds `safe` and `unsafe` say whether a
    refusal is wanted; others only name a prompt.
    """
    found = []
    for number, row in read_rows(path):
        try:
            found.append(read_asked(row))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return found


def _tell(asked: Iterable[Asked], options: Mapping[str, Any]) -> list[Asked]:
    """Tell the chat template these options too, beneath each prompt's own."""
    found = []
    for each in asked:
        tools, own = each.told
        told = each.told if isinstance(each.prompt, str) else (tools, merge_options(options, own))
        found.append(replace(each, told=told))
    return found


def prompts_of(pairs: Iterable[PreferencePair], count: int) -> list[Asked]:
    """Return the first distinct prompts of preference pairs."""
    found = {(pair.prompt, pair.told): pair.group or plain_text(pair.prompt) for pair in pairs}
    return [
        Asked(prompt, group, told=told) for (prompt, told), group in list(found.items())[:count]
    ]


def fingerprint_prompts(asked: Sequence[Asked]) -> str:
    """Return the sha256 of what is asked, in its order."""
    content = json.dumps(
        [[each.prompt, *each.told] if any(each.told) else each.prompt for each in asked],
        ensure_ascii=False,
    )
    return hash_bytes(content.encode("utf-8", "surrogatepass"))


def read_asked(row: Row) -> Asked:
    """Read what a row asks: its prompt is a user's turn or a list of messages."""
    # A prompt is read as that of a pair is, so that the same files serve.
    answer = [{"role": "assistant", "content": "."}]
    value = row.get("prompt")
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if turns is None:
        raise DataError("column 'prompt' is missing")
    told = {name: row.get(name) for name in ("tools", "chat_template_kwargs")}
    pair = PreferencePair.from_row(told | {"prompt": turns, "chosen": answer, "rejected": answer})
    group, kind = row.get("group"), row.get("kind")
    if not isinstance(kind, str | None):
        raise DataError("column 'kind' is no string")
    name = plain_text(pair.prompt) if group is None else str(group)
    safe = None if kind is None else _is_safe(kind)
    return Asked(pair.prompt, name, kind, safe, pair.told)


def _is_safe(kind: str) -> bool | None:
    for kinds in (_SAFE, *(world.kinds for world in known_worlds())):
        if kind in kinds:
            return kinds[kind]
    return None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pairs that no training of the axis has seen, or shall not have."""

    pairs: tuple[PreferencePair, ...]
    source: str
    max_length: int | None = None
    """Tokens at which a training cut them; else pairs that do not fit the context are left out."""

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


def find_heldout(
    axes: Mapping[str, Axis],
    records: Mapping[str, VersionRecord],
    base: str,
    request: EvaluationRequest,
    missing: dict[str, str],
) -> dict[str, HeldOut]:
    """Find the held-out pairs of axes; figures that cannot be had are noted as missing."""
    _check_data_options(request.data, axes)
    found = {}
    for name, axis in axes.items():
        try:
            found[name] = find_pairs(axis, records.get(name), base, request)
        except DataError as error:
            if _read_data_options(request.data, (name, *axis.aliases)) is not None:
                raise
            why = f"{str(error).rstrip('.')}; give pairs with --data {name}=FILE"
            missing[f"{name}.margin"] = missing[f"{name}.accuracy"] = why
    return found


def find_pairs(
    axis: Axis, record: VersionRecord | None, base: str, request: EvaluationRequest
) -> HeldOut:
    """Find the pairs that an axis is measured on: of the file given, its world, or its run."""
    options = request.asked_options
    if options is None:
        options = record.template_options or {} if record else {}
    files = _read_data_options(request.data, (axis.name, *axis.aliases))
    if files is not None:
        pairs = [pair.tell(options) for _, pair in read_preference_file(files)]
        return HeldOut(tuple(pairs[: request.prompts]), files.name)
    sources = [part["source"] for part in parts_of(record)] if record else []
    world = None
    if not sources:
        world = world_of(base)
    elif len(sources) == 1 and sources[0] in axis.sources:
        world = world_named(sources[0])
    if world is not None and (found := _world_pairs(world, axis, request)) is not None:
        return found
    if record is None:
        raise DataError("no version of it is on this base")
    return HeldOut(heldout_pairs(record, options)[: request.prompts], f"held out of {record}")


def _world_pairs(world: BaseWorld, axis: Axis, request: EvaluationRequest) -> HeldOut | None:
    """Return pairs of a split that no run has seen; None if the world has none of the axis."""
    try:
        rows = list(
            world.rows(axis.name, split=request.split, seed=request.seed, limit=request.prompts)
        )
    except DataError:
        return None
    labelled = label_rows(axis, rows)
    distinct = {pair: None for pair in labelled if pair and pair.chosen != pair.rejected}
    return HeldOut(tuple(distinct), f"{world.name}, {request.split} split")


def find_prompts(
    request: EvaluationRequest,
    base: BaseModel,
    records: Mapping[str, VersionRecord],
    pairs: Mapping[str, HeldOut],
    missing: Mapping[str, str],
) -> list[Asked]:
    """Find what is asked: the prompts of the file given, of the world, or of the pairs."""
    wanted = request.asked_options
    if request.prompts_file is not None:
        asked = read_prompts(request.prompts_file)[: request.prompts]
        return _tell(asked, trained_options(records.values()) if wanted is None else wanted)
    worlds = {find_world(base.name, record) for record in records.values()} or {base.world}
    if len(worlds) == 1 and (world := worlds.pop()) is not None:
        asked = world_prompts(world, request.prompts, split=request.split, seed=request.seed)
        return _tell(asked, trained_options(records.values()) if wanted is None else wanted)
    share = max(1, request.prompts // max(1, len(pairs)))
    found = [asked for held in pairs.values() for asked in prompts_of(held.pairs, share)]
    if not found:
        reasons = [
            f" {name.removesuffix('.margin')}: {why}."
            for name, why in missing.items()
            if name.endswith(".margin")
        ]
        raise DataError(
            f"There is nothing to ask: no held-out pairs could be read.{''.join(reasons)} Prompts "
            "can be given by --prompts-file FILE."
        )
    return found


def _read_data_options(texts: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the file that `--data` gives an axis, by its name or for every axis."""
    plain: Path | None = None
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and name in names:
            return Path(file)
        if not equals or Path(text).exists():
            plain = Path(text)
    return plain


def _check_data_options(texts: Sequence[str], axes: Mapping[str, Axis]) -> None:
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
