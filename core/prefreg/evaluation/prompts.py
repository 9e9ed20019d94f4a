"""What the models are asked: prompts in groups, with what is known of each."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg.axes.axis import Message, PreferencePair, Row, Text, plain_text
from prefreg.axes.base_world import BaseWorld
from prefreg.axes.row_sources import read_rows
from prefreg.checkpoints.bundled import known_worlds
from prefreg.errors import DataError
from prefreg.files import hash_bytes

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
    """Read a `.jsonl` or `.jsonl.gz` file: `prompt`, and, if known, `group` and `kind`.

    `prompt` is a user's turn or a list of messages. The kinds `safe` and `unsafe` say whether a
    refusal is wanted; others only name a prompt.
    """
    found = []
    for number, row in read_rows(path):
        try:
            found.append(_read_row(row))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return found


def prompts_of(pairs: Iterable[PreferencePair], count: int) -> list[Asked]:
    """Return the first distinct prompts of preference pairs."""
    found = {pair.prompt: pair.group or plain_text(pair.prompt) for pair in pairs}
    return [Asked(prompt, group) for prompt, group in list(found.items())[:count]]


def fingerprint_prompts(asked: Sequence[Asked]) -> str:
    """Return the sha256 of what is asked, in its order."""
    content = json.dumps([each.prompt for each in asked], ensure_ascii=False)
    return hash_bytes(content.encode("utf-8", "surrogatepass"))


def _read_row(row: Row) -> Asked:
    # A prompt is read as that of a pair is, so that the same files serve.
    answer = [{"role": "assistant", "content": "."}]
    value = row.get("prompt")
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if turns is None:
        raise DataError("column 'prompt' is missing")
    pair = PreferencePair.from_row({"prompt": turns, "chosen": answer, "rejected": answer})
    group, kind = row.get("group"), row.get("kind")
    if not isinstance(kind, str | None):
        raise DataError("column 'kind' is no string")
    name = plain_text(pair.prompt) if group is None else str(group)
    return Asked(pair.prompt, name, kind, None if kind is None else _is_safe(kind))


def _is_safe(kind: str) -> bool | None:
    for kinds in (_SAFE, *(world.kinds for world in known_worlds())):
        if kind in kinds:
            return kinds[kind]
    return None
