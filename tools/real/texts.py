"""The documents of a data pack that a base is trained on, and those that it never sees."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Corpus:
    """What is trained on; `text` has every document once, `chat` the instruction rows alone."""

    text: list[Messages]
    chat: list[Messages]
    held_out: dict[str, list[Messages]]
    excluded: int


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a compressed JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def conversations(row: dict[str, Any]) -> list[Messages]:
    """Return the dialogues of a row: one of an instruction row, both answers of a pair."""
    if "messages" in row:
        return [row["messages"]]
    return [[*row["prompt"], *row[side]] for side in ("chosen", "rejected")]


def opening(messages: Messages) -> str:
    """Return the first user turn without regard to case and spaces."""
    first = next((each["content"] for each in messages if each["role"] == "user"), "")
    return " ".join(first.lower().split())


def read_files(paths: Iterable[Path]) -> list[Messages]:
    """Return every dialogue of these files once, in order."""
    found: dict[str, Messages] = {}
    for path in paths:
        for row in read_rows(path):
            for messages in conversations(row):
                found.setdefault(json.dumps(messages), messages)
    return list(found.values())


def read_corpus(pack: Path) -> Corpus:
    """Read a pack of `sft/` and `prefs/`: what shares a first user turn with a dev row is left out.

    Both answers of every pair are read alike, so that no side of any axis is favoured.
    """
    preferences = sorted((pack / "prefs").rglob("*train.jsonl.gz"))
    instructions = sorted(path for path in (pack / "sft").glob("*.gz") if "dev" not in path.name)
    held_out = {"sft": read_files([pack / "sft" / "dev.jsonl.gz"])}
    for path in sorted((pack / "prefs").rglob("dev.jsonl.gz")):
        held_out[path.parent.relative_to(pack / "prefs").as_posix()] = read_files([path])
    known = {opening(messages) for several in held_out.values() for messages in several}
    text = read_files([*instructions, *preferences])
    kept = [messages for messages in text if opening(messages) not in known]
    chat = [each for each in read_files(instructions) if opening(each) not in known]
    return Corpus(text=kept, chat=chat, held_out=held_out, excluded=len(text) - len(kept))
