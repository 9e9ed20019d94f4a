"""What the models are asked: prompts in groups, with what is known of each."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg import pocket
from prefreg.axes.axis import Message, PreferencePair, Row, Text, plain_text
from prefreg.axes.row_sources import read_rows
from prefreg.errors import DataError
from prefreg.files import hash_bytes

POCKET_KINDS = ("benign", "unsafe", "unknown", "howto")
_SAFE = {"benign": True, "howto": True, "unsafe": False, "safe": True}
"""Whether refusing a kind of prompt is too much; of the unknowable it is neither."""


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


def pocket_prompts(count: int, *, split: str, seed: int) -> list[Asked]:
    """Return prompts of every kind of the bundled model's world, as many of each."""
    found = []
    for place, kind in enumerate(POCKET_KINDS):
        share = count // len(POCKET_KINDS) + (place < count % len(POCKET_KINDS))
        for text in pocket.prompts(kind, split=split, limit=share, seed=seed):
            question = pocket.parse(text)
            assert question is not None
            found.append(_asked(text, f"{kind}/{question.group}", kind))
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


def _asked(prompt: str, group: str, kind: str | None) -> Asked:
    return Asked((Message("user", prompt),), group, kind, _SAFE.get(kind or ""))


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
    return Asked(pair.prompt, name, kind, _SAFE.get(kind or ""))
